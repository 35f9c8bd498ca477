"""Names every file that a run's job has beside the run's own: `runs/ID/slurm`. See docs/design/slurm.md."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final, TypeVar

from stoker.core.atomic import naming_full_disk, write_atomic
from stoker.core.config import from_plain
from stoker.core.errors import ConfigError
from stoker.core.ids import RunId
from stoker.core.result import plain
from stoker.fleet.errors import BadRunFolder
from stoker.fleet.launchers import JobId
from stoker.fleet.run_folder import RunFolder

MAX_FILE_BYTES: Final = 65_536

Read = TypeVar("Read")


@dataclass(frozen=True, slots=True)
class Submitted:
    """The job of a run, and when it was submitted, in seconds since the Unix epoch."""

    job: JobId
    at_s: float


@dataclass(frozen=True, slots=True)
class Holder:
    """One life of a job: whoever wrote this last may have a supervisor; whoever did before ends his."""

    job: JobId
    restarts: int
    node: str
    pid: int


@dataclass(frozen=True, slots=True)
class Sign:
    """That a life of a job goes on: `count` changes twice a second. Compared, and not set against a clock."""

    holder: Holder
    count: int


@dataclass(frozen=True, slots=True)
class RunSubmitted:
    """A run that waits for its nodes, or already has them."""

    kind: ClassVar[str] = "run_submitted"
    version: ClassVar[int] = 1

    run: RunId
    launcher: str
    job: JobId
    script: str
    log: str


@dataclass(frozen=True, slots=True)
class JobFolder:
    """`runs/ID/slurm`; nothing here is secret, and all of it is only for its owner."""

    path: Path

    @classmethod
    def of(cls, runs_dir: Path, run: RunId) -> JobFolder:
        return cls(RunFolder.of(runs_dir, run).path / "slurm")

    def make(self) -> JobFolder:
        with naming_full_disk(self.path):
            self.path.mkdir(mode=0o700, exist_ok=True)
        return self

    @property
    def log(self) -> Path:
        """What every life of the job printed, one after the other."""
        return self.path / "job.log"

    @property
    def script(self) -> Path:
        return self.path / "job.sh"

    @property
    def journal(self) -> Path:
        """What happened to the job."""
        return self.path / "events.jsonl"

    def record(self, submitted: Submitted) -> None:
        write_atomic(self.path / "job.json", json.dumps(plain(submitted)).encode())

    def submitted(self) -> Submitted | None:
        """The newest job of the run; None when it never had one. Raises BadRunFolder."""
        return self._read("job.json", Submitted)

    def take(self, holder: Holder) -> None:
        """Say that this life goes on with the run from now on."""
        write_atomic(self.path / "holder.json", json.dumps(plain(holder)).encode())

    def holder(self) -> Holder | None:
        return self._read("holder.json", Holder)

    def sign(self, sign: Sign) -> None:
        """Give a sign of life; not synced to the disk, since only its change counts."""
        draft = self.path / f".sign-{os.getpid()}"
        with naming_full_disk(draft):
            draft.write_text(json.dumps(plain(sign)))
            draft.replace(self.path / "sign.json")

    def last_sign(self) -> Sign | None:
        return self._read("sign.json", Sign)

    def _read(self, name: str, kind: type[Read]) -> Read | None:
        path = self.path / name
        try:
            with path.open("rb") as file:
                return from_plain(kind, json.loads(file.read(MAX_FILE_BYTES)), str(path))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, ConfigError) as error:
            raise BadRunFolder(f"{path} cannot be read: {error}.", hint="Stoker writes it whole.") from error
