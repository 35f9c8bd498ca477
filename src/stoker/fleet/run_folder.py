"""Names every file in the folder of one run. See docs/design/fleet.md, "The run's folder"."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from stoker.core.ids import RunId


@dataclass(frozen=True, slots=True)
class RunFolder:
    """`runs/ID` and what lies in it; nothing here is secret, and all of it is only for its owner."""

    path: Path

    @classmethod
    def of(cls, runs_dir: Path, run: RunId) -> RunFolder:
        return cls(runs_dir / run)

    @property
    def run_file(self) -> Path:
        """The merged run file, its digest and where each value came from."""
        return self.path / "run.json"

    @property
    def events(self) -> Path:
        return self.path / "events.jsonl"

    def events_digest(self) -> str:
        """SHA-256 over the bytes of the events, 64 hexadecimal digits; empty when there are none to read."""
        try:
            with self.events.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError:
            return ""

    @property
    def curves(self) -> Path:
        """TensorBoard's event files, one for each supervisor that the run had."""
        return self.path / "curves"

    @property
    def wandb(self) -> Path:
        """W&B's offline runs, one for each supervisor that the run had, where it asks for them."""
        return self.path / "wandb"

    def attempt_lock(self, attempt: int, part: str = "") -> Path:
        """Locked by every process of the attempt that is alive, so that it is free only when all are gone.

        `part`: by those on this node, where each node has an agent of its own.
        """
        return self.path / (f"attempt-{attempt}@{part}.lock" if part else f"attempt-{attempt}.lock")

    def attempt_locks(self, part: str | None = None) -> list[Path]:
        """The locks of all attempts that there were; only those of one node's parts where `part` names it.

        Where it is empty, only those of whole attempts: what their supervisor's own node holds.
        """
        found = sorted(self.path.glob("attempt-*.lock"))
        return found if part is None else [each for each in found if each.stem.partition("@")[2] == part]

    def attempt(self, attempt: int) -> Path:
        return self.path / f"attempt-{attempt}"

    def job(self, attempt: int) -> Path:
        return self.attempt(attempt) / "job.json"

    def rendezvous(self, attempt: int) -> Path:
        return self.attempt(attempt) / "rendezvous"

    def rank_log(self, attempt: int, rank: int) -> Path:
        """What a rank wrote to its standard output and error."""
        return self.attempt(attempt) / f"rank-{rank}.log"

    def agent_log(self, attempt: int, part: str = "") -> Path:
        return self.attempt(attempt) / (f"agent@{part}.log" if part else "agent.log")

    def attempts_so_far(self) -> int:
        """The highest attempt number that has a folder here; 0 when there is none."""
        numbers = (path.name.removeprefix("attempt-") for path in self.path.glob("attempt-*"))
        return max((int(number) for number in numbers if number.isdecimal()), default=0)
