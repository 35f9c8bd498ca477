"""An attempt of which nobody told the end: its supervisor was killed, or its machine began anew."""

from __future__ import annotations

from stoker.core.events import EventKind
from stoker.fleet.attribution import Attribution
from stoker.fleet.left_open import left_open
from stoker.fleet.recoveries import Placed, find_recoveries
from stoker.fleet.taxonomy import Component, FailureKind
from support.run_events import Story

K = EventKind


def begun() -> Story:
    return Story().begin().start_attempt(0, ready_after_s=1.0).steps(1, 3, step_s=1.0)


def left(story: Story, now_s: float = 1_000.0) -> Attribution | None:
    return left_open(story.events, "local", now_s)


def test_an_attempt_without_an_end_died_with_its_supervisor() -> None:
    story = begun()
    for _ in range(2):  # what the agent tells while it ends does not change that
        found = left(story)
        assert found is not None
        assert (found.kind, found.component) == (FailureKind.SYSTEM_SOFTWARE, Component.SUPERVISOR)
        assert "attempt 1" in found.evidence[0]
        story.tell(K.RANK_EXITED, rank=0, signal=9, ordered=True)


def test_a_clock_that_began_anew_tells_of_the_machine() -> None:
    found = left(begun(), now_s=2.0)
    assert found is not None
    assert (found.kind, found.component) == (FailureKind.HARDWARE, Component.NODE)


def test_an_end_that_was_told_leaves_nothing_open() -> None:
    assert left(Story()) is None
    assert left(Story().begin()) is None
    assert left(begun().tell(K.ATTEMPT_ENDED, outcome="failed")) is None
    assert left(begun().tell(K.RUN_ENDED, outcome="cancelled")) is None
    assert left(begun().begin()) is None


def test_it_is_a_failure_among_the_others_that_the_run_went_on_from() -> None:
    story = begun()
    found = left(story)
    assert found is not None
    story.tell(K.RUN_STARTED, after_s=5.0, steps=10, world_size=2, session="resumed", **found.fields())
    story.start_attempt(2, ready_after_s=1.0).steps(3, 3, step_s=1.0)
    placed = [Placed(event.mono_s, event) for event in story.events]
    (recovery,) = find_recoveries(placed)
    assert (recovery.attempt, recovery.step, recovery.resume_step) == (1, 3, 2)
    assert (recovery.failed_s, recovery.detected_s) == (4.0, 9.0)
    assert recovery.attribution == found
    assert recovery.what == "the supervisor was lost"
