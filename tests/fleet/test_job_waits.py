"""Time between two lives of a job has a kind, by the job's journal."""

from __future__ import annotations

import math
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from stoker.core.events import EventKind
from stoker.fleet.goodput import Goodput, account
from stoker.fleet.job_journal import append_event, read_journal
from stoker.fleet.launchers import JobEvent, JobId, JobState
from support.run_events import Story

K, S = EventKind, JobState
JOB = JobId("7")


def a_journal(folder: Path, *told: tuple[float, JobState, int] | JobEvent) -> tuple[JobEvent, ...]:
    """Written and read as a run's journal is."""
    for each in told:
        event = each if isinstance(each, JobEvent) else JobEvent(each[0], JOB, each[1], restarts=each[2])
        append_event(folder / "events.jsonl", event)
    return read_journal(folder / "events.jsonl")


def spent(goodput: Goodput) -> dict[str, float]:
    assert math.isclose(sum(goodput.seconds.values()), goodput.wall_s, abs_tol=1e-6)
    return {kind.value: round(amount_s, 6) for kind, amount_s in goodput.seconds.items() if amount_s}


def two_lives(*, leaves: bool) -> Story:
    """From 100 to 104 in the first, which may tell its end; from 150 in the second."""
    story = Story(now_s=100.0).begin().start_attempt(0, ready_after_s=1.0).steps(1, 3, step_s=1.0)
    if leaves:
        story.tell(K.ATTEMPT_ENDED, outcome="left").tell(K.RUN_ENDED, outcome="cancelled")
    story.now_s = 150.0
    return story.begin().start_attempt(3, ready_after_s=1.0).steps(4, 4, step_s=1.0)


def test_a_run_that_left_in_time_waits_in_the_queue(tmp_path: Path) -> None:
    jobs = a_journal(
        tmp_path,
        (40.0, S.WAITING, 0),
        (98.0, S.RUNNING, 0),
        (104.5, S.REQUEUED, 0),
        (105.0, S.WAITING, 1),
        (147.0, S.RUNNING, 1),
        (147.5, S.RUNNING, 1),
    )
    goodput = account(two_lives(leaves=True).events, jobs=jobs)
    assert spent(goodput) == {"queue": 58.0 + 42.5, "start_up": 2.0 + 3.0 + 2.0, "productive": 4.0}
    assert goodput.stopped_s == 0.5


def test_without_a_journal_the_time_between_supervisors_is_nobodys() -> None:
    goodput = account(two_lives(leaves=True).events)
    assert (spent(goodput), goodput.stopped_s) == ({"start_up": 2.0, "productive": 4.0}, 46.0)


def test_a_lost_node_is_detected_and_then_the_job_waits(tmp_path: Path) -> None:
    jobs = a_journal(tmp_path, (98.0, S.RUNNING, 0), (116.0, S.NODE_LOST, 0), (149.0, S.RUNNING, 1))
    goodput = account(two_lives(leaves=False).events, jobs=jobs)
    told = spent(goodput)
    assert (told["detection"], told["queue"], goodput.stopped_s) == (12.0, 33.0, 0.0)


def test_time_that_somebody_else_had_the_nodes_is_a_preemption(tmp_path: Path) -> None:
    jobs = a_journal(tmp_path, (98.0, S.RUNNING, 0), (104.0, S.PREEMPTED, 0), (150.0, S.RUNNING, 1))
    assert spent(account(two_lives(leaves=False).events, jobs=jobs))["preemption"] == 46.0
    by_watch = JobEvent(104.0, JOB, S.REQUEUED, "n1", "Slurm ended it: preempted")
    (tmp_path / "watch").mkdir()
    jobs = a_journal(tmp_path / "watch", (98.0, S.RUNNING, 0), by_watch, (150.0, S.RUNNING, 1))
    assert spent(account(two_lives(leaves=False).events, jobs=jobs))["preemption"] == 46.0


def test_where_nobody_told_of_the_end_all_since_the_last_event_is_queue(tmp_path: Path) -> None:
    jobs = a_journal(tmp_path, (98.0, S.RUNNING, 0), (148.0, S.RUNNING, 1))
    told = spent(account(two_lives(leaves=False).events, jobs=jobs))
    assert (told["queue"], told["start_up"]) == (44.0, 2.0 + 2.0 + 2.0)


def test_a_run_that_a_person_left_lying_is_stopped_and_waits_for_nobody(tmp_path: Path) -> None:
    jobs = a_journal(tmp_path, (98.0, S.RUNNING, 0), (104.0, S.CANCELLED, 0))
    goodput = account(two_lives(leaves=True).events, jobs=jobs)
    assert (goodput.stopped_s, "queue" in spent(goodput)) == (46.0, False)
    again = JobId("8")
    queued = (JobEvent(130.0, again, S.WAITING), JobEvent(149.0, again, S.RUNNING))
    goodput = account(two_lives(leaves=True).events, jobs=(*jobs, *queued))
    assert (goodput.stopped_s, spent(goodput)["queue"]) == (26.0, 19.0)


def test_a_job_that_failed_waits_only_once_a_person_has_it_queued_again(tmp_path: Path) -> None:
    failed = (98.0, S.RUNNING, 0), (104.0, S.FAILED, 0)
    jobs = a_journal(tmp_path, *failed, (140.0, S.WAITING, 1), (149.0, S.RUNNING, 1))
    goodput = account(two_lives(leaves=True).events, jobs=jobs)
    assert (spent(goodput)["queue"], goodput.stopped_s) == (9.0, 36.0)


def test_a_job_that_never_ran_again_is_not_waited_for(tmp_path: Path) -> None:
    """Its supervisor was taken to another machine meanwhile."""
    jobs = a_journal(tmp_path, (98.0, S.RUNNING, 0), (104.0, S.REQUEUED, 0), (105.0, S.WAITING, 1))
    assert account(two_lives(leaves=True).events, jobs=jobs).stopped_s == 46.0


def test_only_what_lies_in_the_time_asked_for_counts(tmp_path: Path) -> None:
    jobs = a_journal(tmp_path, (98.0, S.RUNNING, 0), (104.0, S.REQUEUED, 0), (149.0, S.RUNNING, 1))
    assert spent(account(two_lives(leaves=True).events, since_s=130.0, jobs=jobs))["queue"] <= 20.0


_JOBS = st.builds(
    JobEvent,
    at_s=st.floats(0.0, 400.0),
    job=st.sampled_from([JOB, JobId("8")]),
    state=st.sampled_from(list(JobState)),
    restarts=st.integers(0, 2),
)


@settings(deadline=None)
@given(st.lists(_JOBS, max_size=12), st.booleans(), st.sampled_from([-math.inf, 102.0, 130.0]))
def test_no_journal_makes_a_second_count_twice(jobs: list[JobEvent], leaves: bool, since_s: float) -> None:
    events = two_lives(leaves=leaves).events
    goodput = account(events, since_s, jobs)
    spent(goodput)
    assert all(amount_s >= 0 for amount_s in goodput.seconds.values())
    between_s = goodput.wall_s + goodput.stopped_s
    first_s = min([100.0, *(each.at_s for each in jobs)])
    assert between_s <= 152.0 - max(first_s, since_s) + 1e-6
