"""A prepared home whose runs are jobs of a real Slurm."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from stoker.core.clock import SystemClock
from stoker.core.events import EventKind, read_events
from stoker.core.ids import RunId
from stoker.fleet.launchers import JobId
from stoker.fleet.run_folder import RunFolder
from stoker.fleet.slurm.job_folder import JobFolder
from stoker.fleet.slurm.launcher import SlurmLauncher
from stoker.fleet.slurm.watch import JobWatch
from support.cli_home import CliHome
from support.slurm_testbed import Slurm

PATIENCE_S = 150.0
SHORT = ("train.steps=40", "train.checkpoint_every_steps=10")
LONG = ("train.steps=100000", "train.checkpoint_every_steps=20")


class SlurmHome:
    """A prepared home that Slurm's jobs open, too."""

    def __init__(self, home: CliHome, slurm: Slurm) -> None:
        self.home, self.slurm = home, slurm
        self.launcher = SlurmLauncher(SystemClock())

    def submit(self, *words: str) -> tuple[RunId, JobId]:
        told = self.home.data("train", "run.toml", "--on", "slurm", *words)
        return RunId(told["run"]), JobId(told["job"])

    def of_kind(self, run: RunId, kind: EventKind) -> list[Any]:
        path = RunFolder.of(self.home.root / "runs", run).events
        told = read_events(path).events if path.exists() else ()
        return [each for each in told if each.kind is kind]

    def steps(self, run: RunId) -> list[int]:
        return [int(each.number("step")) for each in self.of_kind(run, EventKind.STEP)]

    def attempt_of_last_step(self, run: RunId) -> int:
        return int(self.of_kind(run, EventKind.STEP)[-1].attempt)

    def folder(self, run: RunId) -> JobFolder:
        return JobFolder.of(self.home.root / "runs", run)

    def until(self, holds: Callable[[], bool], meanwhile: Callable[[], object] = lambda: None) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not holds():
            assert time.monotonic() < deadline, self.logs()
            meanwhile()
            time.sleep(0.1)

    def logs(self) -> str:
        return "\n".join(path.read_text() for path in self.home.root.glob("runs/*/slurm/job.log"))

    def watch(self, lost_after_s: float = 4.0) -> JobWatch:
        """What `stoker fleet watch` does; no run here is over before its test is."""
        runs = self.home.root / "runs"
        return JobWatch(runs, self.launcher, lambda run: False, lost_after_s, SystemClock())
