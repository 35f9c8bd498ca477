"""Exact confidence intervals for how often something happens, from how often it did. No scipy is needed.

Garwood's interval for a Poisson count: the rates under which the count seen, or a more extreme one, is as
improbable as the confidence says. The gamma function's incomplete form is computed by its series below the
mean and by a continued fraction above it (Numerical Recipes 6.2); the bounds by bisection.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

CONFIDENCE: Final = 0.95
_TERMS: Final = 100_000
_CLOSE: Final = 1e-14
_TINY: Final = 1e-300


@dataclass(frozen=True, slots=True)
class Interval:
    """A rate of `value` events per unit of exposure, between `low` and `high`."""

    value: float
    low: float
    high: float


def rate_interval(events: int, exposure: float, confidence: float = CONFIDENCE) -> Interval | None:
    """The rate of `events` in `exposure`; None without exposure. Without an event `low` and `value` are 0."""
    if exposure <= 0:
        return None
    low, high = count_interval(events, confidence)
    return Interval(events / exposure, low / exposure, high / exposure)


def count_interval(events: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """The means of a Poisson distribution that `events` leaves possible at this confidence, both sides alike.

    Equal to half the chi-square quantiles with 2 k and 2 k + 2 degrees of freedom.
    """
    tail = (1 - confidence) / 2
    low = 0.0 if events == 0 else _where(lambda mean: gamma_p(events, mean), tail)
    return low, _where(lambda mean: gamma_p(events + 1, mean), 1 - tail)


def gamma_p(shape: float, x: float) -> float:
    """The regularised lower incomplete gamma function P(shape, x), 0 to 1, rising in `x`.

    For a whole `shape` k it is the probability that a Poisson count of mean `x` is at least k.
    """
    if x <= 0:
        return 0.0
    scale = math.exp(shape * math.log(x) - x - math.lgamma(shape))
    return scale * _series(shape, x) if x < shape + 1 else 1.0 - scale * _fraction(shape, x)


def _series(shape: float, x: float) -> float:
    term = total = 1.0 / shape
    for step in range(1, _TERMS):
        term *= x / (shape + step)
        total += term
        if term < total * _CLOSE:
            break
    return total


def _fraction(shape: float, x: float) -> float:
    """Lentz's method."""
    b = x + 1.0 - shape
    c, d = 1.0 / _TINY, 1.0 / b
    result = d
    for step in range(1, _TERMS):
        a = -step * (step - shape)
        b += 2.0
        d, c = a * d + b, b + a / c
        d = 1.0 / (d if abs(d) > _TINY else _TINY)
        c = c if abs(c) > _TINY else _TINY
        result *= d * c
        if abs(d * c - 1.0) < _CLOSE:
            break
    return result


def _where(rising: Callable[[float], float], target: float) -> float:
    """Where a function that rises from 0 to 1 reaches `target`."""
    low, high = 0.0, 1.0
    while rising(high) < target:
        low, high = high, high * 2.0
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        if rising(middle) < target:
            low = middle
        else:
            high = middle
    return (low + high) / 2
