"""The pattern of a mixture: exact in every window, evenly spread, and clear about weights that cannot be."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stoker.feed.errors import BadMixture
from stoker.feed.mixture_pattern import (
    Turns,
    pattern_of_turns,
    turns_of_parts,
    turns_of_weights,
)
from stoker.spec.mixture import PERIOD, nearest_turns

TURNS = st.lists(st.floats(1e-4, 1.0), min_size=1, max_size=9).map(lambda raw: nearest_turns(tuple(raw)))


@given(turns=TURNS, begin=st.integers(0, 10**12))
@example(turns=(1, 999), begin=0)
@example(turns=(1000,), begin=5)
@settings(max_examples=60, deadline=None)
def test_any_window_of_1000_holds_exactly_each_weight(turns: tuple[int, ...], begin: int) -> None:
    stream = pattern_of_turns(turns)[(begin + np.arange(PERIOD)) % PERIOD]
    assert np.bincount(stream, minlength=len(turns)).tolist() == list(turns)


@given(turns=TURNS)
@example(turns=(1,) * PERIOD)
@example(turns=(998, 1, 1))
@settings(max_examples=40, deadline=None)
def test_no_part_is_ever_a_whole_turn_ahead_or_behind(turns: tuple[int, ...]) -> None:
    pattern = pattern_of_turns(turns)
    bound = 1 - 1 / (2 * (len(turns) - 1)) if len(turns) > 1 else 0.0
    for part, count in enumerate(turns):
        given_so_far = np.cumsum(pattern == part)
        due = np.arange(1, PERIOD + 1) * count / PERIOD
        assert np.abs(given_so_far - due).max() <= bound + 1e-9


def test_the_pattern_is_a_format_and_does_not_drift() -> None:
    assert pattern_of_turns((500, 300, 200))[:20].tolist() == [
        0, 1, 0, 2, 0, 1, 0, 2, 1, 0,
        0, 1, 0, 2, 0, 1, 0, 2, 1, 0,
    ]  # fmt: skip
    assert np.flatnonzero(pattern_of_turns((997, 3))).tolist() == [166, 500, 833]


@given(turns=TURNS, g=st.integers(0, 2**60))
@settings(max_examples=60, deadline=None)
def test_counting_a_parts_samples_and_finding_them_are_inverse(turns: tuple[int, ...], g: int) -> None:
    pattern = pattern_of_turns(turns)
    near = g + np.arange(2 * PERIOD)
    for part, each in enumerate(turns_of_parts(turns)):
        mine = near[pattern[near % PERIOD] == part]
        n = each.samples_before(mine)
        assert np.array_equal(n, n[0] + np.arange(len(mine)))
        assert np.array_equal(each.mixture_index(n), mine)
        assert each.samples_before(np.array([0])).tolist() == [0]


@given(turns=TURNS)
@settings(max_examples=60, deadline=None)
def test_weights_written_as_thousandths_are_taken_exactly(turns: tuple[int, ...]) -> None:
    assert turns_of_weights(tuple(count / PERIOD for count in turns)) == turns


@pytest.mark.parametrize(
    ("weights", "named"),
    [
        ((1 / 3, 2 / 3), "nearest in the same proportion: 0.333, 0.667"),
        ((2.0, 1.0), "the weight of part 0 is 2; a weight is above 0 and at most 1"),
        ((0.7, 0.2), r"their sum, 0.9 here, must be 1. The nearest .*: 0.778, 0.222"),
        ((0.99995, 0.00005), "nearest in the same proportion: 0.999, 0.001"),
        ((0.5, 0.0, 0.5), "the weight of part 1 is 0"),
        ((1.0, float("nan")), "the weight of part 1 is nan"),
        ((), "1 to 1000 parts, not 0"),
        ((0.001,) * 1001, "1 to 1000 parts, not 1001"),
    ],
)
def test_weights_that_cannot_be_are_refused_with_the_nearest_that_can(
    weights: tuple[float, ...], named: str
) -> None:
    with pytest.raises(BadMixture, match=named):
        turns_of_weights(weights)


@given(weights=st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=40))
@settings(max_examples=80, deadline=None)
def test_the_nearest_weights_named_are_ones_that_can_be(weights: list[float]) -> None:
    nearest = nearest_turns(tuple(weights))
    assert turns_of_weights(tuple(count / PERIOD for count in nearest)) == nearest
    for weight, count in zip(weights, nearest, strict=True):
        due = weight / sum(weights) * PERIOD
        assert count == 1 or abs(count - due) < 1 + len(weights) * max(due, 1) / PERIOD


@pytest.mark.parametrize("places", [(), (3, 1), (1, 1), (1000,), (-1,)])
def test_turns_that_are_no_places_of_the_pattern_are_refused(places: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="ascending"):
        Turns(places)
