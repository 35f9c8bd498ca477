"""The learning rate rises, falls, and ends where it was told to."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from stoker.spec.run import Schedule, TrainSpec
from stoker.train.schedule import learning_rate_at

SPEC = TrainSpec(steps=100, learning_rate=2.0, final_learning_rate_ratio=0.1, warmup_steps=10)


def test_warm_up_is_linear_and_reaches_the_full_rate() -> None:
    assert [learning_rate_at(step, SPEC) for step in (1, 5, 10)] == pytest.approx([0.2, 1.0, 2.0])


def test_the_rate_falls_after_warm_up_down_to_the_final_ratio() -> None:
    rates = [learning_rate_at(step, SPEC) for step in range(10, 101)]
    assert all(later < earlier for earlier, later in pairwise(rates))
    assert rates[-1] == pytest.approx(0.2)
    assert learning_rate_at(500, SPEC) == pytest.approx(0.2)


def test_a_run_without_warm_up_begins_at_the_full_rate() -> None:
    spec = TrainSpec(steps=10, learning_rate=1.0, warmup_steps=0)
    assert 0.9 < learning_rate_at(1, spec) <= 1.0


def test_a_line_goes_down_by_as_much_each_step() -> None:
    rates = [learning_rate_at(step, replace(SPEC, schedule=Schedule.LINEAR)) for step in range(10, 101)]
    falls = [earlier - later for earlier, later in pairwise(rates)]
    assert falls == pytest.approx([1.8 / 90] * 90)
    assert rates[-1] == pytest.approx(0.2)


def test_a_stable_rate_falls_only_at_the_end() -> None:
    spec = replace(SPEC, schedule=Schedule.STABLE, decay_share=0.3)
    rates = [learning_rate_at(step, spec) for step in range(1, 101)]
    assert rates[9:73] == pytest.approx([2.0] * 64)
    assert all(later < earlier for earlier, later in pairwise(rates[73:]))
    assert rates[-1] == pytest.approx(0.2)
    assert learning_rate_at(100, replace(spec, decay_share=0.0)) == pytest.approx(2.0)
