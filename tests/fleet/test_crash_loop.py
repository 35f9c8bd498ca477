"""A run that only fails is stopped, however often it is requeued: counted from its events."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stoker.core.events import EventKind
from stoker.fleet.crash_loop import failures_in_row
from stoker.fleet.errors import CrashLoop
from stoker.fleet.run_state import Phase
from stoker.ledger.records import RunOutcome
from support.fake_house import FakeErrands, a_policy, make_folder, supervise, told
from support.run_events import Story
from support.run_house import SPEC, run_house

K = EventKind
DAY_S = 86_400.0


def requeued(times: int, *, apart_s: float = 60.0, committed: tuple[int, ...] = ()) -> Story:
    """A run that is started `times` times and fails each time, after these checkpoints in the first life."""
    story = Story()
    for life in range(times):
        story.begin().start_attempt(0, ready_after_s=1.0)
        for step in committed if life == 0 else ():
            story.tell(K.CHECKPOINT_COMMITTED, rank=0, step=step)
        story.tell(K.RANK_EXITED, rank=0, signal=9).tell(K.ATTEMPT_ENDED, outcome="failed")
        story.tell(K.RUN_ENDED, after_s=apart_s, outcome="failed")
    return story


def count(story: Story, window_s: float = DAY_S) -> int:
    return failures_in_row(story.events, story.now_s, window_s)


def test_failures_count_over_all_supervisors_of_a_run() -> None:
    assert count(requeued(35)) == 35
    assert count(requeued(35, apart_s=600.0), window_s=3_600.0) == 5


def test_a_checkpoint_of_a_later_step_ends_the_row_and_one_of_an_earlier_step_does_not() -> None:
    story = requeued(3, committed=(8,))
    assert count(story) == 3
    story.tell(K.CHECKPOINT_COMMITTED, rank=0, step=8)
    assert count(story) == 3
    story.tell(K.CHECKPOINT_COMMITTED, rank=0, step=9)
    assert count(story) == 0


def test_an_attempt_whose_supervisor_died_with_it_is_a_failure() -> None:
    story = Story()
    for _ in range(4):
        story.begin().start_attempt(0, ready_after_s=1.0)
    assert count(story) == 4


def test_a_cancel_and_a_preemption_are_no_failures() -> None:
    story = Story().begin().start_attempt(0, ready_after_s=1.0).tell(K.ATTEMPT_ENDED, outcome="cancelled")
    story.begin().start_attempt(0, ready_after_s=1.0)
    story.tell(K.ATTEMPT_ENDED, outcome="failed", failure_kind="preemption")
    assert count(story) == 0


def test_a_run_that_was_forgiven_begins_anew() -> None:
    story = requeued(9)
    story.tell(K.RUN_STARTED, forgiven=True)
    assert count(story) == 0


def test_a_failure_of_the_future_counts_since_one_of_the_clocks_is_wrong() -> None:
    assert failures_in_row(requeued(3).events, now_s=-1_000.0, window_s=60.0) == 3


@settings(deadline=None)
@given(st.lists(st.sampled_from(["fail", "commit", "die", "begin"]), max_size=30), st.floats(0, 1e6))
def test_the_row_is_never_longer_than_the_attempts_and_grows_with_the_window(
    deeds: list[str], window_s: float
) -> None:
    story = Story().begin()
    for place, deed in enumerate(deeds):
        story.now_s += 100.0
        if deed == "begin":
            story.begin()
        elif deed == "commit":
            story.tell(K.CHECKPOINT_COMMITTED, rank=0, step=place)
        else:
            story.start_attempt(0, ready_after_s=1.0)
            if deed == "fail":
                story.tell(K.ATTEMPT_ENDED, outcome="failed")
    assert 0 <= count(story, window_s) <= count(story, window_s * 2) <= story.attempt


def test_a_supervisor_goes_on_counting_and_waiting_where_the_last_one_was(tmp_path: Path) -> None:
    errands = FakeErrands(make_folder(tmp_path / "run"))
    errands.deeds = [{"do": "exit", "rank": 0, "at_step": "start", "attempt": "any", "code": 1}]
    verdict = supervise(errands, policy=a_policy(restarts=9, row_limit=5), failures_in_row=3)
    assert verdict.outcome is Phase.FAILED
    assert verdict.error is not None
    assert verdict.error.error_id == CrashLoop.id
    assert "5 times in a row" in verdict.error.message
    assert len(told(errands.folder, K.ATTEMPT_STARTED)) == 2
    assert all(each.number("delay_s") > 0 for each in told(errands.folder, K.RESTART_SCHEDULED))


def test_a_crash_loop_is_not_resumed_until_a_person_forgives_it(tmp_path: Path) -> None:

    spec = replace(SPEC, launch=replace(SPEC.launch, restarts=0, failures_in_row=2))
    fails = [{"do": "exit", "rank": 0, "at_step": "start", "attempt": "any", "code": 1}]
    with run_house(tmp_path) as house:
        run = house.start(spec, deeds=fails).run
        assert house.resume(run, deeds=fails).outcome is RunOutcome.FAILED
        with pytest.raises(CrashLoop, match="2 times in a row"):
            house.resume(run)
        assert house.resume(run, forgive=True).outcome is RunOutcome.FINISHED
