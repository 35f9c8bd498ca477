"""How long a folder takes to become a dataset, step by step, and the encoder beside the library's own.

Run `python bench/prepare.py`, or with `--json` for one object. See docs/design/intake.md, "Measured".
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import sysconfig
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from stoker.core.clock import SystemClock
from stoker.core.progress import SILENT
from stoker.intake.building import TOKENIZER_ARTEFACT
from stoker.intake.dataset_writer import ARTEFACT_SCHEMA, dataset_prefix
from stoker.intake.importing import import_source
from stoker.intake.prepare import PrepareReport, prepare_dataset
from stoker.intake.review import decide_review, request_review
from stoker.intake.scan_report import scan_and_seal
from stoker.intake.tokenizer import WordEncoder, load_tokenizer
from stoker.keys.backend import KeyBackend
from stoker.keys.identities import create_identity
from stoker.keys.open import open_backend
from stoker.keys.partition import BackendKeySource
from stoker.ledger.ledger import Ledger
from stoker.ledger.records import DatasetRecord, Role
from stoker.spec.recipe import ImportSpec, RecipeSpec
from stoker.store.header import StreamKind
from stoker.store.manifest import Manifest
from stoker.store.objects import ObjectStore

SPEC: Final = ImportSpec(include=("*.py",), exclude=("site-packages", "*/site-packages", "*__pycache__"))
ENCODER_BYTES: Final = 2_000_000
METHOD: Final = (
    "The running Python's own standard library (*.py without site-packages) on the embedded default, once a "
    "round in a fresh home, by the wall clock: import, scan with two processes, prepare with two, prepare "
    "again (found). Then the encoder of preparation and tokenizers' encode on the same first 2 MB, in turn, "
    "by the thread's processor time, with TOKENIZERS_PARALLELISM=false. Medians of the rounds."
)


class Home:
    """A fresh home with two identities."""

    def __init__(self, root: Path) -> None:
        self.clock = SystemClock()
        self.locks = root / "locks"
        self.backend: KeyBackend = open_backend((root / "keys").as_uri(), clock=self.clock, passphrase=None)
        self.store = ObjectStore.open((root / "store").as_uri())
        self.ledger = Ledger.open(f"sqlite:///{root}/ledger.db", root / "ledger.key", self.clock)
        for name, role in (("asker", Role.RESEARCHER), ("decider", Role.REVIEWER)):
            create_identity(
                name, role, actor=None, ledger=self.ledger, backend=self.backend, clock=self.clock
            )

    def bring(self) -> None:
        """Import the standard library."""
        import_source(
            "stdlib",
            Path(sysconfig.get_path("stdlib")),
            SPEC,
            actor="asker",
            ledger=self.ledger,
            backend=self.backend,
            store=self.store,
            progress=SILENT,
            clock=self.clock,
            locks=self.locks,
        )

    def scan(self) -> str:
        """Scan it; the report's digest."""
        source = self.ledger.catalogue.latest_source("stdlib")
        return scan_and_seal(
            source,
            actor="asker",
            ledger=self.ledger,
            backend=self.backend,
            store=self.store,
            progress=SILENT,
        ).digest

    def approve(self, scan_digest: str) -> None:
        """Request and allow its use."""
        review = request_review(
            self.ledger.catalogue.latest_source("stdlib"),
            scan_digest,
            RecipeSpec().policy,
            purpose="research",
            requested_by="asker",
            valid_s=86_400.0,
            ledger=self.ledger,
            clock=self.clock,
        )
        decide_review(
            review.id,
            approve=True,
            reason="bench",
            decided_by="decider",
            ledger=self.ledger,
            backend=self.backend,
            clock=self.clock,
        )

    def prepare(self) -> PrepareReport:
        """Prepare it, or find it."""
        return prepare_dataset(
            "stdlib",
            "stdlib",
            RecipeSpec(),
            purpose="research",
            actor="asker",
            ledger=self.ledger,
            backend=self.backend,
            store=self.store,
            progress=SILENT,
            clock=self.clock,
            locks=self.locks,
        )

    def tokenizer(self, record: DatasetRecord) -> str:
        """The tokenizer of the prepared dataset."""
        public_key = self.backend.signer("manifest").public_key
        prefix = dataset_prefix(record.name, record.version)
        manifest = Manifest.open(self.store, prefix, record.root, public_key)
        artefact = manifest.superblock.artefact(TOKENIZER_ARTEFACT)
        assert artefact is not None
        keys = BackendKeySource(self.backend)
        stream = manifest.open_stream(artefact.shard, keys, StreamKind.ARTEFACT, ARTEFACT_SCHEMA)
        return stream.read_all(1 << 26).decode()


def one_round(seconds: dict[str, list[float]]) -> tuple[PrepareReport, str]:
    """Every step once in a fresh home."""

    def timed(name: str, began: float) -> None:
        seconds.setdefault(name, []).append(time.perf_counter() - began)

    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder))
        began = time.perf_counter()
        home.bring()
        timed("import", began)
        began = time.perf_counter()
        digest = home.scan()
        timed("scan", began)
        home.approve(digest)
        began = time.perf_counter()
        report = home.prepare()
        timed("prepare", began)
        for name, spent in report.seconds.items():
            seconds.setdefault(f"prepare_{name}", []).append(spent)
        began = time.perf_counter()
        assert home.prepare().found
        timed("found_again", began)
        tokenizer_json = home.tokenizer(report.record)
        home.ledger.close()
    return report, tokenizer_json


def encoder_rates(tokenizer_json: str) -> dict[str, float]:
    """MB/s of our encoder and of the library's on the same texts; both give the same ids."""
    folder, texts, total = Path(sysconfig.get_path("stdlib")), [], 0
    for path in sorted(folder.glob("*.py")):
        if total < ENCODER_BYTES:
            texts.append(path.read_bytes().decode())
            total += path.stat().st_size
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    encoder, library = WordEncoder(tokenizer_json, 2), load_tokenizer(tokenizer_json)
    began = time.thread_time()
    ours = [encoder.encode(text) for text in texts]
    middle = time.thread_time()
    theirs = [library.encode(text, add_special_tokens=False).ids for text in texts]
    ended = time.thread_time()
    assert [len(tokens) // 2 for tokens in ours] == [len(ids) for ids in theirs]
    return {"encoder": total / (middle - began) / 1e6, "tokenizers": total / (ended - middle) / 1e6}


def measure(rounds: int) -> dict[str, Any]:
    """The benchmark's whole result."""
    seconds: dict[str, list[float]] = {}
    rates: dict[str, list[float]] = {}
    for _ in range(rounds):
        report, tokenizer_json = one_round(seconds)
        for name, value in encoder_rates(tokenizer_json).items():
            rates.setdefault(name, []).append(value)
    figures = {f"{name}_s": _figure(statistics.median(found), "s") for name, found in seconds.items()}
    whole = sum(figures[name]["value"] for name in ("import_s", "scan_s", "prepare_s"))
    figures["whole_s"] = _figure(whole, "s", 60.0, whole < 60.0)
    figures |= {name: _figure(statistics.median(found), "MB/s") for name, found in rates.items()}
    ratio = figures["encoder"]["value"] / figures["tokenizers"]["value"]
    figures["encoder_to_tokenizers"] = _figure(ratio, "ratio", 3.0, ratio >= 3.0)
    return {
        "bench": "prepare",
        "figures": figures,
        "peers": {"tokenizers": version("tokenizers")},
        "environment": {
            "python": platform.python_version(),
            "machine": platform.machine(),
            "cpus": os.cpu_count(),
            "files": sum(_count(report, split, "files") for split in ("train", "heldout")),
            "tokens": sum(_count(report, split, "tokens") for split in ("train", "heldout")),
            "rounds": rounds,
        },
        "method": METHOD,
    }


def _count(report: PrepareReport, split: str, name: str) -> int:
    figures: Any = report.record.figures
    return int(figures[split][name])


def _figure(value: float, unit: str, goal: float | None = None, holds: bool | None = None) -> dict[str, Any]:
    return {"value": round(value, 4), "unit": unit, "goal": goal, "holds": holds}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is measured")
    options = parser.parse_args()
    result = measure(options.rounds)
    if options.json:
        print(json.dumps(result))
        return 0
    for name, figure in result["figures"].items():
        goal = "" if figure["goal"] is None else f"   goal {figure['goal']}: {figure['holds']}"
        print(f"{name:28} {figure['value']:>12,.3f} {figure['unit']}{goal}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
