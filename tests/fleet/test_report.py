"""What a report tells, from events written by hand: recoveries, standing steps, newest evaluations."""

from __future__ import annotations

import math

from stoker.core.events import EventKind
from stoker.fleet.measured import MeasuredFigure, early_stop_of, measured_of
from stoker.fleet.recoveries import find_recoveries
from stoker.fleet.summary import error_at_end, place_events, standing_steps
from stoker.fleet.verdict import RunError
from support.run_events import Story

K = EventKind


def recoveries(story: Story) -> list[tuple[object, ...]]:
    return [
        (each.attempt, each.rank, each.what, each.injected, each.step, each.resume_step)
        for each in find_recoveries(place_events(story.events))
    ]


def trained(last: int) -> Story:
    return Story().begin().start_attempt(0, ready_after_s=2.0).steps(1, last, step_s=1.0)


def test_a_kill_is_told_once_with_its_whole_pause() -> None:
    story = trained(5)
    story.tell(K.FAULT_INJECTED, fault="kill_rank", step=5, target=1)
    story.tell(K.RANK_EXITED, after_s=0.25, rank=1, signal=9).tell(
        K.RANK_EXITED, after_s=0.25, rank=0, signal=9
    )
    story.tell(K.ATTEMPT_ENDED, outcome="failed").start_attempt(4, ready_after_s=2.0, after_s=0.5)
    story.steps(5, 6, step_s=1.0)
    (found,) = find_recoveries(place_events(story.events))
    assert (found.what, found.injected, found.step, found.resume_step) == ("ended by signal 9", True, 5, 4)
    assert (found.failed_s, found.detected_s, found.ready_s, found.next_step_s) == (7.0, 7.25, 10.0, 11.0)


def test_the_rank_that_hung_is_told_not_those_that_were_killed_for_it() -> None:
    story = trained(3).tell(K.RANK_HUNG, after_s=60.0, rank=1, silent_s=59.0, section="data")
    story.tell(K.RANK_EXITED, rank=0, signal=9).tell(K.RANK_EXITED, rank=1, signal=9)
    story.tell(K.ATTEMPT_ENDED, outcome="failed")
    (found,) = find_recoveries(place_events(story.events))
    assert (found.rank, found.what, found.injected) == (1, "hung in data", False)
    assert (found.failed_s, found.detected_s) == (6.0, 65.0)
    assert (found.resume_step, found.ready_s, found.next_step_s) == (None, None, None)


def test_a_rank_that_only_lost_its_peer_is_not_told_for_the_peer() -> None:
    story = trained(3).tell(K.RANK_ERROR, rank=0, error_id="peer-lost", exit_code=118)
    story.tell(K.RANK_EXITED, after_s=0.1, rank=0, exit_code=118).tell(K.RANK_EXITED, rank=1, signal=9)
    story.tell(K.ATTEMPT_ENDED, outcome="failed")
    (found,) = find_recoveries(place_events(story.events))
    assert (found.rank, found.what, found.detected_s) == (1, "ended by signal 9", 5.0)


def test_a_peer_that_was_never_found_leaves_the_word_of_the_rank_that_lost_it() -> None:
    story = trained(3).tell(K.RANK_ERROR, rank=0, error_id="peer-lost", exit_code=118)
    story.tell(K.RANK_EXITED, rank=0, exit_code=118).tell(K.RANK_EXITED, rank=1, exit_code=118)
    assert recoveries(story.tell(K.ATTEMPT_ENDED, outcome="failed")) == [(1, 0, "peer-lost", False, 3, None)]


def test_an_error_that_a_rank_reports_is_told_by_its_id() -> None:
    story = trained(3).tell(K.RANK_ERROR, rank=0, error_id="corrupt-stream", exit_code=59)
    story.tell(K.RANK_EXITED, rank=0, exit_code=59).tell(K.ATTEMPT_ENDED, outcome="failed")
    assert recoveries(story) == [(1, 0, "corrupt-stream", False, 3, None)]


def test_a_lost_agent_is_told_though_no_rank_says_anything() -> None:
    story = trained(3).tell(K.ATTEMPT_ENDED, outcome="failed").start_attempt(0, ready_after_s=1.0)
    assert recoveries(story) == [(1, -1, "the agent was lost", False, 3, 0)]


def test_ranks_that_end_because_of_a_cancel_are_no_failure() -> None:
    story = trained(3).tell(K.CANCEL_REQUESTED).tell(K.RANK_EXITED, rank=0, signal=15)
    assert recoveries(story.tell(K.ATTEMPT_ENDED, outcome="cancelled")) == []


def test_two_failures_are_two() -> None:
    story = trained(3).tell(K.RANK_EXITED, rank=0, signal=9).tell(K.ATTEMPT_ENDED, outcome="failed")
    story.start_attempt(2, ready_after_s=1.0).steps(3, 4, step_s=1.0)
    story.tell(K.RANK_EXITED, rank=1, exit_code=1).tell(K.ATTEMPT_ENDED, outcome="failed")
    assert recoveries(story) == [
        (1, 0, "ended by signal 9", False, 3, 2),
        (2, 1, "ended with exit code 1", False, 4, None),
    ]


def test_why_a_run_failed_is_told_until_it_goes_on() -> None:
    why = {"error_id": "non-finite-loss", "message": "Step 4.", "hint": "Lower it.", "exit_code": 121}
    story = trained(3).tell(K.ATTEMPT_ENDED, outcome="failed").tell(K.RUN_ENDED, outcome="failed", **why)
    assert error_at_end(place_events(story.events)) == RunError(
        "non-finite-loss", "Step 4.", "Lower it.", 121
    )
    story.begin()
    assert error_at_end(place_events(story.events)) is None
    story.tell(K.RUN_ENDED, outcome="finished", error_id="", message="", hint="", exit_code=0)
    assert error_at_end(place_events(story.events)) is None


def test_a_step_stands_unless_a_later_attempt_went_back_behind_it() -> None:
    story = trained(5).tell(K.RANK_EXITED, rank=0, signal=9)
    story.start_attempt(2, ready_after_s=1.0).steps(3, 4, step_s=1.0)
    story.tell(K.RANK_EXITED, rank=0, signal=9).start_attempt(4, ready_after_s=1.0).steps(5, 6, step_s=1.0)
    points = standing_steps(tuple(place_events(story.events)))
    assert [(point.step, point.attempt) for point in points if point.stands] == [
        (1, 1),
        (2, 1),
        (3, 2),
        (4, 2),
        (5, 3),
        (6, 3),
    ]
    assert len(points) == 9


def test_a_loss_that_is_not_a_number_is_told_as_missing() -> None:
    story = trained(1).tell(K.STEP, rank=0, step=2, loss=math.nan)
    assert [point.loss for point in standing_steps(tuple(place_events(story.events)))] == [10.0, None]


def test_places_stand_still_between_two_supervisors() -> None:
    story = trained(1).tell(K.RUN_ENDED, outcome="cancelled")
    story.now_s += 500.0
    story.begin().start_attempt(1, ready_after_s=1.0)
    assert [placed.at_s for placed in place_events(story.events)][-1] == 4.0


def test_the_newest_figure_of_an_objective_counts_and_an_early_stop_says_what_was_best() -> None:
    story = Story().begin().start_attempt(0, ready_after_s=1.0).steps(1, 2, step_s=1.0)
    for value in (0.5, math.nan):
        story.tell(EventKind.FIGURE, rank=0, name="loss", value=value, rows=7)
    story.tell(EventKind.FIGURE, rank=0, name="accuracy", value=0.75, rows=7)
    assert early_stop_of(story.events) is None
    story.tell(EventKind.STOPPED_EARLY, rank=0, step=2, best_step=1, best=0.5)
    assert measured_of(story.events) == (MeasuredFigure("loss", None, 7), MeasuredFigure("accuracy", 0.75, 7))
    stop = early_stop_of(story.events)
    assert stop is not None
    assert stop.sentence() == "after step 2: no evaluation was better than 0.5000 of step 1"
