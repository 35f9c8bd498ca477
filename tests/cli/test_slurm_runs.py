"""Real runs as jobs of a real Slurm: submitted, requeued, moved off a lost node, taken here and back."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from stoker.core.errors import Busy
from stoker.core.events import EventKind
from stoker.core.ids import RunId
from stoker.fleet.errors import LauncherRefused
from stoker.fleet.job_journal import read_journal
from stoker.fleet.launchers import JobId, JobState
from stoker.fleet.slurm.care import Care
from support.cli_home import copied
from support.cli_levels import Levels
from support.slurm_home import LONG, SHORT, SlurmHome
from support.slurm_testbed import Slurm


@pytest.fixture
def there(levels: Levels, tmp_path: Path, slurm: Slurm) -> Iterator[SlurmHome]:
    home = copied(levels.home("prepared"), tmp_path / "there")
    home.environment.update(SLURM_CONF=str(slurm.conf))
    yield SlurmHome(home, slurm)


def test_a_dry_run_prints_the_script_and_begins_nothing(levels: Levels, tmp_path: Path) -> None:
    home = copied(levels.home("prepared"), tmp_path / "there")
    (home.place / "stoker.toml").write_text(
        '[slurm]\npartition = "all"\nspare_nodes = 1\nexclude = ["node9"]\nswitches = 1\n'
        'time_limit_minutes = 90\nearly_s = 300\noptions = ["--constraint=h100"]\n'
    )
    script = home.stoker("train", "run.toml", "--on", "slurm", "--dry-run").out
    for line in (
        "--requeue",
        "--open-mode=append",
        "--signal=B:USR1@300",
        "--nodes=2",
        "--no-kill",
        "--partition=all",
        "--exclude=node9",
        "--switches=1",
        "--time=90",
        "--constraint=h100",
        '--comment="stoker run RUN"',
    ):
        assert f"#SBATCH {line}\n" in script
    assert home.data("run", "ls")["runs"] == []
    home.stoker("train", "run.toml", "--dry-run", code=2)


def test_a_run_trains_as_a_job_and_is_the_run_that_was_submitted(there: SlurmHome) -> None:
    run, job = there.submit(*SHORT)
    there.until(lambda: there.launcher.job(job).state is JobState.FINISHED)
    (record,) = there.home.data("run", "ls")["runs"]
    assert (record["id"], record["outcome"]) == (run, "finished")
    assert there.steps(run) == list(range(1, 41))
    told = [(each.state, each.exit_code) for each in read_journal(there.folder(run).journal)]
    assert told == [(JobState.WAITING, None), (JobState.RUNNING, None), (JobState.FINISHED, 0)]
    assert f"job {job}" in there.home.stoker("run", "show", run).out


def test_a_run_goes_from_here_to_slurm_and_back_without_losing_or_repeating_a_step(there: SlurmHome) -> None:
    begun = there.home.start("train", "run.toml", *LONG)
    there.until(lambda: bool(there.home.runs()))
    run = RunId(there.home.runs()[0])
    commits = EventKind.CHECKPOINT_COMMITTED
    there.until(lambda: len(there.of_kind(run, commits)) >= 1)
    os.killpg(begun.pid, 2)
    begun.wait()
    first = len(there.of_kind(run, commits))
    job = JobId(there.home.data("run", "resume", run, "--on", "slurm")["job"])
    there.until(lambda: len(there.of_kind(run, commits)) > first)
    there.home.refused(Busy, "run", "resume", run)
    there.home.refused(Busy, "run", "resume", run, "--on", "slurm")
    there.launcher.cancel(job)
    there.until(lambda: there.launcher.job(job).state is JobState.CANCELLED)
    there.until(lambda: there.home.processes() == {})
    second = len(there.of_kind(run, commits))
    back = there.home.start("run", "resume", run)
    there.until(lambda: len(there.of_kind(run, commits)) > second)
    os.killpg(back.pid, 2)
    back.wait()
    sessions = [each.text("session") for each in there.of_kind(run, EventKind.RUN_STARTED)]
    assert sessions == ["new", "resumed", "resumed"]
    resumed_at = [int(each.number("resume_step")) for each in there.of_kind(run, EventKind.ATTEMPT_STARTED)]
    steps = there.steps(run)
    assert resumed_at == sorted(resumed_at) and resumed_at[1] > 0
    assert sorted(set(steps)) == list(range(1, max(steps) + 1)), "no step is left out"


def test_before_its_time_is_up_a_run_saves_leaves_and_goes_on_under_the_same_id(there: SlurmHome) -> None:
    run, job = there.submit("train.steps=100000", "train.checkpoint_every_steps=100000")
    there.until(lambda: len(there.steps(run)) > 20)
    there.slurm.say("scancel", "--batch", "--signal=USR1", job)
    watch = there.watch()
    attempts = EventKind.ATTEMPT_STARTED
    there.until(lambda: len(there.of_kind(run, attempts)) == 2, lambda: list(watch.look()))
    (commit,) = there.of_kind(run, EventKind.CHECKPOINT_COMMITTED)
    resumed = there.of_kind(run, attempts)[1]
    assert int(resumed.number("resume_step")) == int(commit.number("step")) > 20
    view = there.launcher.job(job)
    assert (view.state, view.restarts) == (JobState.RUNNING, 1)
    told = read_journal(there.folder(run).journal)
    assert "its time was nearly up" in [each.reason for each in told]


def test_a_lost_node_is_given_up_and_the_run_goes_on_on_another(there: SlurmHome) -> None:
    run, job = there.submit(*LONG)
    there.until(lambda: len(there.of_kind(run, EventKind.CHECKPOINT_COMMITTED)) >= 1)
    lost = there.launcher.job(job).node
    watch, deeds = there.watch(), []
    list(watch.look())
    before = there.attempt_of_last_step(run)
    there.slurm.lose_node(lost)
    there.until(lambda: there.attempt_of_last_step(run) > before, lambda: deeds.extend(watch.look()))
    view = there.launcher.job(job)
    assert view.node != lost and view.restarts == 1
    assert deeds[0].care is Care.GIVE_UP_NODE
    (told,) = [each for each in read_journal(there.folder(run).journal) if each.state is JobState.NODE_LOST]
    assert told.node == lost and "does not answer" in told.reason
    down = there.slurm.say("sinfo", "--noheader", f"--nodes={lost}", "--format=%T %E")
    assert down.startswith("down") and f"no sign of run {run}" in down
    taken_over = there.of_kind(run, EventKind.RUN_STARTED)[-1].fields
    assert (taken_over["failure_kind"], taken_over["component"]) == ("hardware", "node")
    spent = there.home.data("goodput", run)["runs"][0]["goodput"]["seconds"]
    assert spent["queue"] > 0 and spent["detection"] > 0


def test_an_orphan_whose_job_was_started_elsewhere_ends_itself(there: SlurmHome) -> None:
    run, job = there.submit(*LONG)
    there.until(lambda: len(there.of_kind(run, EventKind.CHECKPOINT_COMMITTED)) >= 1)
    orphaned = there.launcher.job(job).node
    old = there.folder(run).holder()
    assert old is not None
    there.slurm.kill_daemon(orphaned)
    there.launcher.give_up(orphaned, "a test")
    there.until(lambda: there.launcher.hasten(job))
    there.until(lambda: there.folder(run).holder() != old)
    assert Path(f"/proc/{old.pid}").exists(), "the old life is there when the new one takes over"
    attempts = len(there.of_kind(run, EventKind.ATTEMPT_STARTED))
    there.until(lambda: len(there.of_kind(run, EventKind.ATTEMPT_STARTED)) > attempts)
    there.until(lambda: not Path(f"/proc/{old.pid}").exists())
    done = len(there.steps(run))
    there.until(lambda: len(there.steps(run)) > done)


def test_a_job_that_slurm_does_not_take_leaves_a_run_that_can_be_submitted_again(there: SlurmHome) -> None:
    settings = there.home.place / "stoker.toml"
    settings.write_text('[slurm]\npartition = "no-such"\n')
    said = there.home.refused(LauncherRefused, "train", "run.toml", "--on", "slurm", *SHORT)
    assert "invalid partition" in said and "--on slurm" in said
    settings.unlink()
    (record,) = there.home.data("run", "ls")["runs"]
    job = JobId(there.home.data("run", "resume", record["id"], "--on", "slurm")["job"])
    there.until(lambda: there.launcher.job(job).state is JobState.FINISHED)
    assert there.steps(RunId(record["id"])) == list(range(1, 41))


def test_the_keeper_says_that_it_belongs_into_a_job(tmp_path: Path) -> None:
    words = ("--run", "r-1", "--home", str(tmp_path), "--as", "asker")
    environment = {key: value for key, value in os.environ.items() if key != "SLURM_JOB_ID"}
    done = subprocess.run(
        [sys.executable, "-m", "stoker.fleet.slurm.keeper", *words],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert (done.returncode, "SLURM_JOB_ID" in done.stderr) == (2, True)
