"""A share that was counted, with the interval that its true value lies in. Pure. See docs/design/measured.md.

Clopper and Pearson, "The use of confidence or fiducial limits illustrated in the case of the binomial",
Biometrika 26 (1934): exact, so never narrower than it says, also for shares of 0 and 1 and for small numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

CONFIDENCE: Final = 0.95
_DECIMALS: Final = 6
_STEPS: Final = 60
_TERMS: Final = 20_000


@dataclass(frozen=True, slots=True)
class Share:
    """`found` of `of`. `low` and `high` bound the true share with 95 % confidence; 0 and 1 when `of` is 0."""

    found: int
    of: int
    low: float
    high: float

    @property
    def value(self) -> float:
        """The share itself; 0 when nothing was counted."""
        return self.found / self.of if self.of else 0.0


def share(found: int, of: int, confidence: float = CONFIDENCE) -> Share:
    """`found` of `of` with the two-sided Clopper–Pearson interval, rounded outward to six decimals.

    Raises ValueError for numbers that no count gives.
    """
    if not 0 <= found <= of or not 0.0 < confidence < 1.0:
        raise ValueError(f"{found} of {of} at confidence {confidence} is no share")
    tail = (1.0 - confidence) / 2.0
    low = 0.0 if found == 0 else _beta_quantile(tail, found, of - found + 1)
    high = 1.0 if found == of else _beta_quantile(1.0 - tail, found + 1, of - found)
    scale = 10**_DECIMALS
    return Share(found, of, math.floor(low * scale) / scale, math.ceil(high * scale) / scale)


def needed(most: float, confidence: float = CONFIDENCE) -> int:
    """How many must be looked at, all without a finding, for the upper bound to be at most `most`.

    The "rule of three" made exact, two-sided as `share` is: 368 for one in a hundred at 95 %.
    """
    if not 0.0 < most < 1.0:
        raise ValueError(f"{most} is no share to stay below")
    return math.ceil(math.log((1.0 - confidence) / 2.0) / math.log1p(-most))


def _beta_quantile(probability: float, a: int, b: int) -> float:
    """Where the regularised incomplete beta function of `a` and `b` has this value, by bisection."""
    low, high = 0.0, 1.0
    for _ in range(_STEPS):
        middle = (low + high) / 2.0
        if _beta(middle, a, b) < probability:
            low = middle
        else:
            high = middle
    return (low + high) / 2.0


def _beta(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function, by its continued fraction (DLMF 8.17.22), Lentz's method."""
    if x <= 0.0 or x >= 1.0:
        return 0.0 if x <= 0.0 else 1.0
    if x > (a + 1.0) / (a + b + 2.0):
        return 1.0 - _beta(1.0 - x, b, a)
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    )
    tiny = 1e-300
    c, d = 1.0, 1.0 / max(1.0 - (a + b) * x / (a + 1.0), tiny)
    fraction = d
    for m in range(1, _TERMS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1.0 / _apart(1.0 + term * d, tiny)
            c = _apart(1.0 + term / c, tiny)
            fraction *= c * d
        if abs(c * d - 1.0) < 1e-12:
            break
    return front * fraction / a


def _apart(value: float, tiny: float) -> float:
    """`value`, kept from zero."""
    return value if abs(value) > tiny else tiny
