"""Scores to probabilities and decisions, and how far both can be trusted. Plain numpy. See families.md.

All functions take one label: `logits` or `probabilities` fp64 `[rows]`, and `truth` bool `[rows]`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from stoker.spec.moderation import ThresholdRule

Numbers: TypeAlias = NDArray[np.float64]
Truth: TypeAlias = NDArray[np.bool_]

NEWTON_STEPS: Final = 50


@dataclass(frozen=True, slots=True)
class Calibration:
    """A label's probability is sigmoid(slope · logit + offset); from `threshold` on it counts as there."""

    slope: float
    offset: float
    threshold: float

    def probabilities(self, logits: Numbers) -> Numbers:
        """Calibrated probabilities."""
        return sigmoid(self.slope * logits + self.offset)


def sigmoid(values: Numbers) -> Numbers:
    """1 / (1 + exp(-values)), without overflow."""
    small = np.exp(-np.abs(values))
    result: Numbers = np.where(values >= 0, 1.0 / (1.0 + small), small / (1.0 + small))
    return result


def calibrate(
    logits: Numbers, truth: Truth, rule: ThresholdRule = ThresholdRule.F1, target: float = 0.95
) -> Calibration:
    """Platt's scaling, and the threshold that `rule` asks for, from a part that was not trained on.

    A part without both kinds of rows says nothing: then the logits stay as they are and the threshold is ½.
    """
    if truth.all() or not truth.any():
        return Calibration(1.0, 0.0, 0.5)
    slope, offset = _platt(logits, truth)
    probabilities = sigmoid(slope * logits + offset)
    return Calibration(slope, offset, _threshold(probabilities, truth, rule, target))


def _platt(logits: Numbers, truth: Truth) -> tuple[float, float]:
    """Slope and offset of the likeliest sigmoid (Platt 1999; Lin, Lin and Weng 2007, by Newton's method).

    The truth is taken for a little less sure than it says, as Platt did, so that a part which is told apart
    without a mistake does not make the slope infinite.
    """
    positive = int(truth.sum())
    high, low = (positive + 1) / (positive + 2), 1 / (len(truth) - positive + 2)
    wanted = np.where(truth, high, low)
    centre = float(logits.mean())
    scale = float(logits.std()) or 1.0
    features = np.stack([(logits - centre) / scale, np.ones_like(logits)])
    found = np.array([0.0, math.log((positive + 1) / (len(truth) - positive + 1))])

    def loss(parameters: Numbers) -> float:
        line = parameters @ features
        return float((np.logaddexp(0.0, line) - wanted * line).sum())

    for _ in range(NEWTON_STEPS):
        probabilities = sigmoid(found @ features)
        gradient = features @ (probabilities - wanted)
        curvature = (features * (probabilities * (1 - probabilities))) @ features.T + 1e-9 * np.eye(2)
        move = np.linalg.solve(curvature, gradient)
        length = 1.0
        while length > 1e-6 and loss(found - length * move) > loss(found) - 1e-4 * length * gradient @ move:
            length /= 2
        found = found - length * move
        if np.abs(gradient).max() < 1e-8 * len(truth):
            break
    slope = float(found[0]) / scale
    return slope, float(found[1]) - slope * centre


def _threshold(probabilities: Numbers, truth: Truth, rule: ThresholdRule, target: float) -> float:
    """Half-way between two scores that occur, so that a hair's breadth changes no decision."""
    order = np.argsort(-probabilities, kind="stable")
    scores, hits = probabilities[order], truth[order].cumsum()
    taken = np.arange(1, len(scores) + 1)
    last = np.append(scores[1:] < scores[:-1], True)  # equal scores are taken together
    precision, recall = hits / taken, hits / hits[-1]
    if rule is ThresholdRule.F1:
        worth = 2 * hits / (taken + hits[-1])
    elif rule is ThresholdRule.PRECISION:
        worth = np.where(precision >= target, 1 + recall, precision)
    else:
        worth = np.where(recall >= target, 1 + precision, recall)
    place = int(np.argmax(np.where(last, worth, -1.0)))
    below = scores[place + 1] if place + 1 < len(scores) else 0.0
    return float((scores[place] + below) / 2)


def expected_calibration_error(probabilities: Numbers, truth: Truth, bins: int = 15) -> float:
    """The mean over rows of |share of truth − mean probability| of the row's bin (Guo et al. 2017).

    `bins` of equal width over 0 to 1; not a number when there are no rows.
    """
    if not len(truth):
        return math.nan
    number = np.minimum((probabilities * bins).astype(np.int64), bins - 1)
    off = np.bincount(number, weights=truth.astype(np.float64) - probabilities, minlength=bins)
    return float(np.abs(off).sum() / len(truth))


def auroc(scores: Numbers, truth: Truth) -> float:
    """How often a row with the label has a higher score than one without; half for ties (Mann, Whitney).

    Not a number when there are no rows of one kind.
    """
    positive = int(truth.sum())
    negative = len(truth) - positive
    if not positive or not negative:
        return math.nan
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (counts.cumsum() - (counts - 1) / 2)[place]
    return float((ranks[truth].sum() - positive * (positive + 1) / 2) / (positive * negative))
