"""Losses that were written down once: a refactor reproduces them."""

from __future__ import annotations

import json

import pytest

from support.layouts import GOLDEN, GOLDEN_MODELS, train_alone
from support.ranks import run_ranks


@pytest.fixture(scope="module")
def found() -> dict[str, list[float]]:
    names = list(GOLDEN_MODELS)
    return run_ranks(1, lambda rank: {name: train_alone(GOLDEN_MODELS[name]).losses for name in names})[0]


@pytest.mark.parametrize("name", GOLDEN_MODELS)
def test_one_process_reproduces_the_losses_on_record(name: str, found: dict[str, list[float]]) -> None:
    recorded = json.loads(GOLDEN.read_text())
    # Another processor sums in another order: near, not equal.
    assert found[name] == pytest.approx(recorded[name], rel=1e-5)


def test_every_record_is_of_a_model_that_is_tried() -> None:
    assert set(json.loads(GOLDEN.read_text())) == set(GOLDEN_MODELS)
