"""What a benchmark says of its samples."""

from __future__ import annotations

import gc

import pytest

from measuring.command import machine, shown, table
from measuring.figures import (
    Figure,
    Measured,
    at_least,
    at_most,
    median_of,
    not_measured,
    plain_figures,
    rate_of,
    ratio_of,
    rounded,
)
from measuring.turns import take_pairs, take_turns


def test_the_value_is_the_median_and_its_spread_the_quartiles() -> None:
    figure = median_of([5.0, 1.0, 2.0, 4.0, 3.0], "s")
    assert (figure.value, figure.quartiles) == (3.0, (2.0, 4.0))
    assert median_of([7.0], "s") == Figure(7.0, "s")


def test_a_rate_is_taken_sample_by_sample() -> None:
    assert rate_of(12.0, [1.0, 2.0, 4.0], "MB/s").value == 6.0


def test_a_ratio_pairs_samples_of_the_same_round() -> None:
    """The machine was ten times slower in the second round: that is no part of the ratio."""
    assert ratio_of([2.0, 20.0, 2.0], [1.0, 10.0, 1.0]) == Figure(2.0, "ratio", None, (2.0, 2.0))
    with pytest.raises(ValueError, match="shorter"):
        ratio_of([1.0, 2.0], [1.0])


@pytest.mark.parametrize(
    ("figure", "holds"),
    [
        (Figure(0.9, "ratio", at_least(0.9)), True),
        (Figure(0.899, "ratio", at_least(0.9)), False),
        (Figure(0.8, "s", at_most(0.8)), True),
        (Figure(0.81, "s", at_most(0.8)), False),
        (Figure(0.5, "s"), None),
        (not_measured("no GPU is here", "s", at_most(0.8)), None),
    ],
)
def test_a_goal_holds_in_its_own_direction(figure: Figure, holds: bool | None) -> None:
    assert figure.holds is holds


def test_a_figure_without_a_value_needs_a_reason_and_one_with_a_value_has_none() -> None:
    with pytest.raises(AssertionError):
        Figure(None, "s")
    with pytest.raises(AssertionError):
        Figure(1.0, "s", reason="it was not measured")


def test_plain_figures_name_quartiles_as_figures_of_their_own() -> None:
    figures = {"rate": Figure(2.0, "MB/s", at_least(1), (1.5, 2.5)), "later": not_measured("not built", "s")}
    assert dict(plain_figures(figures, judged=True)) == {
        "rate": {"value": 2.0, "unit": "MB/s", "goal": "at least 1", "holds": True},
        "rate_q1": {"value": 1.5, "unit": "MB/s", "goal": None, "holds": None},
        "rate_q3": {"value": 2.5, "unit": "MB/s", "goal": None, "holds": None},
        "later": {"value": None, "unit": "s", "goal": None, "holds": None, "reason": "not built"},
    }


def test_at_smaller_sizes_no_goal_is_judged() -> None:
    figures = {"rate": Figure(0.5, "MB/s", at_least(1))}
    assert dict(plain_figures(figures, judged=False))["rate"]["holds"] is None
    shown_lines = "\n".join(table("seal", Measured(figures, "one turn"), machine(), judged=False))
    assert "not judged" in shown_lines
    assert "falls short" not in shown_lines


def test_a_table_says_what_falls_short_and_what_is_missing() -> None:
    figures = {
        "rate": Figure(0.5, "MB/s", at_least(1), (0.4, 0.6)),
        "good": Figure(2.0, "MB/s", at_least(1)),
        "later": not_measured("not built", "s"),
    }
    title, rate, good, later, *rest = table("seal", Measured(figures, "in turns"), machine(), judged=True)
    assert title.split() == ["seal"]
    assert " ".join(rate.split()) == "rate 0.5 MB/s 0.4 to 0.6 goal at least 1: falls short"
    assert good.endswith("goal at least 1: holds")
    assert later.endswith("not measured: not built")
    assert "in turns" in rest[0]
    assert "cpus" in "".join(rest)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (2119.0, "2,119"),
        (8640.4, "8,640"),
        (46.44, "46.4"),
        (0.9513, "0.951"),
        (0.00421, "0.0042"),
        (0.0, "0"),
    ],
)
def test_numbers_are_shown_with_the_digits_that_matter(value: float, text: str) -> None:
    assert shown(value) == text


def test_whole_numbers_are_not_rounded() -> None:
    assert rounded(1234567.0) == 1234567.0
    assert rounded(1.23456789) == 1.2346


def test_turns_rotate_and_the_first_of_each_does_not_count() -> None:
    order: list[str] = []

    def probe(name: str) -> float:
        order.append(name)
        return float(len(order))

    samples = take_turns({"a": lambda: probe("a"), "b": lambda: probe("b")}, 3)
    assert "".join(order) == "ab" + "ab" + "ba" + "ab"
    assert samples == {"a": [3.0, 6.0, 7.0], "b": [4.0, 5.0, 8.0]}


def test_a_probe_that_fails_leaves_garbage_collection_on() -> None:
    def fail() -> float:
        if not gc.isenabled():
            raise OSError("the disk is gone")
        return 0.0

    with pytest.raises(OSError, match="gone"):
        take_turns({"a": fail}, 1)
    assert gc.isenabled()


def test_a_case_stands_beside_its_reference_and_they_change_places() -> None:
    order: list[str] = []

    def probe(name: str) -> int:
        order.append(name)
        return len(order)

    pairs = {"a": (lambda: probe("a"), lambda: probe("r")), "b": (lambda: probe("b"), lambda: probe("s"))}
    samples = take_pairs(pairs, 2)
    assert "".join(order) == "sbra" + "arbs" + "sbra"
    assert samples == {"a": [(5, 6), (12, 11)], "b": [(7, 8), (10, 9)]}
