"""Failures, checkpoints and what they cost: the formulas that accounts, plans and running runs share.

Durations in seconds, rates in failures per second unless a name says otherwise. Sources and ranges of
validity are in docs/design/goodput.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

DAY_S: Final = 86_400.0

RSC_1_PER_1000_NODE_DAYS: Final = 6.5
RSC_2_PER_1000_NODE_DAYS: Final = 2.34
LLAMA_3_PER_1000_NODE_DAYS: Final = 3.79
"""Published rates of failures; the first two of jobs over 128 GPUs, arXiv 2410.21680, the last 2407.21783."""

MANY: Final = 10.0
"""The closed form holds while the time between failures is this many times recovery and interval."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What ETTR to expect. `within_range`: the closed form's assumption holds; `closed` is never under 0."""

    closed: float
    exponential: float
    within_range: bool


def expected_ettr(rate: float, recovery_s: float, interval_s: float, write_s: float) -> Expected:
    """ETTR of a run that fails `rate` times a second and stands still `write_s` for a checkpoint.

    `interval_s` is the training time between two checkpoints, `recovery_s` what passes from a failure until
    steps are done again. `closed` is (1 - rate (u + interval / 2)) / (1 + write / interval), arXiv
    2410.21680; `exponential` is Daly's complete form for failures at any time, recovery included: rate
    interval / (e^(rate recovery) (e^(rate (interval + write)) - 1)).
    """
    if not (interval_s > 0 and rate >= 0 and recovery_s >= 0 and write_s >= 0):
        raise ValueError("an interval above 0 is needed, and nothing may be negative")
    closed = (1 - rate * (recovery_s + interval_s / 2)) / (1 + write_s / interval_s)
    whole_s = interval_s + write_s
    grown = rate * recovery_s + rate * whole_s
    if rate * whole_s < 1e-12:
        exponential = interval_s / whole_s * math.exp(-rate * recovery_s)
    elif grown > 700:
        exponential = 0.0
    else:
        exponential = rate * interval_s / (math.exp(rate * recovery_s) * math.expm1(rate * whole_s))
    return Expected(max(closed, 0.0), exponential, rate * MANY * (recovery_s + interval_s) <= 1)


def young_interval_s(write_s: float, mttf_s: float) -> float:
    """The training time between checkpoints that costs least, to first order: sqrt(2 write MTTF)."""
    return math.sqrt(2 * write_s * mttf_s)


def daly_interval_s(write_s: float, mttf_s: float) -> float:
    """The same to higher order (Daly 2006, equation 37); MTTF where a write takes longer than twice that."""
    if write_s >= 2 * mttf_s:
        return mttf_s
    ratio = write_s / (2 * mttf_s)
    return young_interval_s(write_s, mttf_s) * (1 + math.sqrt(ratio) / 3 + ratio / 9) - write_s


@dataclass(frozen=True, slots=True)
class FailureRate:
    """What is believed of how often a node fails, as a gamma distribution: `failures` in `node_s`.

    A prior of one failure in its own expected time is weak: after a few real ones they decide.
    """

    failures: float
    node_s: float

    @classmethod
    def prior(cls, per_1000_node_days: float) -> FailureRate:
        """As if one failure had been seen in the time in which one is expected."""
        return cls(1.0, 1000 * DAY_S / per_1000_node_days)

    def seen(self, failures: int, node_s: float) -> FailureRate:
        """After `failures` more in `node_s` more seconds of nodes at work."""
        return FailureRate(self.failures + failures, self.node_s + node_s)

    @property
    def per_node_s(self) -> float:
        """Failures a second of one node: the mean of what is believed."""
        return self.failures / self.node_s

    def mttf_s(self, nodes: int) -> float:
        """Of a run on `nodes` nodes, any of which ends it."""
        return 1 / (self.per_node_s * nodes)
