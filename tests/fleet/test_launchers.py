"""What every launcher does, tried on a real one of each kind."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from stoker.core.clock import SystemClock
from stoker.fleet.errors import UnknownJob, UnknownNode
from stoker.fleet.launchers import OVER, JobId, JobOrder, JobState, Launcher, NodeState
from stoker.fleet.local_jobs import LocalLauncher
from stoker.fleet.slurm.launcher import SlurmLauncher
from support.slurm_testbed import Slurm

PATIENCE_S = 60.0
WAITS = "import sys, time; print('begun', flush=True); time.sleep(float(sys.argv[1]))"
HEARS = """
import signal, time
signal.signal(signal.SIGUSR1, lambda *_: (print("early", flush=True), exit(0)))
print("begun", flush=True)
time.sleep(300)
"""


@dataclass
class Ground:
    """A launcher and a folder for its jobs' logs."""

    launcher: Launcher
    folder: Path

    def order(self, *words: str, **more: object) -> JobOrder:
        log = self.folder / "job 1.log"
        return JobOrder("stoker-test", "a test", (sys.executable, "-c", *words), self.folder, log, **more)

    def said(self) -> str:
        log = self.folder / "job 1.log"
        return log.read_text() if log.exists() else ""

    def until(self, holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not holds():
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.1)

    def until_state(self, job: JobId, *states: JobState) -> None:
        self.until(lambda: self.launcher.job(job).state in states)

    def let_it_run(self, job: JobId) -> None:
        self.until(lambda: self.launcher.hasten(job))


@pytest.fixture(params=["local", "slurm"])
def ground(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ground]:
    if request.param == "slurm":
        request.getfixturevalue("slurm")
        yield Ground(SlurmLauncher(SystemClock()), tmp_path)
        return
    launcher = LocalLauncher(tmp_path / "jobs", "here-0123ab", SystemClock())
    yield Ground(launcher, tmp_path)
    for each in (tmp_path / "jobs").glob("[0-9]*"):
        launcher.cancel(JobId(each.name))
    for each in (tmp_path / "jobs").glob("[0-9]*"):
        Ground(launcher, tmp_path).until_state(JobId(each.name), *OVER)


def test_a_job_runs_to_its_end_in_its_folder(ground: Ground) -> None:
    job = ground.launcher.submit(ground.order("import os; print(os.getcwd())"))
    ground.until_state(job, JobState.FINISHED)
    assert ground.said().strip() == str(ground.folder)
    view = ground.launcher.job(job)
    assert (view.job, view.restarts) == (job, 0)


def test_a_command_that_fails_is_a_job_that_failed(ground: Ground) -> None:
    job = ground.launcher.submit(ground.order("raise SystemExit(3)"))
    ground.until_state(job, JobState.FAILED)
    assert ground.launcher.events(job)[-1].state is JobState.FAILED


def test_a_cancelled_job_ends_and_may_be_cancelled_again(ground: Ground) -> None:
    job = ground.launcher.submit(ground.order(WAITS, "300"))
    ground.until(lambda: "begun" in ground.said())
    assert ground.launcher.job(job).state is JobState.RUNNING
    assert ground.launcher.job(job).node in {each.name for each in ground.launcher.nodes()}
    ground.launcher.cancel(job)
    ground.until_state(job, JobState.CANCELLED)
    ground.launcher.cancel(job)
    assert ground.launcher.job(job).state is JobState.CANCELLED


def test_a_requeued_job_runs_again_under_its_number_after_the_first_life_is_gone(ground: Ground) -> None:
    job = ground.launcher.submit(ground.order(WAITS, "300"))
    ground.until(lambda: "begun" in ground.said())
    for life in (1, 2, 3):
        ground.launcher.requeue(job)
        ground.let_it_run(job)
        ground.until(lambda life=life: ground.said().count("begun") == life + 1)
        view = ground.launcher.job(job)
        assert (view.state, view.restarts) == (JobState.RUNNING, life)


def test_a_drained_node_takes_no_job_until_it_is_resumed(ground: Ground) -> None:
    names = [each.name for each in ground.launcher.nodes()]
    for name in names:
        ground.launcher.drain(name, "ecc: 3 errors")
    assert {(each.state, each.reason) for each in ground.launcher.nodes()} == {
        (NodeState.DRAINED, "ecc: 3 errors")
    }
    job = ground.launcher.submit(ground.order("print('ran')"))
    assert ground.launcher.job(job).state is JobState.WAITING
    for name in names:
        ground.launcher.resume(name)
        ground.launcher.resume(name)
    ground.until(lambda: {each.state for each in ground.launcher.nodes()} == {NodeState.UP})
    ground.let_it_run(job)
    ground.until_state(job, JobState.FINISHED)
    assert ground.said() == "ran\n"


def test_what_is_not_there_is_told(ground: Ground) -> None:
    with pytest.raises(UnknownJob):
        ground.launcher.job(JobId("987654"))
    for ask in (lambda: ground.launcher.drain("no-node", "why"), lambda: ground.launcher.resume("no-node")):
        with pytest.raises(UnknownNode, match="no-node"):
            ask()


@pytest.mark.parametrize("ground", ["local"], indirect=True)
def test_a_job_hears_that_its_time_is_nearly_up(ground: Ground) -> None:
    """On Slurm this is Slurm's own doing, and takes it up to a minute."""
    job = ground.launcher.submit(ground.order(HEARS, time_limit_minutes=1, early_s=60))
    ground.until_state(job, JobState.FINISHED)
    assert ground.said() == "begun\nearly\n"


def test_the_testbed_is_left_as_it_was(slurm: Slurm) -> None:
    assert slurm.queue() == []
