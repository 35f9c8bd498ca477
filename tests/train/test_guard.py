"""What becomes of a step whose loss cannot be right."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch

from stoker.core.events import Event, EventKind
from stoker.spec.job import CommitRef
from stoker.spec.watch import OnBadStep, WatchSpec
from stoker.train import text_task
from stoker.train.watch.guard import Decision, Guard, LossSpike, NonFiniteLoss
from stoker.train.watch.patience import Patience
from stoker.train.watch.together import digest_over_ranks, told_to_all
from support.ranks import RankFailed, run_ranks
from support.run_places import RUN_SPEC, RunPlace

WINDOW = WatchSpec(spike_deviations=6.0, spike_window_steps=8)


def test_a_figure_that_is_not_finite_is_skipped_until_there_are_too_many() -> None:
    guard = Guard(WatchSpec(bad_steps_limit=2, limit_window_steps=10))
    assert guard.judge(1, 2.0, 1.0) is Decision.APPLY
    assert guard.reason == ""
    assert guard.judge(2, math.nan, 1.0) is Decision.SKIP
    assert guard.judge(3, 2.0, math.inf) is Decision.SKIP
    assert guard.judge(4, -math.inf, 1.0) is Decision.STOP
    assert "bad step number 3 of the last 10" in guard.reason
    assert isinstance(guard.error(4, -math.inf, 1.0), NonFiniteLoss)


def test_bad_steps_that_lie_apart_are_forgiven() -> None:
    guard = Guard(WatchSpec(bad_steps_limit=1, limit_window_steps=5))
    for step in range(1, 60):
        bad = step % 5 == 0
        assert guard.judge(step, math.nan if bad else 1.0, 1.0) is (Decision.SKIP if bad else Decision.APPLY)


def test_a_loss_far_above_those_before_is_a_spike_and_a_falling_one_is_none() -> None:
    guard = Guard(replace(WINDOW, on_bad_step=OnBadStep.ROLL_BACK))
    for step in range(1, 9):
        assert guard.judge(step, 3.0 - 0.05 * step, 1.0) is Decision.APPLY
    assert guard.judge(9, 3.2, 1.0) is Decision.APPLY  # 5 deviations of the window
    assert guard.judge(10, 1.0, 1.0) is Decision.APPLY
    assert guard.judge(11, 9.0, 1.0) is Decision.ROLL_BACK
    assert guard.reason.startswith("the loss is 9.0000, above ")
    assert guard.judge(12, 9.0, 1.0) is Decision.ROLL_BACK  # a bad loss does not move the median
    stop = Guard(replace(WINDOW, on_bad_step=OnBadStep.STOP))
    stop.load_state_dict(guard.state_dict())
    assert stop.judge(13, 9.0, 1.0) is Decision.STOP
    assert isinstance(stop.error(13, 9.0, 1.0), LossSpike)


def test_nothing_is_a_spike_before_there_is_a_window_or_without_being_asked() -> None:
    for spec in (WINDOW, WatchSpec()):
        guard = Guard(spec)
        decisions = {guard.judge(step, 2.0, 1.0) for step in range(1, 8)}
        assert decisions | {guard.judge(8, 900.0, 1.0)} == {Decision.APPLY}


def test_a_resumed_guard_decides_as_the_uninterrupted_one() -> None:
    generator = torch.Generator().manual_seed(3)
    losses = (2.0 + 0.1 * torch.randn(60, generator=generator)).tolist()
    for bad in (20, 33, 41):
        losses[bad] = 7.0
    whole, first, second = Guard(WINDOW), Guard(WINDOW), Guard(WINDOW)
    expected = [whole.judge(step, loss, 1.0) for step, loss in enumerate(losses)]
    before = [first.judge(step, loss, 1.0) for step, loss in enumerate(losses[:34])]
    second.load_state_dict(first.state_dict())
    after = [second.judge(step, loss, 1.0) for step, loss in enumerate(losses[34:], 34)]
    assert before + after == expected
    assert expected.count(Decision.SKIP) == 3
    second.load_state_dict(None)  # a checkpoint of a run without a guard
    assert second.judge(61, 2.0, 1.0) is Decision.APPLY


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"bad_steps_limit": -1}, "bad_steps_limit is -1; it must be 0 or more."),
        ({"limit_window_steps": 0}, "limit_window_steps is 0; it must be at least 1."),
        ({"spike_window_steps": 4}, "spike_window_steps is 4; it must be 8 to 1024."),
        ({"spike_deviations": math.nan}, "spike_deviations is nan; it must be finite and 0 or more."),
        (
            {"patience": 2},
            "patience is 2 and evaluate_every_steps 0; to stop early, say how often to evaluate.",
        ),
    ],
)
def test_a_watch_that_cannot_be_is_refused(change: dict[str, Any], said: str) -> None:
    assert list(replace(WatchSpec(), **change).problems()) == [said]


def test_all_ranks_know_the_newest_checkpoint_and_one_digest_of_the_batch() -> None:
    reference = CommitRef(sequence=7, step=300, digest="ab" * 32)

    def told(rank: int) -> tuple[CommitRef, str, str]:
        same = digest_over_ranks(torch.arange(8).view(2, 4) + rank)
        other = digest_over_ranks(torch.arange(8).view(2, 4) + 2 * rank)
        return told_to_all(reference if rank == 0 else None), same, other

    first, second = run_ranks(2, told)
    assert first == second
    assert first[0] == reference
    assert first[1] != first[2]


def _of_kind(events: list[Event], kind: EventKind) -> list[Event]:
    return [event for event in events if event.kind is kind]


def _attempt(
    folder: Path, monkeypatch: pytest.MonkeyPatch, bad: set[int], watch: WatchSpec
) -> tuple[RunPlace, list[Event]]:
    """A run whose loss is no number the `bad`-th times that it is asked for."""
    real = text_task.next_token_loss
    asked = count(1)

    def loss(model: torch.nn.Module, batch: torch.Tensor) -> torch.Tensor:
        value = real(model, batch)
        return value * math.nan if next(asked) in bad else value

    monkeypatch.setattr(text_task, "next_token_loss", loss)
    place = RunPlace.make(folder)
    return place, place.attempt(spec=replace(RUN_SPEC, watch=watch))


def test_a_bad_batch_is_left_out_and_told_with_its_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, events = _attempt(tmp_path, monkeypatch, {5}, WatchSpec())
    steps = [int(event.number("step")) for event in _of_kind(events, EventKind.STEP)]
    assert steps == [1, 2, 3, 4, 6, 7, 8]
    (skipped,) = _of_kind(events, EventKind.BATCH_SKIPPED)
    assert (skipped.number("step"), len(skipped.text("batch_digest"))) == (5, 64)
    assert "the loss is nan" in skipped.text("reason")
    assert all(math.isfinite(event.number("loss")) for event in _of_kind(events, EventKind.STEP))


def test_a_roll_back_takes_the_weights_of_the_last_checkpoint_and_other_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checkpoints are of steps 3, 6 and 8; the fifth step is bad, so steps 4 to 8 come after step 3 again."""
    watch = WatchSpec(on_bad_step=OnBadStep.ROLL_BACK)
    _, events = _attempt(tmp_path, monkeypatch, {5}, watch)
    told = _of_kind(events, EventKind.STEP)
    assert [int(event.number("step")) for event in told] == [1, 2, 3, 4, 4, 5, 6, 7, 8]
    (back,) = _of_kind(events, EventKind.ROLLED_BACK)
    assert (back.number("step"), back.number("to_step")) == (5, 3)
    again = [event.number("loss") for event in told if event.number("step") == 4][1]
    # Weights of step 3 and the sixth batch: what a run sees at step 6 that leaves out the two batches before.
    monkeypatch.undo()
    _, skipping = _attempt(tmp_path / "skipping", monkeypatch, {4, 5}, WatchSpec())
    assert [event.number("loss") for event in _of_kind(skipping, EventKind.STEP)][3] == again


def test_a_roll_back_without_a_checkpoint_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watch = WatchSpec(on_bad_step=OnBadStep.ROLL_BACK)
    with pytest.raises(RankFailed, match="NonFiniteLoss: Step 2: the loss is nan"):
        _attempt(tmp_path, monkeypatch, {2}, watch)


def test_patience_counts_evaluations_that_brought_too_little() -> None:
    patience = Patience(WatchSpec(evaluate_every_steps=10, patience=2, min_improvement=0.1))
    assert [step for step in range(1, 41) if patience.asks(step, steps=40)] == [10, 20, 30]
    assert [patience.spent(step, bits) for step, bits in ((10, 2.0), (20, 1.95), (30, 1.8))] == [False] * 3
    resumed = Patience(WatchSpec(evaluate_every_steps=10, patience=2, min_improvement=0.1))
    resumed.load_state_dict(patience.state_dict())
    assert [resumed.spent(step, bits) for step, bits in ((40, 1.75), (50, 1.9))] == [False, True]
    assert (resumed.best_step, resumed.best) == (30, 1.8)
    never = Patience(WatchSpec())
    assert not any(never.asks(step, 40) for step in range(41))
    assert not any(never.spent(step, 2.0) for step in range(40))
    resumed.load_state_dict(Patience(WatchSpec()).state_dict())
    assert resumed.best == math.inf


def test_a_run_that_gets_no_better_ends_early_with_a_checkpoint(tmp_path: Path) -> None:
    watch = WatchSpec(evaluate_every_steps=2, patience=1, min_improvement=5.0)
    place = RunPlace.make(tmp_path)
    events = place.attempt(spec=replace(RUN_SPEC, watch=watch))
    assert [int(event.number("step")) for event in _of_kind(events, EventKind.STEP)] == [1, 2, 3, 4]
    within = [event for event in _of_kind(events, EventKind.EVALUATION) if "step" in event.fields]
    assert [(event.number("step"), event.text("name")) for event in within] == [(2, "model"), (4, "model")]
    (stopped,) = _of_kind(events, EventKind.STOPPED_EARLY)
    assert (stopped.number("step"), stopped.number("best_step")) == (4, 2)
    assert stopped.number("best") == within[0].number("bits_per_byte")
    saved = [int(event.number("step")) for event in _of_kind(events, EventKind.CHECKPOINT_COMMITTED)]
    assert saved == [3, 4]
    final = [event for event in _of_kind(events, EventKind.EVALUATION) if "step" not in event.fields]
    assert final[0].number("bits_per_byte") == within[1].number("bits_per_byte")


def test_evaluating_on_the_way_changes_no_loss(tmp_path: Path) -> None:
    told = []
    for name, watch in (("plain", WatchSpec()), ("watched", WatchSpec(evaluate_every_steps=2))):
        events = RunPlace.make(tmp_path / name).attempt(spec=replace(RUN_SPEC, watch=watch))
        told.append([event.number("loss") for event in _of_kind(events, EventKind.STEP)])
    assert told[0] == told[1]
    assert len(told[0]) == RUN_SPEC.train.steps
