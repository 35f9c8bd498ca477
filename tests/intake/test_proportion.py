"""Shares with Clopper–Pearson intervals: published values, and the promise that they cover."""

from __future__ import annotations

import math

import pytest

from stoker.intake.proportion import Share, needed, share


@pytest.mark.parametrize(
    ("found", "of", "low", "high"),
    [
        # The closed forms for none and for all: 1 - (α/2)^(1/n).
        (0, 10, 0.0, 1 - 0.025**0.1),
        (10, 10, 0.025**0.1, 1.0),
        # Newcombe, Statistics in Medicine 17 (1998), table I, method 5.
        (81, 263, 0.2527, 0.3676),
        (15, 148, 0.0578, 0.1617),
        (1, 29, 0.0009, 0.1776),
    ],
)
def test_intervals_are_the_published_ones(found: int, of: int, low: float, high: float) -> None:
    made = share(found, of)
    assert (made.low, made.high) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))
    assert made.value == found / of


def test_nothing_counted_says_nothing() -> None:
    assert share(0, 0) == Share(0, 0, 0.0, 1.0)
    assert share(0, 0).value == 0.0


@pytest.mark.parametrize("truth", [0.01, 0.2, 0.5, 0.97])
@pytest.mark.parametrize("of", [5, 40])
def test_the_interval_covers_the_truth_at_least_as_often_as_it_says(truth: float, of: int) -> None:
    covered = sum(
        math.comb(of, found) * truth**found * (1 - truth) ** (of - found)
        for found in range(of + 1)
        if share(found, of).low <= truth <= share(found, of).high
    )
    assert covered >= 0.95


def test_large_counts_keep_narrow_and_ordered_intervals() -> None:
    made = share(99_900, 100_000)
    assert 0.9987 < made.low < made.value < made.high < 0.9993
    half = share(1_000_000, 2_000_000)
    # The normal approximation is good here: 1.96 times the root of p(1-p)/n.
    assert half.high - half.low == pytest.approx(2 * 1.96 * math.sqrt(0.25 / 2e6), rel=1e-2)


def test_how_many_must_be_looked_at() -> None:
    assert needed(0.01) == 368
    assert share(0, needed(0.01)).high <= 0.01 + 1e-6 < share(0, needed(0.01) - 1).high + 1e-4
    assert needed(0.001) > needed(0.01)


@pytest.mark.parametrize("wrong", [(-1, 5), (6, 5)])
def test_what_no_count_gives_is_refused(wrong: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="no share"):
        share(*wrong)
    with pytest.raises(ValueError, match="stay below"):
        needed(1.0)
