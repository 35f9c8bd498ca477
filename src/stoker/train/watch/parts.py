"""What a rank's own part of a step took, its waiting for others left out. See docs/design/watch.md, "Parts".

Ranks wait for one another in every collective, so every rank's step takes as long as the slowest one's. What
a rank spent blocked in collectives is measured and taken off: what is left is its own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch

from stoker.core.clock import Clock
from stoker.core.events import EventKind, Section
from stoker.train.telemetry import Telemetry

EVERY_STEPS: Final = 16
"""Ranks tell their parts after steps whose number is a multiple of this, and at the end."""

_OF_A_STEP: Final = (Section.DATA, Section.COMPUTE, Section.OPTIMIZER)


class Waits:
    """Seconds that this thread was blocked in collectives since the block began."""

    def __init__(self) -> None:
        self.waited_s = 0.0
        self._thread = threading.get_ident()

    def add(self, waited_s: float) -> None:
        """Waits of other threads, such as one that saves a checkpoint, are none of the step's."""
        if threading.get_ident() == self._thread:
            self.waited_s += waited_s


@contextmanager
def counting_waits(clock: Clock) -> Iterator[Waits]:
    """Time every wait for a collective of this process while the block lasts.

    torch has no hook for it, so the one method through which every backend waits is wrapped. On a CUDA device
    it returns at once, since the device waits and not the host.
    """
    from torch._C._distributed_c10d import Work

    kind: Any = Work
    waits, plain_wait = Waits(), kind.wait

    def timed_wait(work: Any, *arguments: Any, **named: Any) -> Any:
        begun_s = clock.monotonic_s()
        try:
            return plain_wait(work, *arguments, **named)
        finally:
            waits.add(clock.monotonic_s() - begun_s)

    kind.wait = timed_wait
    try:
        yield waits
    finally:
        kind.wait = plain_wait


class OwnParts:
    """Adds up a rank's own seconds in the sections of its steps, and tells them now and then."""

    def __init__(self, telemetry: Telemetry, waits: Waits, device: torch.device, clock: Clock) -> None:
        self._telemetry, self._waits, self._clock = telemetry, waits, clock
        self._host_waits = device.type == "cpu"
        self._first_step = 0
        self._spent_s = dict.fromkeys(_OF_A_STEP, 0.0)
        self._waited_s = 0.0
        self._section: Section | None = None
        self._since_s = self._waits_before_s = 0.0

    def begin(self, step: int) -> None:
        """Step number `step` begins, with its data."""
        if not self._first_step:
            self._first_step = step
        self.enter(Section.DATA)

    def enter(self, section: Section) -> None:
        """`section` begins now, and the one before ends."""
        self._close()
        self._section = section

    def end(self, step: int) -> None:
        """The step is done; tell what has come together when it is time."""
        self._close()
        if step % EVERY_STEPS == 0:
            self.tell(step)

    def tell(self, step: int) -> None:
        """What has come together up to `step`; nothing when that is nothing."""
        if not self._first_step or step < self._first_step:
            return
        own = {f"{section.value}_s": round(spent_s, 6) for section, spent_s in self._spent_s.items()}
        waited_s = round(self._waited_s, 6)
        self._telemetry.emit(
            EventKind.RANK_PARTS,
            first_step=self._first_step,
            step=step,
            waited_s=waited_s,
            host_waits=self._host_waits,
            **own,
        )
        self._first_step, self._waited_s = 0, 0.0
        self._spent_s = dict.fromkeys(_OF_A_STEP, 0.0)

    def _close(self) -> None:
        now_s, waits_s = self._clock.monotonic_s(), self._waits.waited_s
        if self._section is not None:
            waited_s = waits_s - self._waits_before_s
            self._spent_s[self._section] += max(now_s - self._since_s - waited_s, 0.0)
            self._waited_s += waited_s
        self._section, self._since_s, self._waits_before_s = None, now_s, waits_s


def both(first: Callable[[Section], None], second: Callable[[Section], None]) -> Callable[[Section], None]:
    """One call for two listeners to sections."""

    def enter(section: Section) -> None:
        first(section)
        second(section)

    return enter
