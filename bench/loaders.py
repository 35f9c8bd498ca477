"""Our encrypted feed beside open, unencrypted loaders: the same tokens and the same JPEG files.

Run `bash scripts/peers.sh` once, then `python bench/loaders.py`, or with `--json`. See docs/design/feed.md.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from measuring.command import Size, run
from measuring.figures import Figure, Goal, Measured, at_least, at_most, median_of, not_measured, ratio_of
from measuring.loader_data import write_files, write_tokens
from measuring.turns import show_round

ROOT: Final = Path(__file__).parents[1]
PEERS_PYTHON: Final = ROOT / ".venv-peers/bin/python"
PEERS: Final = {
    "tokens": ("litdata", "mosaicml", "webdataset", "huggingface", "parquet", "parquet_binary", "grain"),
    "files": ("litdata", "mosaicml", "webdataset", "huggingface", "parquet", "grain"),
}
PACKAGES: Final = {"mosaicml": "mosaicml-streaming", "huggingface": "datasets", "parquet": "pyarrow"}
READINGS: Final = ("sequential", "shuffled", "batches")
FACTS: Final = {"first_batch_ms": "ms", "memory_mb": "MB", "resume_ms": "ms", "resume_exact": "yes or no"}
RATIO_GOALS: Final[Mapping[tuple[str, str, str], float]] = {
    ("tokens", "litdata", "shuffled"): 5.0,
    ("tokens", "litdata", "batches"): 7.0,
    ("tokens", "parquet", "shuffled"): 1.8,
    ("tokens", "parquet", "batches"): 2.5,
    ("files", "litdata", "sequential"): 1.0,
    ("files", "litdata", "shuffled"): 1.0,
    ("files", "litdata", "batches"): 1.0,
}
METHOD: Final = (
    "Tokens: samples of 2,048 in uint16. Files: JPEG bytes, not decoded. Every loader keeps its own format, "
    "peers in the clear, ours sealed; all files are in the page cache. In each round every loader has a "
    "process of its own, one after the other, the order reversed every second round; imports are no part of "
    "any time. MB/s by the wall clock of what the caller is handed: in stored order one by one, shuffled one "
    "by one, and shuffled in batches of 64, each until the seconds are over, epoch after epoch. First batch: "
    "from making the loader. Memory: resident after the batches more than before. Resume: from making a "
    "loader with a state saved after 20 batches to its first batch, and whether that is the batch that would "
    "have come. Ceilings, in the same rounds, one thread: preadv of 1 MiB of a file in the page cache, "
    "AES-256-GCM decrypt_into of 1 MiB, a copy of 1 MiB. Two processes: two ranks of one feed, each with one "
    "thread that opens chunks, beside one such rank alone; over the same gain of the raw cipher."
)


class Group:
    """One kind of data in every loader's format under one folder."""

    def __init__(self, kind: str, folder: Path, seconds: int) -> None:
        self.kind = kind
        self.raw = folder / ("raw.npy" if kind == "tokens" else "raw")
        self._folder = folder
        self._seconds = seconds
        self._peers = PEERS_PYTHON.exists()

    @property
    def loaders(self) -> tuple[str, ...]:
        return ("ours", *(PEERS[self.kind] if self._peers else ()))

    def write(self) -> None:
        """Make every loader's files."""
        for loader in self.loaders:
            self._start(loader, "write")

    def measure(self, loader: str) -> dict[str, Any]:
        """One round of one loader."""
        return self._start(loader, "measure")

    def _start(self, loader: str, act: str) -> dict[str, Any]:
        place = self._folder / loader
        if loader == "ours":
            command = [sys.executable, str(ROOT / "bench/measuring/our_loader.py"), act]
        else:
            command = [str(PEERS_PYTHON), str(ROOT / "bench/peers/loader.py"), loader, act]
        command += [self.kind, str(self.raw), str(place), str(self._seconds)]
        return _answer(command)


def _answer(command: Sequence[str]) -> dict[str, Any]:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(megabytes: int, file_megabytes: int, seconds: int, rounds: int) -> Measured:
    """Every figure."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as name:
        groups = []
        for kind, amount, fill in (
            ("tokens", megabytes, write_tokens),
            ("files", file_megabytes, write_files),
        ):
            folder = Path(name) / kind
            folder.mkdir()
            groups.append(Group(kind, folder, seconds))
            fill(groups[-1].raw, amount)
            groups[-1].write()
        for turn in range(rounds):
            show_round(turn, rounds)
            for group in groups:
                for loader in group.loaders[:: 1 if turn % 2 == 0 else -1]:
                    found.setdefault((group.kind, loader), []).append(group.measure(loader))
        loaders = {group.kind: group.loaders for group in groups}
    figures: dict[str, Figure] = {}
    for kind in loaders:
        figures |= _figures(kind, found, loaders[kind])
    peers = {PACKAGES.get(loader, loader): rows[0]["version"] for (_, loader), rows in found.items()}
    return Measured(figures, METHOD, {name: each for name, each in peers.items() if name != "ours"})


def _figures(
    kind: str, found: Mapping[tuple[str, str], Sequence[Mapping[str, Any]]], loaders: Sequence[str]
) -> dict[str, Figure]:
    def column(loader: str, name: str) -> list[float]:
        return [float(row[name]) for row in found[kind, loader] if row[name] is not None]

    goals: dict[str, Goal] = {
        "ours_first_batch_ms": at_most(100.0),
        "ours_resume_ms": at_most(50.0),
        "ours_resume_exact": at_least(1.0),
    }
    figures: dict[str, Figure] = {}
    for loader in loaders:
        for reading in READINGS:
            figures[f"{kind}_{loader}_{reading}"] = median_of(column(loader, reading), "MB/s")
        for name, unit in FACTS.items():
            rows, goal = column(loader, name), goals.get(f"{loader}_{name}")
            figures[f"{kind}_{loader}_{name}"] = (
                median_of(rows, unit, goal) if rows else not_measured("it cannot resume", unit)
            )
    for peer in PEERS[kind]:
        for reading in READINGS:
            ratio = RATIO_GOALS.get((kind, peer, reading))
            limit = at_least(ratio) if ratio is not None else None
            figures[f"{kind}_ours_to_{peer}_{reading}"] = (
                ratio_of(column("ours", reading), column(peer, reading), limit)
                if peer in loaders
                else not_measured("bash scripts/peers.sh was not run", "ratio", limit)
            )
    if kind == "tokens":
        for name in ("preadv", "aes_gcm", "memcpy"):
            figures[f"raw_{name}"] = median_of(column("ours", f"raw_{name}"), "MB/s")
        figures["tokens_batches_to_aes_gcm"] = ratio_of(
            column("ours", "batches"), column("ours", "raw_aes_gcm"), at_least(0.5)
        )
        figures["two_processes_gain"] = median_of(column("ours", "two_gain"), "ratio")
        figures["two_processes_aes_gcm_gain"] = median_of(column("ours", "raw_two_gain"), "ratio")
        figures["two_processes_gain_to_aes_gcm"] = ratio_of(
            column("ours", "two_gain"), column("ours", "raw_two_gain"), at_least(0.9)
        )
    return figures


if __name__ == "__main__":
    sizes = (
        Size("megabytes", 400, 8, "megabytes of tokens"),
        Size("file_megabytes", 190, 12, "megabytes of JPEG files"),
        Size("seconds", 1, 1, "seconds a reading may take at most"),
        Size("rounds", 5, 1, "rounds"),
    )
    sys.exit(run("loaders", __doc__, sizes, measure))
