"""Formulas of failures and checkpoints: against published points, limits, and failures drawn at random."""

from __future__ import annotations

import csv
import math
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stoker.spec.reliability import (
    DAY_S,
    FailureRate,
    daly_interval_s,
    expected_ettr,
    young_interval_s,
)

DATA = Path(__file__).parent.parent / "data/reliability"
MINUTE_S = 60.0


def rows(name: str) -> list[dict[str, str]]:
    with (DATA / name).open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("row", rows("rsc_ettr_points.csv"), ids=lambda row: row["case"])
def test_the_closed_form_gives_the_published_points(row: dict[str, str]) -> None:
    rate = float(row["rf_per_1000_node_days"]) / 1000 / DAY_S * int(row["nodes"])
    recovery_s = (float(row["u0_min"]) + float(row["q_min"])) * MINUTE_S
    interval_s, write_s = float(row["dt_cp_min"]) * MINUTE_S, float(row["w_cp_min"]) * MINUTE_S
    found = expected_ettr(rate, recovery_s, interval_s, write_s)
    assert found.closed == pytest.approx(float(row["closed_form_value"]), abs=0.001)
    assert found.closed == pytest.approx(float(row["published_ETTR"]), abs=0.021)


def test_the_two_named_rates_of_mttf_are_never_one() -> None:
    for row in rows("rsc_mttf.csv"):
        by_formula_h = FailureRate.prior(6.5).mttf_s(int(row["nodes"])) / 3600
        assert by_formula_h == pytest.approx(float(row["formula_24_over_N_rf_h"]), rel=0.01)
        implied = FailureRate.prior(float(row["implied_fail_per_1000_node_days"]))
        assert implied.mttf_s(int(row["nodes"])) / 3600 == pytest.approx(
            float(row["published_mttf_h"]), rel=0.01
        )


def simulated_ettr(rate: float, recovery_s: float, interval_s: float, write_s: float, seed: int) -> float:
    """A run of failures drawn at random, each of which also strikes recoveries."""
    draw, useful_s, wall_s = random.Random(seed), 0.0, 0.0
    left_s = draw.expovariate(rate)
    for _ in range(20_000):
        needed_s = interval_s + write_s
        while left_s < needed_s:
            wall_s += left_s
            left_s = draw.expovariate(rate)
            while left_s < recovery_s:
                wall_s += left_s
                left_s = draw.expovariate(rate)
            wall_s, left_s = wall_s + recovery_s, left_s - recovery_s
        wall_s, left_s, useful_s = wall_s + needed_s, left_s - needed_s, useful_s + interval_s
    return useful_s / wall_s


@pytest.mark.parametrize("mttf_s", [600.0, 2_000.0, 20_000.0])
def test_the_exponential_form_is_what_happens_and_the_closed_form_only_within_its_range(
    mttf_s: float,
) -> None:
    given_ = (1 / mttf_s, 120.0, 600.0, 30.0)
    found, happened = expected_ettr(*given_), simulated_ettr(*given_, seed=7)
    assert found.exponential == pytest.approx(happened, rel=0.02)
    assert found.within_range == (mttf_s >= 7_200)
    assert (abs(found.closed - happened) < 0.005) == found.within_range


_TIMES = st.floats(1.0, 1e5)


@settings(deadline=None)
@given(st.floats(1e-9, 1e-2), _TIMES, _TIMES, st.floats(0.0, 1e4))
def test_an_ettr_is_a_share_and_more_failures_never_raise_it(
    rate: float, recovery_s: float, interval_s: float, write_s: float
) -> None:
    found = expected_ettr(rate, recovery_s, interval_s, write_s)
    worse = expected_ettr(rate * 2, recovery_s, interval_s, write_s)
    for here, there in ((found.closed, worse.closed), (found.exponential, worse.exponential)):
        assert 0.0 <= there <= here * (1 + 1e-9) <= 1.0 + 1e-6
    assert found.within_range or not worse.within_range


@settings(deadline=None)
@given(st.floats(0.001, 1e3), st.floats(1.0, 1e8))
def test_the_interval_lies_between_what_it_weighs_and_costs_least(write_s: float, mttf_s: float) -> None:
    interval_s = daly_interval_s(write_s, mttf_s)
    assert 0 < interval_s <= max(young_interval_s(write_s, mttf_s) * 1.5, mttf_s)
    if write_s < mttf_s / 100:
        best = expected_ettr(1 / mttf_s, 0.0, interval_s, write_s).exponential
        for factor in (0.7, 1.4):
            assert expected_ettr(1 / mttf_s, 0.0, interval_s * factor, write_s).exponential <= best + 1e-9


@settings(deadline=None)
@given(st.floats(0.001, 1e3), st.floats(1.0, 1e8))
def test_dearer_checkpoints_and_rarer_failures_make_the_interval_longer(
    write_s: float, mttf_s: float
) -> None:
    for of in (young_interval_s, daly_interval_s):
        assert of(write_s, mttf_s) <= of(write_s, mttf_s * 2) * (1 + 1e-9)
    if write_s * 2 < mttf_s / 10:
        assert daly_interval_s(write_s, mttf_s) <= daly_interval_s(write_s * 2, mttf_s)


def test_what_was_seen_soon_counts_for_more_than_the_prior() -> None:
    rate = FailureRate.prior(6.5)
    assert rate.per_node_s * 1000 * DAY_S == pytest.approx(6.5)
    assert rate.mttf_s(1000) == pytest.approx(DAY_S * 1000 / 6.5 / 1000)
    after = rate.seen(50, 50 * DAY_S)
    assert after.per_node_s * DAY_S == pytest.approx(51 / (50 + 1000 / 6.5))
    assert rate.seen(0, 1e9).mttf_s(8) > rate.mttf_s(8)
    assert math.isclose(rate.mttf_s(8) * 8, rate.mttf_s(1))


@pytest.mark.parametrize("wrong", [(1.0, 1.0, 0.0, 1.0), (-1.0, 1.0, 1.0, 1.0), (1.0, 1.0, 1.0, -1.0)])
def test_what_cannot_be_is_refused(wrong: tuple[float, float, float, float]) -> None:
    with pytest.raises(ValueError, match="negative"):
        expected_ettr(*wrong)
