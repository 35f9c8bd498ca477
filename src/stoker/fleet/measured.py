"""What the objective of a run measured on held-out records, and whether it ended early: from the events."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from stoker.core.events import Event, EventKind


@dataclass(frozen=True, slots=True)
class MeasuredFigure:
    """`value` of the figure `name` over `rows` held-out records; None where it was no number."""

    name: str
    value: float | None
    rows: int


@dataclass(frozen=True, slots=True)
class EarlyStop:
    """The run ended after `step`, since no evaluation after that of `best_step` was better than `best`."""

    step: int
    best_step: int
    best: float

    def sentence(self) -> str:
        """For people."""
        return (
            f"after step {self.step}: no evaluation was better than {self.best:.4f} of step {self.best_step}"
        )


def measured_of(events: Iterable[Event]) -> tuple[MeasuredFigure, ...]:
    """The newest of each name, in the order in which the names came up."""
    newest: dict[str, MeasuredFigure] = {}
    for event in events:
        if event.kind is EventKind.FIGURE:
            name, value = event.text("name"), event.number("value")
            finite = value if math.isfinite(value) else None
            newest[name] = MeasuredFigure(name, finite, int(event.number("rows")))
    return tuple(newest.values())


def early_stop_of(events: Iterable[Event]) -> EarlyStop | None:
    """The newest; None when the run took all its steps, or has not ended."""
    found = [event for event in events if event.kind is EventKind.STOPPED_EARLY]
    if not found:
        return None
    last = found[-1]
    return EarlyStop(int(last.number("step")), int(last.number("best_step")), last.number("best"))
