"""What a scheduler and checks of nodes said of a failure, read from the files and acts where it stands."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from stoker.core.clock import ManualClock
from stoker.core.events import EventKind
from stoker.core.home import Home
from stoker.core.node import node_name
from stoker.core.node_settings import Severity
from stoker.fleet.attribution import attribute
from stoker.fleet.job_journal import append_event
from stoker.fleet.launchers import JobEvent, JobId, JobState
from stoker.fleet.left_open import left_open
from stoker.fleet.nodes.finding import CheckResult, CheckState, NodeReport
from stoker.fleet.nodes.node_acts import record_event, seen_in
from stoker.fleet.nodes.node_state import Drain
from stoker.fleet.on_record import OnRecord, on_record_of, scheduler_lines
from stoker.fleet.run_folder import RunFolder
from stoker.fleet.slurm.answers import read_accounts
from stoker.fleet.slurm.job_folder import JobFolder
from stoker.fleet.taxonomy import Component, FailureKind
from stoker.ledger.ledger import Ledger
from support.run_events import RUN, Story

K = EventKind
JOB = JobId("7")
START_S = 10_000.0
ANSWERS = Path(__file__).parent / "slurm_answers/sacct-all.txt"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    found = Home(tmp_path / "home").prepare()
    RunFolder.of(found.runs_dir, RUN).path.mkdir()
    return found


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(START_S)


@pytest.fixture
def ledger(home: Home, clock: ManualClock) -> Iterator[Ledger]:
    with Ledger.open(f"sqlite:///{home.ledger_path}", home.ledger_key_path, clock) as ledger:
        yield ledger


@pytest.fixture
def asked(ledger: Ledger, home: Home) -> OnRecord:
    return on_record_of(ledger, home, RUN, "local", ())


def tell(home: Home, *events: JobEvent) -> None:
    for event in events:
        append_event(JobFolder.of(home.runs_dir, RUN).make().journal, event)


def killed(signal: int = 9) -> Story:
    """A rank ends at START_S + 6, and the attempt with it."""
    story = Story(now_s=START_S).begin().start_attempt(0, ready_after_s=1.0).steps(1, 5, step_s=1.0)
    story.tell(K.RANK_EXITED, rank=1, signal=signal)
    return story


def report(now_s: float, **findings: tuple[CheckState, str]) -> NodeReport:
    results = tuple(
        CheckResult(name, state, evidence, Severity.DRAIN_AFTER if state is CheckState.FAIL else None, 0.0)
        for name, (state, evidence) in findings.items()
    )
    return NodeReport("n", now_s, 0.1, results)


def test_a_check_that_failed_beside_the_failure_is_its_cause(
    asked: OnRecord, ledger: Ledger, home: Home, clock: ManualClock
) -> None:
    before = attribute(killed().events, asked.lines(clock.now_s()))
    assert (before.kind, before.component) == (FailureKind.SYSTEM_SOFTWARE, Component.PROCESS)
    found = report(START_S, gpu_xid=(CheckState.FAIL, "Xid 79 on GPU 3"), zombies=(CheckState.WARN, "9"))
    record_event(ledger, node_name(home), seen_in(found), actor="checker")
    after = attribute(killed().events, asked.lines(clock.now_s() + 7.0))
    assert (after.kind, after.component, after.node) == (FailureKind.HARDWARE, Component.GPU, "local")
    assert "check: gpu_xid: Xid 79 on GPU 3" in after.evidence
    assert not any("zombies" in line for line in after.evidence)


def test_what_was_found_long_ago_speaks_only_while_it_keeps_the_node_out(
    asked: OnRecord, ledger: Ledger, home: Home, clock: ManualClock
) -> None:
    name = node_name(home)
    broken = report(START_S, disk_io=(CheckState.FAIL, "I/O error"))
    record_event(ledger, name, seen_in(broken), actor="checker")
    clock.advance(3_600.0)
    (old, standing) = asked.lines(clock.now_s())
    assert (old.at_s, standing.at_s) == (START_S, START_S + 3_600.0)
    late = Story(now_s=clock.now_s()).begin().start_attempt(0, ready_after_s=1.0)
    late.tell(K.RANK_EXITED, rank=0, signal=9)
    assert attribute(late.events, [standing]).component is Component.DISK
    assert attribute(late.events, [old]).component is Component.PROCESS


def test_a_person_who_drains_a_node_is_no_sign_of_a_failure(
    asked: OnRecord, ledger: Ledger, home: Home
) -> None:
    record_event(ledger, node_name(home), Drain(START_S, "ann", "gpu_xid? looking"), actor="ann")
    assert asked.lines(START_S) == ()


@pytest.mark.parametrize(
    ("state", "reason", "kind", "component"),
    [
        (JobState.NODE_LOST, "no sign of it", FailureKind.HARDWARE, Component.NODE),
        (JobState.PREEMPTED, "", FailureKind.PREEMPTION, Component.SCHEDULER),
        (JobState.REQUEUED, "Slurm ended it: preempted", FailureKind.PREEMPTION, Component.SCHEDULER),
        (JobState.REQUEUED, "its time was nearly up", FailureKind.SYSTEM_SOFTWARE, Component.SUPERVISOR),
        (JobState.OUT_OF_MEMORY, "", FailureKind.SYSTEM_SOFTWARE, Component.HOST_MEMORY),
    ],
)
def test_a_later_life_of_the_job_knows_what_the_one_before_died_of(
    asked: OnRecord,
    home: Home,
    state: JobState,
    reason: str,
    kind: FailureKind,
    component: Component,
) -> None:
    story = Story(now_s=START_S).begin().start_attempt(0, ready_after_s=1.0).steps(1, 5, step_s=1.0)
    tell(home, JobEvent(START_S - 1.0, JOB, JobState.RUNNING, "n1"))
    tell(home, JobEvent(START_S + 9.0, JOB, state, "n1", reason))
    tell(home, JobEvent(START_S + 30.0, JOB, JobState.RUNNING, "n2", restarts=1))
    found = left_open(story.events, "local", START_S + 31.0, asked.lines(START_S + 31.0))
    assert found is not None
    assert (found.kind, found.component) == (kind, component)
    assert any("n1" in line for line in found.evidence) == (component is not Component.SUPERVISOR)


def test_words_about_an_earlier_life_do_not_count_for_a_later_one(asked: OnRecord, home: Home) -> None:
    tell(home, JobEvent(START_S - 601.0, JOB, JobState.NODE_LOST, "n1"))
    story = Story(now_s=START_S).begin().start_attempt(0, ready_after_s=1.0)
    found = left_open(story.events, "local", START_S + 2.0, asked.lines(START_S + 2.0))
    assert found is not None and found.component is Component.SUPERVISOR


def test_what_cannot_be_read_says_nothing(asked: OnRecord, home: Home) -> None:
    tell(home, JobEvent(START_S, JOB, JobState.PREEMPTED))
    journal = JobFolder.of(home.runs_dir, RUN).journal
    assert len(asked.lines(START_S)) == 1
    with journal.open("a") as file:
        file.write('{"at_s": 1')
    assert len(asked.lines(START_S)) == 1, "a line that was cut is left out"
    with journal.open("a") as file:
        file.write('\n{"at_s": "never"}\n')
    assert asked.lines(START_S) == ()


def test_what_a_real_slurm_said_is_understood() -> None:
    by_job = {}
    for job in ("4", "6", "10"):
        lines = [line for line in ANSWERS.read_text().splitlines() if line.startswith(f"{job}|")]
        lives = read_accounts("\n".join(lines) + "\n", JobId(job))
        by_job[job] = [line.text for line in scheduler_lines(lives, {})]
    assert by_job["4"] == []
    assert [text.split(": ")[1].split()[0] for text in by_job["6"]] == ["NODE_FAIL", "NODE_FAIL"]
    assert by_job["10"] == ["job 10 on node2: PREEMPTED"]
