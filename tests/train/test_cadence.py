"""How often checkpoints are saved: by costs and failures, alike on all ranks, changed while a run trains."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stoker.core.events import EventKind
from stoker.spec.reliability import daly_interval_s
from stoker.spec.run import CheckpointEvery, TrainSpec
from stoker.train.watch.cadence import MOST_S, Cadence, Costs, steps_between
from support.ranks import run_ranks
from support.run_places import RUN_SPEC, RunPlace

AUTO = TrainSpec(steps=1_000, checkpoint_every_steps=10, checkpoint_every=CheckpointEvery.AUTO)
_S = st.floats(1e-4, 1e4)


@settings(deadline=None)
@given(_S, _S, st.floats(1.0, 1e8))
def test_the_interval_is_dalys_within_its_bounds(write_s: float, step_s: float, mttf_s: float) -> None:
    steps = steps_between(Costs(write_s, step_s), mttf_s, 7)
    assert steps >= 1
    assert steps * step_s <= MOST_S + step_s
    exact = daly_interval_s(write_s, mttf_s) / step_s
    assert steps == 1 or steps * step_s >= MOST_S - step_s or abs(steps - exact) <= 0.5 + 1e-6 * exact


@settings(deadline=None)
@given(_S, st.floats(1e-3, 10.0), st.floats(100.0, 1e8))
def test_more_failures_never_make_checkpoints_rarer(write_s: float, step_s: float, mttf_s: float) -> None:
    if write_s < mttf_s / 10:
        costs = Costs(write_s, step_s)
        assert steps_between(costs, mttf_s / 2, 7) <= steps_between(costs, mttf_s, 7)


@pytest.mark.parametrize(
    ("costs", "mttf_s"), [(Costs(), 1e5), (Costs(1.0, 0.0), 1e5), (Costs(1.0, 1.0), 0.0)]
)
def test_while_something_is_unknown_the_run_files_number_holds(costs: Costs, mttf_s: float) -> None:
    assert steps_between(costs, mttf_s, 7) == 7


def test_a_fixed_number_of_steps_stays_what_it_was() -> None:
    cadence = Cadence(replace(AUTO, checkpoint_every=CheckpointEvery.STEPS), 100.0)
    cadence.begin(3)
    assert [step for step in range(1, 31) if cadence.due(step)] == [10, 20, 30]
    assert not cadence.saved(10, 5.0)


def test_the_interval_follows_what_saves_and_steps_take_and_survives_a_restart() -> None:
    cadence = Cadence(AUTO, mttf_s=1_000.0)
    cadence.begin(0)
    assert (cadence.due(9), cadence.due(10)) == (False, True)
    cadence.took(1.0)
    assert cadence.saved(10, 2.0)
    wanted = round(daly_interval_s(2.0, 1_000.0))
    assert (cadence.interval, cadence.due(10 + wanted - 1), cadence.due(10 + wanted)) == (wanted, False, True)
    cadence.saved(10 + wanted, 20.0)
    assert cadence.interval > wanted
    again = Cadence(AUTO, mttf_s=1_000.0)
    again.load_state_dict(cadence.state_dict())
    again.begin(100)
    assert (again.costs, again.interval) == (cadence.costs, cadence.interval)
    again.load_state_dict({"write_s": "much", "step_s": float("nan")})
    assert again.costs == Costs()


def one_decides(rank: int) -> list[tuple[int, bool]]:
    """Ranks that measure different things."""
    cadence = Cadence(AUTO, mttf_s=10_000.0)
    cadence.begin(0)
    told = []
    for step in (10, 200, 900):
        cadence.took(0.1 * (1 + 9 * rank))
        cadence.saved(step, 1.0 + 50.0 * rank + step)
        told.append((cadence.interval, cadence.due(step + 7)))
    return told


def test_all_ranks_save_after_the_same_steps_whatever_they_measured_themselves() -> None:
    first, second = run_ranks(2, one_decides)
    assert first == second
    assert len({interval for interval, _ in first}) > 1


def test_a_real_run_saves_as_often_as_it_was_told_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = replace(RUN_SPEC.train, checkpoint_every_steps=2, checkpoint_every=CheckpointEvery.AUTO)
    place = RunPlace.make(tmp_path)
    plain = place.job
    # So many failures that saving after each step is best, whatever a save takes.
    monkeypatch.setattr(place, "job", lambda *given_: replace(plain(*given_), mttf_s=1e-6))
    events = place.attempt(spec=replace(RUN_SPEC, train=train))
    (told,) = [event for event in events if event.kind is EventKind.CHECKPOINT_INTERVAL]
    assert (told.number("step"), told.number("every_steps")) == (2, 1)
    committed = [event.number("step") for event in events if event.kind is EventKind.CHECKPOINT_COMMITTED]
    assert committed == [2, 3, 4, 5, 6, 7, 8]


def test_fixed_steps_and_chosen_ones_do_not_go_together() -> None:
    assert not list(AUTO.problems())
    (problem,) = replace(AUTO, keep_every_steps=20).problems()
    assert "no fixed steps" in problem
