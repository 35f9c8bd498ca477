"""Lemons: nodes that fail more than their peers, by seven signals. Pure; formula in docs/design/nodes.md.

The signals are those of Kokolis et al., arXiv:2410.21680, section IV-A. Their weights were set by hand for
one fleet and are not published; the formula here is ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class NodeSignals:
    """What happened at one node within a window, counted.

    `excluded_by_jobs`: jobs that left it out by name. `multi_node_failures` and `single_node_failures`: jobs
    on several nodes, and on this one alone, that ended because of a node, this one. `single_node_jobs`: all
    jobs on this one alone.
    """

    node: str
    excluded_by_jobs: int = 0
    xid_errors: int = 0
    tickets: int = 0
    out_of_service: int = 0
    multi_node_failures: int = 0
    single_node_failures: int = 0
    single_node_jobs: int = 0


@dataclass(frozen=True, slots=True)
class LemonRule:
    """`weights` of the seven signals; a lemon has at least `least_score`, and `least_kinds` kinds of
    evidence that each reach `least_surprise`. Surprises are powers of ten, at most `most_surprise`."""

    weights: Mapping[str, float]
    least_score: float = 7.0
    least_kinds: int = 2
    least_surprise: float = 2.0
    most_surprise: float = 6.0


KINDS: Final[Mapping[str, str]] = {
    "excluded_by_jobs": "people",
    "xid_errors": "device",
    "tickets": "people",
    "out_of_service": "checks",
    "multi_node_failures": "jobs",
    "single_node_failures": "jobs",
    "single_node_failure_rate": "jobs",
}
"""The seven signals, and who gives evidence by each."""

RULE: Final = LemonRule(
    weights={
        "excluded_by_jobs": 0.1,
        "xid_errors": 0.75,
        "tickets": 0.75,
        "out_of_service": 1.0,
        "multi_node_failures": 1.0,
        "single_node_failures": 0.5,
        "single_node_failure_rate": 0.5,
    }
)
"""Exclusions by users weigh little: alone they do not correlate (FIELD notes of RSC)."""

TRIM: Final = 0.02
"""The part of the nodes with the highest counts that does not shape what is usual."""

FLOOR: Final = 0.05
"""The least count that is expected of a node, so that a fleet without any failure calls no first one odd."""


@dataclass(frozen=True, slots=True)
class LemonScore:
    """The score of one node, the surprise of each signal, and whether it is a lemon by the rule."""

    node: str
    score: float
    surprises: Mapping[str, float]
    lemon: bool

    @property
    def evidence(self) -> str:
        """The signals that say most, in words."""
        told = sorted(self.surprises.items(), key=lambda each: -each[1])
        return ", ".join(f"{name} {value:.1f}" for name, value in told if value >= 1.0) or "nothing unusual"


def score_nodes(signals: Sequence[NodeSignals], rule: LemonRule = RULE) -> tuple[LemonScore, ...]:
    """The score of every node against its peers, in the order given. At least two nodes make peers.

    Each count becomes a surprise: -log10 of the probability that a node like its peers has as many or more,
    under a negative binomial with the trimmed fleet's mean and spread. The score is their weighted sum.
    """
    if len(signals) < 2:
        return tuple(LemonScore(each.node, 0.0, dict.fromkeys(KINDS, 0.0), False) for each in signals)
    surprises = {name: _surprises(name, signals).clip(0.0, rule.most_surprise) for name in KINDS}
    scores = sum(rule.weights[name] * values for name, values in surprises.items())
    assert isinstance(scores, np.ndarray)
    found = []
    for index, each in enumerate(signals):
        own = {name: float(values[index]) for name, values in surprises.items()}
        kinds = {KINDS[name] for name, value in own.items() if value >= rule.least_surprise}
        lemon = bool(scores[index] >= rule.least_score) and len(kinds) >= rule.least_kinds
        found.append(LemonScore(each.node, float(scores[index]), own, lemon))
    return tuple(found)


def _surprises(name: str, signals: Sequence[NodeSignals]) -> Floats:
    if name == "single_node_failure_rate":
        counts = _column("single_node_failures", signals)
        exposure = _column("single_node_jobs", signals)
    else:
        counts, exposure = _column(name, signals), np.ones(len(signals))
    return surprise(counts, exposure)


def _column(name: str, signals: Sequence[NodeSignals]) -> Floats:
    return np.array([getattr(each, name) for each in signals], dtype=np.float64)


def surprise(counts: Floats, exposure: Floats) -> Floats:
    """-log10 P(X >= count) for each node [nodes], X with mean rate * exposure and the fleet's spread."""
    usual = _usual(counts, exposure)
    rate = counts[usual].sum() / max(float(exposure[usual].sum()), 1e-9)
    expected = np.maximum(rate * exposure, FLOOR)
    spread = _spread(counts[usual], expected[usual])
    return np.asarray(-np.log10(np.maximum(tail(counts, expected, spread), 1e-300)))


def _usual(counts: Floats, exposure: Floats) -> NDArray[np.bool_]:
    ratio = counts / np.maximum(exposure, 1e-9)
    kept = max(1, int(np.ceil((1 - TRIM) * len(ratio))))
    mask = np.zeros(len(ratio), dtype=np.bool_)
    mask[np.argsort(ratio, kind="stable")[:kept]] = True
    return mask


def _spread(counts: Floats, expected: Floats) -> float:
    """Beyond Poisson: alpha of Var = mean + alpha * mean^2, by moments; 0 when there is none."""
    excess = float(np.sum((counts - expected) ** 2 - expected))
    return max(0.0, excess / max(float(np.sum(expected**2)), 1e-9))


def tail(counts: Floats, expected: Floats, spread: float) -> Floats:
    """P(X >= count), X negative binomial with Var = mean + spread * mean^2 (Poisson for spread 0)."""
    probability = np.exp(-expected) if spread < 1e-9 else (1 + spread * expected) ** (-1 / spread)
    below = np.zeros_like(expected)
    for number in range(int(counts.max(initial=0))):
        below = np.where(counts > number, below + probability, below)
        probability = (
            probability * expected * (1 + spread * number) / ((number + 1) * (1 + spread * expected))
        )
    tail = 1.0 - below
    # Where 1 - below loses its digits, the first term of the tail is a lower bound of it.
    return np.where(counts == 0, 1.0, np.maximum(tail, _at(counts, expected, spread)))


def _at(counts: Floats, expected: Floats, spread: float) -> Floats:
    """P(X = count) by the same recurrence in logarithms."""
    log = -expected if spread < 1e-9 else -np.log1p(spread * expected) / spread
    for number in range(int(counts.max(initial=0))):
        step = np.log(expected * (1 + spread * number) / ((number + 1) * (1 + spread * expected)))
        log = np.where(counts > number, log + step, log)
    return np.asarray(np.exp(log))
