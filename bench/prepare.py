"""How long a folder takes to become a dataset, step by step, and the encoder beside the library's own.

Run `python bench/prepare.py`, or with `--json` for one object. See docs/design/intake.md, "Measured".
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from measuring.command import Size, run
from measuring.figures import Measured, at_least, at_most, median_of, not_measured, ratio_of, versions_of
from measuring.house import BenchHouse
from measuring.texts import copy_sources, source_files
from measuring.turns import processor_s, show_round, wall_s
from stoker.intake.building import TOKENIZER_ARTEFACT
from stoker.intake.dataset_writer import ARTEFACT_SCHEMA, dataset_prefix
from stoker.intake.prepare import PrepareReport
from stoker.intake.tokenizer import WordEncoder, load_tokenizer
from stoker.keys.partition import BackendKeySource
from stoker.ledger.records import DatasetRecord
from stoker.spec.recipe import RecipeSpec
from stoker.store.header import StreamKind
from stoker.store.manifest import Manifest

PEERS_PYTHON: Final = Path(__file__).parents[1] / ".venv-peers/bin/python"
ENCODER_MEGABYTES: Final = 2
TOKEN_BYTES: Final = 2
STEPS: Final = ("import", "scan", "prepare")
METHOD: Final = (
    "The running Python's own standard library (*.py without site-packages) on the embedded default, once a "
    "round in a fresh home, by the wall clock: import, scan with two processes, prepare with two, prepare "
    "again (found); whole is the sum of the first three. Then the encoder of preparation and tokenizers' "
    "encode on the same first 2 MB, by processor time of the one thread, with TOKENIZERS_PARALLELISM=false; "
    "both give the same ids. Then, held to one core, preparation (redacting, encoding, packing, sealing, "
    "storing; without training the tokenizer) and datatrove's DocumentTokenizer from JSON lines with the "
    "same tokenizer, in tokens a second by the wall clock. Medians and quartiles of the rounds; the ratio is "
    "taken round by round."
)
T = TypeVar("T")


class Samples(dict[str, list[float]]):
    """What each round found, by name."""

    def note(self, name: str, value: float) -> None:
        self.setdefault(name, []).append(value)

    def timed(self, name: str, work: Callable[[], T]) -> T:
        """Do `work`, note how long it took, and return its result."""
        results: list[T] = []
        self.note(name, wall_s(lambda: results.append(work())))
        return results[0]


def one_round(folder: Path, samples: Samples, tokens: Samples) -> tuple[PrepareReport, str]:
    """Every step once in a fresh home; the dataset's report and its tokenizer."""
    with tempfile.TemporaryDirectory() as root, BenchHouse(Path(root) / "home") as house:
        samples.timed("import", lambda: house.bring(folder))
        house.approve(samples.timed("scan", house.scan))
        report = samples.timed("prepare", lambda: house.prepare(RecipeSpec()))
        for name, spent_s in report.seconds.items():
            samples.note(f"prepare_{name}", spent_s)
        assert samples.timed("found_again", lambda: house.prepare(RecipeSpec())).found
        tokens.note("one_core", one_core_rate(house))
        samples.note("whole", sum(samples[name][-1] for name in STEPS))
        return report, tokenizer_of(house, report.record)


def tokenizer_of(house: BenchHouse, record: DatasetRecord) -> str:
    """The tokenizer of a prepared dataset."""
    public_key = house.backend.signer("manifest").public_key
    prefix = dataset_prefix(record.name, record.version)
    manifest = Manifest.open(house.store, prefix, record.root, public_key)
    artefact = manifest.superblock.artefact(TOKENIZER_ARTEFACT)
    assert artefact is not None
    keys = BackendKeySource(house.backend)
    stream = manifest.open_stream(artefact.shard, keys, StreamKind.ARTEFACT, ARTEFACT_SCHEMA)
    return stream.read_all(1 << 26).decode()


def encoder_rates(tokenizer_json: str, texts: Sequence[str]) -> Mapping[str, float]:
    """MB/s of our encoder and of the library's on the same texts."""
    encoder, library = WordEncoder(tokenizer_json, TOKEN_BYTES), load_tokenizer(tokenizer_json)
    total = sum(len(text.encode()) for text in texts)
    ours: list[int] = []
    theirs: list[int] = []
    seconds = {
        "encoder": processor_s(lambda: ours.extend(len(encoder.encode(text)) for text in texts)),
        "tokenizers": processor_s(
            lambda: theirs.extend(len(library.encode(text, add_special_tokens=False).ids) for text in texts)
        ),
    }
    assert ours == [TOKEN_BYTES * count for count in theirs]
    return {name: total / spent_s / 1e6 for name, spent_s in seconds.items()}


@contextlib.contextmanager
def one_core() -> Iterator[None]:
    """This process and those that it starts have one core, the last it may use."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def one_core_rate(house: BenchHouse) -> float:
    """Tokens/s of encoding, laying out and packing on one core: redacted, sealed and stored."""
    with one_core():
        report = house.prepare(RecipeSpec(seed=1), processes=1)
    counts: Any = report.record.figures
    tokens = sum(counts[split]["tokens"] for split in ("train", "heldout"))
    return float(tokens / sum(report.seconds[phase] for phase in ("encode", "layout", "pack")))


def datatrove_rate(folder: Path, tokenizer_json: str) -> tuple[float, str]:
    """Tokens/s of datatrove on the same documents with the same tokenizer, on one core; its version."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        (place / "in").mkdir()
        (place / "tokenizer.json").write_text(tokenizer_json)
        with (place / "in/documents.jsonl").open("w") as file:
            for path in sorted(folder.rglob("*.py")):
                with contextlib.suppress(UnicodeDecodeError):
                    file.write(json.dumps({"id": path.name, "text": path.read_text("utf-8")}) + "\n")
        script = str(PEERS_PYTHON.parents[2] / "bench/peers/datatrove_tokens.py")
        arguments = [str(place / "tokenizer.json"), str(place / "in"), str(place / "out")]
        command = [str(PEERS_PYTHON), script, *arguments]
        with one_core():
            done = subprocess.run(command, capture_output=True, text=True, check=False, env=short_paths())
        if done.returncode:
            raise SystemExit(done.stderr[-3000:])
    found = json.loads(done.stdout.splitlines()[-1])
    return found["tokens"] / found["seconds"], str(found["version"])


def short_paths() -> dict[str, str]:
    """The environment with temporary files where a socket's path is short enough for multiprocessing."""
    return {**os.environ, "TMPDIR": "/tmp"}


def measure(megabytes: int, rounds: int) -> Measured:
    """Seconds of each step, and rates of the encoders."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    samples, rates, tokens = Samples(), Samples(), Samples()
    peers = versions_of("tokenizers")
    with tempfile.TemporaryDirectory() as copies:
        folder = copy_sources(Path(copies), megabytes)
        texts = [path.read_bytes().decode() for path in source_files(min(megabytes, ENCODER_MEGABYTES))]
        for turn in range(rounds):
            show_round(turn, rounds)
            report, tokenizer_json = one_round(folder, samples, tokens)
            for name, value in encoder_rates(tokenizer_json, texts).items():
                rates.note(name, value)
            if PEERS_PYTHON.exists():
                rate, peers["datatrove"] = datatrove_rate(folder, tokenizer_json)
                tokens.note("datatrove", rate)
    goals = {"whole": at_most(60.0), "found_again": at_most(1.0)}
    figures = {f"{name}_s": median_of(found, "s", goals.get(name)) for name, found in samples.items()}
    figures |= {name: median_of(found, "MB/s") for name, found in rates.items()}
    figures["encoder_to_tokenizers"] = ratio_of(rates["encoder"], rates["tokenizers"], at_least(3.0))
    figures |= {f"{name}_tokens": median_of(found, "tokens/s") for name, found in tokens.items()}
    figures["prepare_to_datatrove"] = (
        ratio_of(tokens["one_core"], tokens["datatrove"], at_least(1.0))
        if "datatrove" in peers
        else not_measured("bash scripts/peers.sh was not run", "ratio", at_least(1.0))
    )
    counts: Any = report.record.figures
    return Measured(
        figures,
        METHOD,
        peers,
        {name: sum(counts[split][name] for split in ("train", "heldout")) for name in ("files", "tokens")},
    )


SIZES: Final = (
    Size("megabytes", 1000, 1, "how much text at most"),
    Size("rounds", 3, 1, "rounds, each in a fresh home"),
)

if __name__ == "__main__":
    sys.exit(run("prepare", __doc__, SIZES, measure))
