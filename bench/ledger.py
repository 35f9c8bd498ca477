"""How fast acts are recorded and a log is verified, beside the commits and signatures that these need.

Run `python bench/ledger.py`, or with `--json` for one object. See docs/design/ledger.md.
"""

from __future__ import annotations

import sqlite3
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

import sqlalchemy
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from measuring.command import Size, run
from measuring.figures import Measured, median_of, ratio_of, versions_of
from measuring.turns import take_turns, wall_s
from stoker.core.atomic import write_atomic
from stoker.core.clock import SystemClock
from stoker.core.ids import new_version_id
from stoker.ledger.ledger import Ledger
from stoker.ledger.records import SourceRecord

NOTE_BYTES: Final = 300
"""About as long as a signed checkpoint."""

METHOD: Final = (
    "In each round, in rotating order, by the wall clock, in a fresh folder: acts, each with one catalogue "
    "record, one entry and one signed checkpoint; the floor of the same number of acts: a transaction of "
    "one row in SQLite (WAL, synchronous FULL), an Ed25519 signature, and the atomic replacement of a file; "
    "a verification of the whole log that the acts made; and the floor of that: one Ed25519 verification an "
    "entry. Medians and quartiles of the rounds; ratios are taken round by round."
)


class Bench:
    """A ledger with as many acts as a round takes, and what stands beside it."""

    def __init__(self, root: Path, acts: int) -> None:
        self._root = root
        self._acts = acts
        self._rounds = 0
        self._key = Ed25519PrivateKey.generate()
        self._signature = self._key.sign(bytes(NOTE_BYTES))
        self._written = self._fresh_ledger()
        self._record(self._written)

    def close(self) -> None:
        self._written.close()

    def act_rate(self) -> float:
        """Acts a second."""
        with self._fresh_ledger() as ledger:
            return self._rate(lambda: self._record(ledger))

    def commit_rate(self) -> float:
        """The least that an act takes on this disk, a second."""
        folder = self._fresh_folder()
        database = sqlite3.connect(folder / "floor.db", isolation_level=None)
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        database.execute("CREATE TABLE floor (id INTEGER PRIMARY KEY, body TEXT)")

        def commit() -> None:
            for _ in range(self._acts):
                database.execute("BEGIN IMMEDIATE")
                database.execute("INSERT INTO floor (body) VALUES (?)", ("x" * NOTE_BYTES,))
                self._key.sign(bytes(NOTE_BYTES))
                database.execute("COMMIT")
                write_atomic(folder / "floor.head", bytes(NOTE_BYTES))

        rate = self._rate(commit)
        database.close()
        return rate

    def verify_rate(self) -> float:
        """Entries a second, with their checkpoints and catalogue rows."""

        def verify() -> None:
            assert self._written.audit.verify().holds

        return self._rate(verify)

    def signature_rate(self) -> float:
        """Ed25519 verifications a second."""
        public = self._key.public_key()

        def verify() -> None:
            for _ in range(self._acts):
                public.verify(self._signature, bytes(NOTE_BYTES))

        return self._rate(verify)

    def _rate(self, work: Callable[[], None]) -> float:
        return self._acts / wall_s(work)

    def _record(self, ledger: Ledger) -> None:
        for number in range(self._acts):
            source = SourceRecord(
                "bench", new_version_id(), "0" * 64, "source/bench#1", number, number, {}, "asker", 0.0
            )
            with ledger.act(
                actor="asker", action="source.import", subject="source/bench", detail={"number": number}
            ) as catalogue:
                catalogue.add_source(source)

    def _fresh_ledger(self) -> Ledger:
        folder = self._fresh_folder()
        return Ledger.open(f"sqlite:///{folder}/ledger.db", folder / "ledger.key", SystemClock())

    def _fresh_folder(self) -> Path:
        self._rounds += 1
        folder = self._root / str(self._rounds)
        folder.mkdir()
        return folder


def measure(acts: int, rounds: int) -> Measured:
    """Rates of acts and of verifying, and their ratios to the floors."""
    with tempfile.TemporaryDirectory() as root:
        bench = Bench(Path(root), acts)
        probes = {
            "acts": bench.act_rate,
            "commits": bench.commit_rate,
            "verified_entries": bench.verify_rate,
            "verified_signatures": bench.signature_rate,
        }
        rates = take_turns(probes, rounds)
        bench.close()
    figures = {name: median_of(found, "per second") for name, found in rates.items()}
    figures["acts_to_commits"] = ratio_of(rates["acts"], rates["commits"])
    figures["entries_to_signatures"] = ratio_of(rates["verified_entries"], rates["verified_signatures"])
    peers = {"sqlite": sqlite3.sqlite_version, "sqlalchemy": sqlalchemy.__version__}
    return Measured(figures, METHOD, peers | versions_of("cryptography"))


SIZES: Final = (
    Size("acts", 100, 10, "acts in a round, and entries in the log that is verified"),
    Size("rounds", 5, 2, "rounds of all cases"),
)

if __name__ == "__main__":
    sys.exit(run("ledger", __doc__, SIZES, measure))
