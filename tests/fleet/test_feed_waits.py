"""The `[feed]` line: what steps waited for data, from the events of a run."""

from __future__ import annotations

import pytest

from stoker.cli.run_text import feed_text
from stoker.core.events import EventKind
from stoker.fleet.feed_waits import FeedWaits, feed_waits
from support.run_events import Story


def test_the_first_step_of_each_attempt_is_counted_apart() -> None:
    story = Story().begin().start_attempt(0, ready_after_s=1.0)
    story.steps(1, 1, step_s=1.0, data_wait_s=0.25).steps(2, 5, step_s=1.0)
    story.tell(EventKind.ATTEMPT_ENDED, outcome="failed").start_attempt(3, ready_after_s=1.0)
    story.steps(4, 4, step_s=1.0, data_wait_s=0.125).steps(5, 5, step_s=1.0, data_wait_s=0.0005)
    story.steps(6, 6, step_s=1.0, data_wait_s=0.5)
    waits = feed_waits(story.events)
    assert (waits.first_steps, waits.first_waited_s) == (2, 0.375)
    assert (waits.steps, waits.late_steps, waits.worst_s, waits.worst_step) == (6, 1, 0.5, 6)
    assert waits.waited_s == pytest.approx(0.5005)
    assert waits.share_of_step_time == pytest.approx(0.5005 / 6)
    assert feed_text(waits) == (
        "[feed]  6 steps waited 0.500 s for data in all, 8.34% of step time, worst 500.0 ms at 6; "
        "1 waited more than 1 ms; the first of each attempt 0.375 s"
    )


def test_a_run_whose_steps_never_waited_says_so() -> None:
    story = Story().begin().start_attempt(0, ready_after_s=1.0).steps(1, 4, step_s=1.0)
    waits = feed_waits(story.events)
    assert (waits.steps, waits.late_steps, waits.waited_s, waits.worst_step) == (3, 0, 0.0, None)
    assert "3 steps waited 0.000 s" in waits.sentence()
    assert "0 waited more than 1 ms" in waits.sentence()


def test_a_run_without_steps_says_that_nothing_was_told() -> None:
    assert feed_waits(Story().begin().events) == FeedWaits()
    assert FeedWaits().sentence() == "no step told how long it waited for data"
