"""How well labels are told, of all rows and of each group. Plain numpy. See docs/design/families.md."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stoker.intake.proportion import share
from stoker.spec.moderation import ModerationSpec
from stoker.train.objectives.calibration import (
    Calibration,
    Numbers,
    Truth,
    auroc,
    calibrate,
    expected_calibration_error,
    sigmoid,
)


@dataclass(frozen=True, slots=True)
class LabelFigures:
    """Of one label over some rows. A figure that nothing was counted for is not a number.

    The true precision and recall lie between `low` and `high` at 95 % (Clopper and Pearson 1934).
    `calibration_error` is of the calibrated probabilities, `raw_calibration_error` of the model's own.
    """

    label: str
    rows: int
    positives: int
    precision: float
    precision_low: float
    precision_high: float
    recall: float
    recall_low: float
    recall_high: float
    f1: float
    false_positive_rate: float
    auroc: float
    calibration_error: float
    raw_calibration_error: float


@dataclass(frozen=True, slots=True)
class GroupFigures:
    """The same of the rows of one group."""

    group: str
    labels: tuple[LabelFigures, ...]


@dataclass(frozen=True, slots=True)
class ModerationReport:
    """Everything that is told of a moderation model. `calibrations` are by label, from other rows."""

    calibration_rows: int
    calibrations: tuple[Calibration, ...]
    labels: tuple[LabelFigures, ...]
    groups: tuple[GroupFigures, ...]

    @property
    def macro_f1(self) -> float:
        """The mean F1 of the labels that any row has."""
        found = [figures.f1 for figures in self.labels if figures.positives]
        return sum(found) / len(found) if found else math.nan

    def gaps(self, figure: str) -> Iterator[tuple[str, float]]:
        """For each label how far the groups' values of `figure` lie apart, where two groups have one."""
        for place, each in enumerate(self.labels):
            found = [float(getattr(group.labels[place], figure)) for group in self.groups]
            known = [value for value in found if math.isfinite(value)]
            if len(known) > 1:
                yield f"{each.label}.{figure}_gap", max(known) - min(known)

    def flat(self) -> Iterator[tuple[str, float]]:
        """Every figure by name: `LABEL.f1`, `GROUP.LABEL.f1`; those that are no numbers are left out."""
        yield "macro_f1", self.macro_f1
        for calibration, figures in zip(self.calibrations, self.labels, strict=True):
            yield f"{figures.label}.threshold", calibration.threshold
            yield f"{figures.label}.slope", calibration.slope
            yield f"{figures.label}.offset", calibration.offset
        yield from self.gaps("recall")
        yield from self.gaps("false_positive_rate")
        for prefix, table in [("", self.labels), *((f"{each.group}.", each.labels) for each in self.groups)]:
            for figures in table:
                for name in LabelFigures.__slots__[1:]:
                    yield f"{prefix}{figures.label}.{name}", float(getattr(figures, name))


def report_on(
    logits: Numbers, truth: Truth, groups: NDArray[np.int64], numbers: NDArray[np.int64], spec: ModerationSpec
) -> ModerationReport:
    """Calibrate on rows with an even number, and tell how the others are labelled.

    `logits` and `truth` `[rows, labels]`; `groups` `[rows]`, the place in `spec.groups`, or -1; `numbers`
    `[rows]`: which row of the split each is, so that the same rows calibrate whatever the layout.
    """
    even = numbers % 2 == 0
    calibrations = tuple(
        calibrate(logits[even, each], truth[even, each], spec.threshold_rule, spec.threshold_target)
        for each in range(len(spec.labels))
    )

    def figures(rows: Truth) -> tuple[LabelFigures, ...]:
        return tuple(
            label_figures(name, logits[rows, each], truth[rows, each], calibrations[each])
            for each, name in enumerate(spec.labels)
        )

    return ModerationReport(
        calibration_rows=int(even.sum()),
        calibrations=calibrations,
        labels=figures(~even),
        groups=tuple(
            GroupFigures(name, figures(~even & (groups == place))) for place, name in enumerate(spec.groups)
        ),
    )


def label_figures(label: str, logits: Numbers, truth: Truth, calibration: Calibration) -> LabelFigures:
    """The figures of one label over rows `[rows]`."""
    probabilities = calibration.probabilities(logits)
    said = probabilities >= calibration.threshold
    hits = int((said & truth).sum())
    positives, negatives, claims = int(truth.sum()), int((~truth).sum()), int(said.sum())
    precision, recall = share(hits, claims), share(hits, positives)
    return LabelFigures(
        label=label,
        rows=len(truth),
        positives=positives,
        precision=_ratio(hits, claims),
        precision_low=precision.low,
        precision_high=precision.high,
        recall=_ratio(hits, positives),
        recall_low=recall.low,
        recall_high=recall.high,
        f1=_ratio(2 * hits, claims + positives),
        false_positive_rate=_ratio(claims - hits, negatives),
        auroc=auroc(logits, truth),
        calibration_error=expected_calibration_error(probabilities, truth),
        raw_calibration_error=expected_calibration_error(sigmoid(logits), truth),
    )


def finite(figures: Iterator[tuple[str, float]]) -> dict[str, float]:
    """Figures by name, without those that are no numbers."""
    return {name: value for name, value in figures if math.isfinite(value)}


def table(report: ModerationReport) -> Sequence[str]:
    """The report as lines of text, a label a line."""
    head = (
        f"{'label':24} {'rows':>7} {'precision':>9} {'recall':>7} {'from':>7} {'to':>7} {'F1':>6} "
        f"{'AUROC':>6} {'ECE':>6}"
    )
    lines = [head]
    for prefix, rows in [("", report.labels), *((f"{each.group} ", each.labels) for each in report.groups)]:
        lines.extend(
            f"{prefix + row.label:24} {row.rows:7d} {row.precision:9.3f} {row.recall:7.3f} "
            f"{row.recall_low:7.3f} {row.recall_high:7.3f} {row.f1:6.3f} {row.auroc:6.3f} "
            f"{row.calibration_error:6.3f}"
            for row in rows
        )
    return lines


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else math.nan
