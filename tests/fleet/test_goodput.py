"""The account of a run: each second has one kind, whatever the events say or miss."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stoker.core.events import REQUIRED_FIELDS, Event, EventKind, Section
from stoker.fleet.goodput import Goodput, account
from stoker.fleet.summary import place_events, standing_steps
from support.run_events import Story, an_event

K = EventKind


def spent(goodput: Goodput) -> Mapping[str, float]:
    """The kinds that took any time."""
    return {kind.value: round(amount_s, 9) for kind, amount_s in goodput.seconds.items() if amount_s}


def undisturbed() -> Story:
    story = Story().begin(steps=4).start_attempt(0, ready_after_s=3.0, after_s=0.5)
    story.steps(1, 4, step_s=1.0, data_wait_s=0.25, slack_s=0.125)
    story.tell(K.ATTEMPT_ENDED, outcome="finished", after_s=0.5)
    return story.tell(K.RUN_ENDED, outcome="finished", after_s=0.25)


def killed_and_recovered() -> Story:
    """Checkpoint at 4, killed after 6 by an injected fault; steps 5 and 6 are done again."""
    story = Story().begin(steps=8).start_attempt(0, ready_after_s=3.0)
    story.steps(1, 4, step_s=1.0)
    story.tell(K.CHECKPOINT_STARTED, rank=0, step=4)
    story.tell(K.CHECKPOINT_COMMITTED, after_s=0.5, rank=0, step=4, stall_s=0.5)
    story.steps(5, 6, step_s=1.0)
    story.tell(K.FAULT_INJECTED, fault="kill_rank", step=6, target=1)
    story.tell(K.RANK_EXITED, after_s=0.0625, rank=1, signal=9)
    story.tell(K.RANK_EXITED, after_s=0.125, rank=0, signal=9)
    story.tell(K.ATTEMPT_ENDED, after_s=0.125, outcome="failed")
    story.tell(K.RESTART_SCHEDULED, delay_s=0.0, reason="killed")
    story.start_attempt(4, ready_after_s=2.0)
    story.steps(5, 8, step_s=1.0)
    story.tell(K.ATTEMPT_ENDED, outcome="finished")
    return story.tell(K.RUN_ENDED, outcome="finished")


def test_a_checkpoint_in_the_background_counts_where_its_copy_was_taken_not_where_it_was_committed() -> None:
    story = Story().begin(steps=4).start_attempt(0, ready_after_s=3.0)
    story.steps(1, 2, step_s=1.0)
    story.tell(K.CHECKPOINT_STARTED, after_s=0.25, rank=0, step=2, stall_s=0.25)
    story.steps(3, 3, step_s=1.0)
    story.tell(K.CHECKPOINT_COMMITTED, rank=0, step=2, stall_s=0.25, background=True)
    story.steps(4, 4, step_s=1.0)
    story.tell(K.ATTEMPT_ENDED, outcome="finished")
    goodput = account(story.tell(K.RUN_ENDED, outcome="finished").events)
    assert (spent(goodput)["checkpoint"], spent(goodput)["productive"]) == (0.25, 4.0)


def test_an_undisturbed_run_is_start_up_steps_and_a_rest() -> None:
    goodput = account(undisturbed().events)
    assert spent(goodput) == {"start_up": 3.5, "productive": 3.0, "data_wait": 1.0, "other": 1.25}
    assert goodput.wall_s == 8.75
    assert goodput.ettr == 3.0 / 8.75
    assert (goodput.steps, goodput.tokens, goodput.tokens_per_s) == (4, 400, 100.0)
    assert goodput.tokens_per_s_of_run == 400 / 8.75
    assert (goodput.failures, goodput.mttf_s) == (0, None)


def test_steps_done_again_are_lost_and_recovery_is_told_apart() -> None:
    goodput = account(killed_and_recovered().events)
    assert spent(goodput) == {
        "start_up": 3.0,
        "productive": 8.0,
        "lost": 2.5,
        "detection": 0.0625,
        "restart": 2.25,
    }
    assert (goodput.steps, goodput.steps_lost, goodput.tokens, goodput.tokens_lost) == (8, 2, 800, 200)
    assert (goodput.attempts, goodput.failures, goodput.faults_injected) == (2, 1, 1)
    assert goodput.mttf_s == 3.0 + 6.5 + 2.0 + 4.0


def test_a_batch_left_out_and_steps_rolled_back_are_lost() -> None:
    story = Story().begin(steps=4).start_attempt(0, ready_after_s=1.0).steps(1, 2, step_s=1.0)
    told = {"reason": "the loss is nan", "loss": math.nan, "grad_norm": 1.0, "batch_digest": "00"}
    story.tell(K.BATCH_SKIPPED, after_s=0.75, rank=0, step=3, **told)
    story.tell(K.ROLLED_BACK, after_s=0.25, rank=0, step=3, to_step=1, reason="the loss is nan")
    story.steps(2, 3, step_s=1.0).tell(K.RUN_ENDED, outcome="finished")
    goodput = account(story.events)
    assert spent(goodput) == {"start_up": 1.0, "productive": 3.0, "lost": 2.0}
    assert (goodput.steps, goodput.steps_lost, goodput.attempts) == (3, 1, 1)
    points = standing_steps(place_events(story.events))
    assert [(point.step, point.stands) for point in points] == [(1, True), (2, False), (2, True), (3, True)]


def test_a_checkpoint_counts_by_its_stall() -> None:
    story = Story().begin().start_attempt(0, ready_after_s=1.0).steps(1, 2, step_s=1.0)
    story.tell(K.CHECKPOINT_COMMITTED, after_s=0.75, rank=0, step=2, stall_s=0.5)
    story.steps(3, 3, step_s=1.0)
    assert spent(account(story.events)) == {
        "start_up": 1.0,
        "productive": 3.0,
        "checkpoint": 0.5,
        "other": 0.25,
    }


def test_a_hang_lasts_for_as_long_as_it_was_silent() -> None:
    story = Story().begin().start_attempt(0, ready_after_s=1.0).steps(1, 2, step_s=1.0)
    story.tell(K.RANK_HUNG, after_s=61.0, rank=1, silent_s=60.5, section="data")
    story.tell(K.ATTEMPT_ENDED, after_s=1.0, outcome="failed")
    goodput = account(story.events)
    assert spent(goodput) == {
        "start_up": 1.0,
        "productive": 2.0,
        "lost": 0.5,
        "hang": 60.5,
        "restart": 1.0,
    }


def test_time_outside_of_steps_goes_by_the_section_of_rank_0() -> None:
    story = Story().begin().start_attempt(0, ready_after_s=1.0).steps(1, 2, step_s=1.0)
    story.tell(K.HEARTBEAT, rank=0, section="checkpoint", step=2)
    story.tell(K.HEARTBEAT, after_s=0.5, rank=0, section="evaluate", step=2)
    story.tell(K.HEARTBEAT, after_s=0.1, rank=1, section="done", step=2)
    story.tell(K.HEARTBEAT, after_s=1.9, rank=0, section="done", step=2)
    story.tell(K.RANK_EXITED, after_s=0.25, rank=0)
    story.tell(K.ATTEMPT_ENDED, outcome="finished")
    assert spent(account(story.events)) == {
        "start_up": 1.0,
        "productive": 2.0,
        "checkpoint": 0.5,
        "evaluate": 2.0,
        "other": 0.25,
    }


def test_an_evaluation_counts_what_it_says_even_without_heartbeats() -> None:
    story = Story().begin().start_attempt(0, ready_after_s=1.0).steps(1, 2, step_s=1.0)
    story.tell(K.CHECKPOINT_COMMITTED, after_s=0.5, rank=0, step=2, stall_s=0.5)
    story.tell(K.EVALUATION, after_s=2.25, rank=0, name="model", bits_per_byte=2.1, bytes=9, seconds=2.0)
    assert spent(account(story.events)) == {
        "start_up": 1.0,
        "productive": 2.0,
        "checkpoint": 0.5,
        "evaluate": 2.0,
        "other": 0.25,
    }


def test_a_cancelled_run_has_no_failure() -> None:
    story = Story().begin().start_attempt(0, ready_after_s=1.0).steps(1, 2, step_s=1.0)
    story.tell(K.CANCEL_REQUESTED, after_s=0.5)
    story.tell(K.RANK_EXITED, after_s=0.5, rank=0, signal=15).tell(K.RUN_ENDED, outcome="cancelled")
    goodput = account(story.events)
    assert goodput.failures == 0
    assert spent(goodput) == {"start_up": 1.0, "productive": 2.0, "other": 1.0}


def test_the_time_between_two_supervisors_is_told_apart() -> None:
    story = Story().begin().start_attempt(0, ready_after_s=1.0).steps(1, 2, step_s=1.0)
    story.tell(K.CANCEL_REQUESTED).tell(K.RUN_ENDED, outcome="cancelled")
    story.now_s += 3_600.0
    story.begin().start_attempt(1, ready_after_s=1.0).steps(2, 4, step_s=1.0)
    goodput = account(story.events)
    assert goodput.stopped_s == 3_600.0
    assert spent(goodput) == {"start_up": 2.0, "productive": 4.0, "lost": 1.0}


def test_a_supervisor_that_died_leaves_no_time_uncounted() -> None:
    story = Story().begin().start_attempt(0, ready_after_s=1.0).steps(1, 3, step_s=1.0)
    story.now_s += 50.0
    story.begin().start_attempt(0, ready_after_s=1.0).steps(1, 3, step_s=1.0)
    goodput = account(story.events)
    assert (goodput.stopped_s, goodput.steps_lost) == (50.0, 3)
    assert spent(goodput) == {"start_up": 2.0, "productive": 3.0, "lost": 3.0}


def test_a_failure_before_the_first_step_of_a_restart_is_restart_time() -> None:
    story = Story().begin().start_attempt(0, ready_after_s=1.0).steps(1, 1, step_s=1.0)
    story.tell(K.RANK_EXITED, rank=0, signal=9).tell(K.ATTEMPT_ENDED, outcome="failed")
    story.attempt = 2
    story.tell(K.ATTEMPT_STARTED, after_s=1.0, world_size=2, resume_step=1)
    story.tell(K.RANK_EXITED, after_s=2.0, rank=0, exit_code=1).tell(K.ATTEMPT_ENDED, outcome="failed")
    story.start_attempt(1, ready_after_s=2.0, after_s=4.0)
    goodput = account(story.events)
    assert spent(goodput) == {"start_up": 1.0, "productive": 1.0, "restart": 9.0}
    assert goodput.failures == 2


def test_a_wall_clock_that_is_set_back_changes_nothing_within_a_supervisor() -> None:
    events = killed_and_recovered().events
    moved = [
        Event(e.ts - 7_200.0 if n > 9 else e.ts, e.mono_s, e.run, e.attempt, e.rank, e.node, e.kind, e.fields)
        for n, e in enumerate(events)
    ]
    assert account(moved) == account(events)


def test_a_monotonic_clock_that_goes_back_is_counted_and_takes_no_time_away() -> None:
    story = Story().begin().start_attempt(0, ready_after_s=1.0).steps(1, 2, step_s=1.0)
    story.now_s -= 30.0
    story.steps(3, 3, step_s=1.0)
    story.now_s += 30.0
    story.steps(4, 4, step_s=1.0)
    goodput = account(story.events)
    assert goodput.clock_steps_back == 1
    assert goodput.wall_s == sum(goodput.seconds.values()) == 5.0


def test_a_wall_clock_set_back_between_two_supervisors_gives_no_negative_time() -> None:
    story = Story().begin().start_attempt(0, ready_after_s=1.0).steps(1, 2, step_s=1.0)
    story.tell(K.RUN_ENDED, outcome="cancelled")
    story.now_s -= 1_000.0
    story.begin().start_attempt(2, ready_after_s=1.0)
    goodput = account(story.events)
    assert (goodput.stopped_s, goodput.clock_steps_back, goodput.wall_s) == (0.0, 1, 4.0)


def test_time_in_a_queue_is_the_runs_and_after_a_preemption_it_is_told_so() -> None:
    story = Story(now_s=1_000.0).tell(K.RUN_STARTED, queued_s=40.0)
    story.start_attempt(0, ready_after_s=1.0).steps(1, 2, step_s=1.0)
    story.tell(K.CANCEL_REQUESTED, reason="preemption").tell(K.RUN_ENDED, after_s=0.5, outcome="cancelled")
    story.now_s += 100.0
    story.tell(K.RUN_STARTED, queued_s=70.0).start_attempt(2, ready_after_s=1.0).steps(3, 3, step_s=1.0)
    story.tell(K.RUN_STARTED, after_s=20.0, queued_s=7_000.0)
    goodput = account(story.events)
    assert spent(goodput) == {"start_up": 2.0, "productive": 3.0, "preemption": 70.5, "queue": 60.0}
    assert (goodput.stopped_s, goodput.wall_s) == (30.0, 135.5)


def test_a_pre_empted_attempt_is_no_failure_and_what_follows_is_its_cost() -> None:
    story = Story().begin().start_attempt(0, ready_after_s=1.0).steps(1, 1, step_s=1.0)
    story.tell(K.ATTEMPT_ENDED, outcome="failed", failure_kind="preemption")
    story.start_attempt(1, ready_after_s=2.0, after_s=5.0).steps(2, 2, step_s=1.0)
    goodput = account(story.events)
    assert spent(goodput) == {"start_up": 1.0, "productive": 2.0, "preemption": 7.0}
    assert (goodput.failures, goodput.preemptions) == (0, 1)


def test_what_a_compiler_took_in_a_step_is_told_apart() -> None:
    story = Story().begin().start_attempt(0, ready_after_s=1.0)
    story.tell(K.STEP, after_s=10.0, rank=0, step=1, step_s=9.5, data_wait_s=0.5, compile_s=7.0)
    assert spent(account(story.events)) == {
        "start_up": 1.0,
        "data_wait": 0.5,
        "compilation": 7.0,
        "productive": 2.0,
        "other": 0.5,
    }


def test_seconds_count_once_for_every_node_and_spare_nodes_are_idle() -> None:
    story = Story().begin()
    story.tell(K.ATTEMPT_STARTED, resume_step=0, world_size=16, nodes=4, spares=1)
    story.tell(K.RANK_READY, after_s=1.0, rank=0).steps(1, 2, step_s=1.0)
    story.tell(K.ATTEMPT_ENDED, outcome="failed")
    story.tell(K.ATTEMPT_STARTED, resume_step=1, world_size=16, nodes=3, spares=2)
    story.tell(K.RANK_READY, after_s=2.0, rank=0).steps(2, 2, step_s=1.0)
    goodput = account(story.events)
    nodes = {kind.value: amount_s for kind, amount_s in goodput.node_seconds.items() if amount_s}
    # The step that was done again was lost on four nodes.
    assert nodes == {"start_up": 4.0, "productive": 7.0, "lost": 4.0, "restart": 6.0, "idle_spare": 9.0}
    assert sum(nodes.values()) == 5 * 3.0 + 5 * 3.0


def test_of_an_account_since_a_time_only_what_was_spent_from_then_on_counts() -> None:
    events = killed_and_recovered().events
    whole, end_s = account(events), events[-1].ts
    assert account(events, since_s=0.0) == whole
    for back_s in (0.5, 3.25, 6.0, 9.0, 14.0):
        part = account(events, since_s=end_s - back_s)
        assert part.wall_s == pytest.approx(back_s)
        adds_up_to(part)
    last = account(events, since_s=end_s - 2.5)
    assert spent(last) == {"productive": 2.5}
    assert (last.steps, last.failures, last.attempts) == (3, 0, 0)


def test_no_events_make_an_empty_account() -> None:
    goodput = account([])
    assert (goodput.wall_s, goodput.ettr, goodput.tokens_per_s, goodput.mttf_s) == (0.0, None, None, None)
    assert spent(goodput) == {}


@pytest.mark.parametrize("story", [undisturbed(), killed_and_recovered()])
def test_a_file_cut_anywhere_still_adds_up(story: Story) -> None:
    for length in range(len(story.events)):
        adds_up(story.events[:length])
        adds_up(story.events[length:])
        adds_up(story.events[:length] + story.events[length + 1 :])


def adds_up(events: list[Event], since_s: float = -math.inf) -> None:
    adds_up_to(account(events, since_s))


def adds_up_to(goodput: Goodput) -> None:
    assert all(amount_s >= 0.0 for amount_s in goodput.seconds.values())
    assert math.isclose(sum(goodput.seconds.values()), goodput.wall_s, rel_tol=1e-9, abs_tol=1e-6)
    assert goodput.ettr is None or -1e-9 <= goodput.ettr <= 1.0 + 1e-9
    assert goodput.stopped_s >= 0.0
    assert goodput.mttf_s is None or goodput.mttf_s <= goodput.wall_s + 1e-6
    assert all(amount_s >= 0.0 for amount_s in goodput.node_seconds.values())


_NUMBERS = st.one_of(
    st.floats(-5.0, 500.0), st.sampled_from([math.nan, math.inf, -math.inf]), st.integers(-3, 50)
)
_TEXTS = st.one_of(
    st.sampled_from([each.value for each in Section]),
    st.sampled_from(["failed", "finished", "cancelled", "?"]),
)
_FIELD = {int: st.integers(-3, 50), str: _TEXTS, (int, float): _NUMBERS, list: st.just([])}


@st.composite
def any_event(draw: st.DrawFn) -> Event:
    kind = draw(st.sampled_from(list(EventKind)))
    fields = {name: draw(_FIELD[expected]) for name, expected in REQUIRED_FIELDS[kind].items()}
    at_s = draw(st.floats(-100.0, 1_000.0))
    rank, node = draw(st.integers(-1, 2)), draw(st.sampled_from(["local", "local", "far"]))
    optional = {
        "queued_s": _NUMBERS,
        "compile_s": _NUMBERS,
        "nodes": st.integers(-1, 5),
        "spares": st.integers(-1, 3),
        "failure_kind": st.sampled_from(["preemption", "hardware", "?"]),
        "reason": st.sampled_from(["preemption", "?"]),
    }
    fields |= {name: draw(values) for name, values in optional.items() if draw(st.booleans())}
    return an_event(kind, at_s, rank=rank, attempt=draw(st.integers(1, 3)), node=node, **fields)


@settings(deadline=None)
@given(st.lists(any_event(), max_size=40), st.booleans())
def test_any_events_in_any_order_add_up_to_the_wall_time(events: list[Event], in_order: bool) -> None:
    events = sorted(events, key=lambda event: event.mono_s) if in_order else events
    adds_up(events)
    adds_up(events, since_s=400.0)


@settings(deadline=None)
@given(st.lists(any_event(), max_size=40), st.integers(1, 5), st.integers(0, 3))
def test_seconds_of_nodes_are_those_of_the_run_for_every_node(
    events: list[Event], nodes: int, spares: int
) -> None:
    fixed = [
        replace(each, fields={**each.fields, "nodes": nodes, "spares": spares, "queued_s": 0.0})
        for each in events
    ]
    story = Story().begin().tell(K.ATTEMPT_STARTED, resume_step=0, world_size=2, nodes=nodes, spares=spares)
    goodput = account([*story.events, *fixed])
    total_s = sum(goodput.node_seconds.values())
    assert math.isclose(total_s, goodput.wall_s * (nodes + spares), rel_tol=1e-6, abs_tol=1e-5)


@settings(deadline=None)
@given(st.lists(any_event(), max_size=30), st.floats(0.0, 1.0))
def test_a_story_with_anything_thrown_in_adds_up(noise: list[Event], where: float) -> None:
    events = killed_and_recovered().events
    place = int(where * len(events))
    adds_up(events[:place] + noise + events[place:])
