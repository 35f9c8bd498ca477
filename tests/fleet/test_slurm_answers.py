"""Reading what Slurm says: recorded answers, and everything that is none."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.core.clock import SystemClock
from stoker.fleet.errors import BadAnswer, LauncherRefused, LauncherSilent
from stoker.fleet.launchers import JobId, JobOrder, JobState, NodeState
from stoker.fleet.slurm.answers import read_accounts, read_nodes, read_queue
from stoker.fleet.slurm.batch_script import batch_script
from stoker.fleet.slurm.launcher import COMMANDS, SlurmLauncher
from support.slurm_testbed import Slurm

ANSWERS = Path(__file__).parent / "slurm_answers"
ORDER = JobOrder("stoker-r-1", "stoker run r-1", ("python", "a b"), Path("/"), Path("/runs/50%/job.log"))


def accounts_of(job: str) -> str:
    lines = (ANSWERS / "sacct-all.txt").read_text().splitlines(keepends=True)
    return "".join(line for line in lines if line.startswith(f"{job}|"))


def test_a_queue_is_read() -> None:
    running, ending, queued, failed = read_queue((ANSWERS / "squeue.txt").read_text())
    assert (running.state, running.restarts, running.node) == (JobState.RUNNING, 2, "node2")
    assert (ending.state, ending.node) == (JobState.ENDING, "node1")
    assert (queued.state, queued.node, queued.reason) == (JobState.WAITING, "", "BeginTime")
    assert queued.eligible_s - queued.queued_s == 121.0
    assert (failed.state, failed.reason) == (JobState.FAILED, "NonZeroExitCode")


def test_nodes_are_read_with_why_they_are_out() -> None:
    down, drained, idle, mixed = read_nodes((ANSWERS / "sinfo.txt").read_text())
    assert (down.state, down.reason) == (NodeState.DOWN, "stoker: no sign of run r-1 for 5 s")
    assert (drained.state, drained.reason) == (NodeState.DRAINED, "ecc: 3 errors")
    assert (idle.state, mixed.state, idle.reason) == (NodeState.UP, NodeState.UP, "")
    assert (idle.address, idle.port) == ("127.0.0.1", 31003)


def test_a_bar_in_a_reason_is_part_of_it_and_a_silent_node_is_not_up() -> None:
    odd, silent = read_nodes("n1|drained|10.0.0.1|6818|by|me|\nn2|idle*|10.0.0.2|6818|none|\n")
    assert odd.reason == "by|me"
    assert silent.state is NodeState.UNKNOWN


@pytest.mark.parametrize(
    ("job", "lives"),
    [
        ("4", [("running", 0), ("failed", 0)]),
        ("9", [("running", 0), ("out_of_time", 0)]),
        ("10", [("running", 0), ("preempted", 0)]),
        ("11", [("running", 0), ("finished", 0)]),
        (
            "6",
            [
                ("running", 0),
                ("requeued", 0),
                ("running", 1),
                ("node_lost", 1),
                ("running", 2),
                ("node_lost", 2),
                ("cancelled", 3),
            ],
        ),
    ],
)
def test_every_life_of_a_job_is_told_with_its_end(job: str, lives: list[tuple[str, int]]) -> None:
    events = read_accounts(accounts_of(job), JobId(job))
    assert [(event.state.value, event.restarts) for event in events] == lives


def test_an_exit_code_and_a_node_come_from_accounting() -> None:
    begun, ended = read_accounts(accounts_of("4"), JobId("4"))
    assert (ended.exit_code, ended.signal, ended.node, ended.at_s - begun.at_s) == (3, 0, "node1", 0.0)


@pytest.mark.parametrize(
    "line",
    [
        "7|COMPLETED|0:0|2026-01-01T00:00:00|2026-01-01T00:00:01|node1",
        "7|MELTED|0:0|2026-01-01T00:00:00|2026-01-01T00:00:01|node1|None",
        "7|COMPLETED|zero|2026-01-01T00:00:00|2026-01-01T00:00:01|node1|None",
        "7|COMPLETED|0:0|yesterday|2026-01-01T00:00:01|node1|None",
        "8|COMPLETED|0:0|2026-01-01T00:00:00|2026-01-01T00:00:01|node1|None",
        "sacct: warning: something else",
    ],
)
def test_an_unreadable_line_of_accounting_is_shown_and_nothing_is_taken(line: str) -> None:
    good = "7|COMPLETED|0:0|2026-01-01T00:00:00|2026-01-01T00:00:01|node1|None\n"
    with pytest.raises(BadAnswer, match="sacct answered"):
        read_accounts(good + line + "\n", JobId("7"))


@pytest.mark.parametrize(
    "line",
    [
        "1|RUNNING|0|n|N/A|N/A|None",
        "x|RUNNING|0|n|N/A|N/A|None|",
        "1|RUNNING|-1|n|N/A|N/A|None|",
        "1|UP|0|n|N/A|N/A|None|",
        "1|RUNNING|0|n|today|N/A|None|",
        "1|RUNNING|0|a b|N/A|N/A|None|",
        "1|R|",
    ],
)
def test_an_unreadable_line_of_the_queue_is_shown(line: str) -> None:
    with pytest.raises(BadAnswer, match="squeue answered"):
        read_queue(line)


@given(st.text(max_size=80))
def test_no_text_makes_a_reader_fail_otherwise(text: str) -> None:
    for read in (read_queue, read_nodes, lambda each: read_accounts(each, JobId("7"))):
        try:
            read(text)
        except BadAnswer:
            continue


def test_a_batch_script_asks_for_all_that_a_run_rests_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary")
    more = {"exclude": ("node7", "node3"), "switches": 1, "switches_wait_minutes": 10, "spare_nodes": 2}
    script = batch_script(
        JobOrder(**{**{name: getattr(ORDER, name) for name in ORDER.__dataclass_fields__}, **more})
    )
    for line in (
        "--requeue",
        "--open-mode=append",
        "--signal=B:USR1@120",
        "--nodes=3",
        "--no-kill",
        "--exclude=node3,node7",
        "--switches=1@10",
        '--comment="stoker run r-1"',
        '--output="/runs/50%%/job.log"',
    ):
        assert f"#SBATCH {line}\n" in script
    assert script.endswith("exec python 'a b'\n")
    assert "canary" not in script and "AWS" not in script


@pytest.mark.parametrize(
    "option", ["-p x", "--no-requeue\n#SBATCH --nodes=9", "--signal=TERM@1", "--requeue=0"]
)
def test_an_option_that_breaks_a_run_is_refused(option: str) -> None:
    body = {name: getattr(ORDER, name) for name in ORDER.__dataclass_fields__}
    with pytest.raises(LauncherRefused, match="options"):
        batch_script(JobOrder(**{**body, "options": (option,)}))


def test_a_slurm_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LauncherSilent, match="sbatch, squeue, scancel"):
        SlurmLauncher(SystemClock()).submit(ORDER)


def test_a_controller_that_does_not_answer_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The words are Slurm's own; waiting for them takes it a minute."""
    said = "Unable to contact slurm controller (connect failure)"
    for name in COMMANDS:
        (tmp_path / name).write_text(f"#!/bin/sh\necho 'slurm error: {said}' >&2\nexit 1\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    launcher = SlurmLauncher(SystemClock())
    for ask in (launcher.nodes, lambda: launcher.job(JobId("1")), lambda: launcher.requeue(JobId("1"))):
        with pytest.raises(LauncherSilent, match="Unable to contact"):
            ask()
    with pytest.raises(LauncherSilent, match="sacct"):
        launcher.events(JobId("1"))


def test_without_accounting_a_job_is_what_the_queue_says_and_no_exit_code_is_made_up(slurm: Slurm) -> None:
    said = subprocess.run(["sacct"], capture_output=True, text=True, check=False)
    assert "storage is disabled" in said.stderr
    launcher = SlurmLauncher(SystemClock())
    slurm.say("scontrol", "update", "nodename=ALL", "state=drain", "reason=test")
    job = JobId(slurm.say("sbatch", "--parsable", "--wrap", "exit 3", "--output=/dev/null").strip())
    (event,) = launcher.events(job)
    assert (event.state, event.exit_code, event.signal) == (JobState.WAITING, None, None)
    assert launcher.events(JobId("999999")) == ()


def test_what_slurm_does_not_take_is_told(slurm: Slurm) -> None:
    body = {name: getattr(ORDER, name) for name in ORDER.__dataclass_fields__}
    with pytest.raises(LauncherRefused, match="invalid partition"):
        SlurmLauncher(SystemClock()).submit(JobOrder(**{**body, "partition": "no-such"}))
    with pytest.raises(LauncherRefused, match="node"):
        SlurmLauncher(SystemClock()).submit(JobOrder(**{**body, "exclude": ("node99",)}))
