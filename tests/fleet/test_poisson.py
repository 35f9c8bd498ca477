"""Intervals of rates: published values, their defining property, and how often they hold."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stoker.fleet.poisson import count_interval, gamma_p, rate_interval

GARWOOD = {
    0: (0.0, 3.6889),
    1: (0.0253, 5.5716),
    2: (0.2422, 7.2247),
    5: (1.6235, 11.6683),
    10: (4.7954, 18.3904),
    50: (37.1110, 65.9190),
    100: (81.3640, 121.6270),
}
"""95 % limits of a Poisson mean, as tables print them (Garwood 1936; half of chi-square's quantiles)."""


@pytest.mark.parametrize("events", GARWOOD)
def test_the_limits_are_those_of_the_tables(events: int) -> None:
    assert count_interval(events) == pytest.approx(GARWOOD[events], abs=2e-3)


def poisson_below(events: int, mean: float) -> float:
    """The probability of at most `events`, summed term by term."""
    return math.fsum(
        math.exp(count * math.log(mean) - mean - math.lgamma(count + 1)) for count in range(events + 1)
    )


@settings(deadline=None)
@given(st.integers(0, 3_000), st.sampled_from([0.5, 0.8, 0.95, 0.999]))
def test_at_its_limits_what_was_seen_is_as_improbable_as_said(events: int, confidence: float) -> None:
    low, high = count_interval(events, confidence)
    tail = (1 - confidence) / 2
    assert low <= events <= high
    assert poisson_below(events, high) == pytest.approx(tail, rel=1e-6)
    if events:
        assert 1 - poisson_below(events - 1, low) == pytest.approx(tail, rel=1e-6, abs=1e-9)


@settings(deadline=None)
@given(st.floats(0.1, 2_000.0), st.floats(0.0, 5_000.0), st.floats(0.0, 100.0))
def test_the_incomplete_gamma_function_rises_from_0_to_1(shape: float, x: float, more: float) -> None:
    assert 0.0 <= gamma_p(shape, x) <= gamma_p(shape, x + more) + 1e-11 <= 1.0 + 1e-10


def test_the_interval_holds_the_truth_at_least_as_often_as_it_says() -> None:
    draw, held = random.Random(5), 0
    for _ in range(2_000):
        mean = draw.uniform(0.5, 12.0)
        left, count = mean, 0
        while (left := left - draw.expovariate(1.0)) > 0:
            count += 1
        low, high = count_interval(count)
        held += low <= mean <= high
    assert held >= 0.95 * 2_000 - 3 * math.sqrt(2_000 * 0.05)


def test_a_rate_without_exposure_is_unknown_and_without_events_has_only_an_upper_limit() -> None:
    assert rate_interval(3, 0.0) is None
    none = rate_interval(0, 10.0)
    assert none is not None
    assert (none.value, none.low) == (0.0, 0.0)
    assert none.high == pytest.approx(0.36889, abs=1e-4)
    llama = rate_interval(419, 2048 * 54)
    assert llama is not None
    assert llama.value * 1000 == pytest.approx(3.79, abs=0.005)
    assert 3.4 < llama.low * 1000 < 3.79 < llama.high * 1000 < 4.2
