"""Weights of a mixture of datasets: whole thousandths, kept exactly. See docs/design/feed.md, "Mixtures"."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

PERIOD: Final = 1000
"""A weight is a whole number of turns in so many samples."""

_CLOSE: Final = 1e-6  # of a turn: what a decimal fraction loses as a float


@dataclass(frozen=True, slots=True)
class MixturePartSpec:
    """One `[[mixture]]` of a run file: the name of a prepared dataset, and its share of the samples."""

    dataset: str
    weight: float


def turns_of(weights: Sequence[float]) -> tuple[int, ...]:
    """The whole number of turns that is nearest to each weight."""
    return tuple(round(weight * PERIOD) for weight in weights)


def weights_problem(weights: Sequence[float]) -> str:
    """Why these cannot be the weights of a mixture, with the nearest that can; empty when they can."""
    if not 1 <= len(weights) <= PERIOD:
        return f"A mixture has 1 to {PERIOD} parts, not {len(weights)}."
    wrong = [
        f"the weight of part {number} is {weight:g}"
        for number, weight in enumerate(weights)
        if not 0.0 < weight <= 1.0
    ]
    if wrong:
        return f"In the mixture {', '.join(wrong)}; a weight is above 0 and at most 1."
    turns = turns_of(weights)
    exact = all(abs(weight * PERIOD - count) < _CLOSE for weight, count in zip(weights, turns, strict=True))
    if exact and sum(turns) == PERIOD and min(turns) >= 1:
        return ""
    nearest = ", ".join(f"{count / PERIOD:g}" for count in nearest_turns(weights))
    return (
        f"The weights {', '.join(f'{weight:g}' for weight in weights)} cannot be: each must be a multiple of "
        f"{1 / PERIOD:g}, and their sum, {sum(weights):g} here, must be 1. "
        f"The nearest in the same proportion: {nearest}."
    )


def nearest_turns(weights: Sequence[float]) -> tuple[int, ...]:
    """`PERIOD` turns dealt in proportion to positive weights, each at least one: largest remainders first."""
    spare = PERIOD - len(weights)  # beyond the one that each part has
    shares = [max(0.0, weight / sum(weights) * PERIOD - 1) for weight in weights]
    scale = spare / sum(shares) if sum(shares) else 0.0
    turns = [int(share * scale) for share in shares]
    by_rest = sorted(range(len(weights)), key=lambda number: turns[number] - shares[number] * scale)
    for place in range(spare - sum(turns)):
        turns[by_rest[place % len(by_rest)]] += 1
    return tuple(count + 1 for count in turns)
