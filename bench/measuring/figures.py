"""What a benchmark says: figures with goals, from samples with their spread. See docs/bench/README.md."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version

from stoker.core.canonical import JsonValue


@dataclass(frozen=True, slots=True)
class Goal:
    """What a figure should reach. Made by `at_least` and `at_most`."""

    limit: float
    upwards: bool

    def met_by(self, value: float) -> bool:
        """Whether `value` reaches it."""
        return value >= self.limit if self.upwards else value <= self.limit

    def __str__(self) -> str:
        return f"at {'least' if self.upwards else 'most'} {self.limit:g}"


def at_least(limit: float) -> Goal:
    """More is better."""
    return Goal(limit, upwards=True)


def at_most(limit: float) -> Goal:
    """Less is better."""
    return Goal(limit, upwards=False)


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure. `value` is None exactly when there is a `reason` why it could not be measured.

    `quartiles` are the first and third of the samples whose median is the value; None for a single sample.
    """

    value: float | None
    unit: str
    goal: Goal | None = None
    quartiles: tuple[float, float] | None = None
    reason: str | None = None

    def __post_init__(self) -> None:
        assert (self.value is None) == bool(self.reason), "a figure is measured, or says why it is not"

    @property
    def holds(self) -> bool | None:
        """Whether the goal is reached; None without a goal or without a value."""
        return None if self.goal is None or self.value is None else self.goal.met_by(self.value)


@dataclass(frozen=True, slots=True)
class Measured:
    """A benchmark's whole result. `peers` are versions; `environment` holds its own sizes and counts."""

    figures: Mapping[str, Figure]
    method: str
    peers: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, JsonValue] = field(default_factory=dict)


def median_of(samples: Sequence[float], unit: str, goal: Goal | None = None) -> Figure:
    """The median of the samples with its quartiles."""
    quartiles = None
    if len(samples) > 1:
        low, _, high = statistics.quantiles(samples, n=4, method="inclusive")
        quartiles = (low, high)
    return Figure(statistics.median(samples), unit, goal, quartiles)


def rate_of(amount: float, seconds: Sequence[float], unit: str, goal: Goal | None = None) -> Figure:
    """`amount` over each of the times."""
    return median_of([amount / second for second in seconds], unit, goal)


def ratio_of(above: Sequence[float], below: Sequence[float], goal: Goal | None = None) -> Figure:
    """The ratio of two samples of the same round, for each round: what disturbs a round disturbs both."""
    return median_of([over / under for over, under in zip(above, below, strict=True)], "ratio", goal)


def not_measured(reason: str, unit: str, goal: Goal | None = None) -> Figure:
    """A figure that is missing, and why."""
    return Figure(None, unit, goal, reason=reason)


def versions_of(*packages: str) -> dict[str, str]:
    """The installed versions of what is measured beside ours."""
    return {package: version(package) for package in packages}


def plain_figures(
    figures: Mapping[str, Figure], *, judged: bool
) -> Iterator[tuple[str, dict[str, JsonValue]]]:
    """Names and bodies as they stand in the JSON object; quartiles are figures of their own."""
    for name, figure in figures.items():
        body: dict[str, JsonValue] = {
            "value": None if figure.value is None else rounded(figure.value),
            "unit": figure.unit,
            "goal": None if figure.goal is None else str(figure.goal),
            "holds": figure.holds if judged else None,
        }
        if figure.reason is not None:
            body["reason"] = figure.reason
        yield name, body
        for place, value in zip(("q1", "q3"), figure.quartiles or (), strict=False):
            quartile: dict[str, JsonValue] = {
                "value": rounded(value),
                "unit": figure.unit,
                "goal": None,
                "holds": None,
            }
            yield f"{name}_{place}", quartile


def rounded(value: float) -> float:
    """Five digits that mean something; whole numbers stay as they are."""
    return value if value == int(value) else float(f"{value:.5g}")
