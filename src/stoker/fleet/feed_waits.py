"""How long a run's steps waited for data: the `[feed]` line of every report. See docs/design/feed.md."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from stoker.core.events import Event, EventKind

LATE_S: Final = 0.001
"""A step that waited longer than this for its batch was late."""


@dataclass(frozen=True, slots=True)
class FeedWaits:
    """What steps waited for their batches, as rank 0 told it, steps that were done again included.

    The first step of an attempt has nothing read ahead: it waits for its chunks to be opened, and is counted
    apart, in `first_steps` and `first_waited_s`. `worst_step` is where `worst_s` was; None when none waited.
    """

    steps: int = 0
    waited_s: float = 0.0
    share_of_step_time: float | None = None
    late_steps: int = 0
    worst_s: float = 0.0
    worst_step: int | None = None
    first_steps: int = 0
    first_waited_s: float = 0.0

    def sentence(self) -> str:
        """All of it in a line."""
        if not self.steps and not self.first_steps:
            return "no step told how long it waited for data"
        share = "" if self.share_of_step_time is None else f", {self.share_of_step_time:.2%} of step time"
        worst = "" if self.worst_step is None else f", worst {self.worst_s * 1e3:.1f} ms at {self.worst_step}"
        return (
            f"{self.steps:,} steps waited {self.waited_s:.3f} s for data in all{share}{worst}; "
            f"{self.late_steps:,} waited more than {LATE_S * 1e3:.0f} ms; the first of each attempt "
            f"{self.first_waited_s:.3f} s"
        )


def feed_waits(events: Iterable[Event]) -> FeedWaits:
    """The waits of all steps that rank 0 told of."""
    waits: list[tuple[float, int]] = []
    steps_s = first_waited_s = 0.0
    first_steps = 0
    first = False
    for event in events:
        if event.kind is EventKind.ATTEMPT_STARTED:
            first = True
        elif event.kind is EventKind.STEP and event.rank == 0:
            waited_s = event.number("data_wait_s")
            if first:
                first, first_steps, first_waited_s = False, first_steps + 1, first_waited_s + waited_s
                continue
            steps_s += event.number("step_s")
            waits.append((waited_s, int(event.number("step"))))
    worst_s, worst_step = max(waits, key=lambda wait: wait[0], default=(0.0, 0))
    waited_s = sum(wait for wait, _ in waits)
    return FeedWaits(
        steps=len(waits),
        waited_s=waited_s,
        share_of_step_time=waited_s / steps_s if steps_s > 0 else None,
        late_steps=sum(wait > LATE_S for wait, _ in waits),
        worst_s=worst_s,
        worst_step=worst_step if worst_s > 0 else None,
        first_steps=first_steps,
        first_waited_s=first_waited_s,
    )
