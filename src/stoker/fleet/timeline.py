"""One line of time for the events of a run, whatever its clocks did. See docs/design/fleet.md."""

from __future__ import annotations

from typing import Final

from stoker.core.events import Event

STEP_BACK_S: Final = 1.0
"""Less than this is the order in which two writers reached the file, not a clock that went back."""


class Timeline:
    """Positions of events on one line of time that never runs back.

    On the supervisor's node, times come from the monotonic clock; it is anchored anew at each `run_started`,
    since the machine may have started anew between two supervisors. Elsewhere the wall clock is all there is.
    """

    def __init__(self) -> None:
        self.position_s = 0.0
        self.steps_back = 0
        self._anchor: Event | None = None
        self._anchor_s = 0.0

    def anchor(self, event: Event) -> float:
        """Begin a session at `event`; returns the seconds of wall clock since the last position."""
        gap_s = 0.0
        if self._anchor is not None:
            gap_s = event.ts - self._anchor.ts + self._anchor_s - self.position_s
            if gap_s < -STEP_BACK_S:
                self.steps_back += 1
            gap_s = max(gap_s, 0.0)
        self._anchor, self._anchor_s = event, self.position_s
        return gap_s

    def advance(self, event: Event) -> float:
        """Move to `event`; returns the seconds since the last position."""
        assert self._anchor is not None
        if event.node == self._anchor.node:
            place_s = self._anchor_s + event.mono_s - self._anchor.mono_s
        else:
            place_s = self._anchor_s + event.ts - self._anchor.ts
        passed_s = place_s - self.position_s
        if passed_s < -STEP_BACK_S:
            self.steps_back += 1
        passed_s = max(passed_s, 0.0)
        self.position_s += passed_s
        return passed_s
