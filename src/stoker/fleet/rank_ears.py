"""What a rank tells, as its agent hears it: whole lines, of the kinds that a rank may tell, and nothing else.

See docs/design/fleet.md, "Events".
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, Self

from stoker.core.errors import BadEvent
from stoker.core.events import MAX_LINE_BYTES, Event, EventKind, Section, decode_event

RANK_KINDS: Final = frozenset(
    {
        EventKind.RANK_STARTED,
        EventKind.RANK_READY,
        EventKind.HEARTBEAT,
        EventKind.STEP,
        EventKind.RANK_PARTS,
        EventKind.BATCH_SKIPPED,
        EventKind.ROLLED_BACK,
        EventKind.CHECKPOINT_STARTED,
        EventKind.CHECKPOINT_INTERVAL,
        EventKind.CHECKPOINT_COMMITTED,
        EventKind.EVALUATION,
        EventKind.STOPPED_EARLY,
        EventKind.EXPOSURE,
        EventKind.FIGURE,
        EventKind.SAMPLE,
        EventKind.RANK_ERROR,
    }
)
"""What a rank may tell; anything else it sends is dropped and counted."""

_WORKING: Final = frozenset({Section.DATA, Section.COMPUTE, Section.OPTIMIZER})
_BEAT_APART_S: Final = 0.5


@dataclass(slots=True)
class Beats:
    """Which heartbeats of one rank the file of events keeps."""

    _kept_beat_s: float = -1e9
    _kept_section: str = ""

    def worth_keeping(self, event: Event, now_s: float) -> bool:
        """Within steps sections change several times a second; the file keeps two heartbeats a second."""
        if event.kind is not EventKind.HEARTBEAT:
            return True
        section = event.text("section")
        within_steps = section in _WORKING and self._kept_section in _WORKING
        if within_steps and now_s - self._kept_beat_s < _BEAT_APART_S:
            return False
        self._kept_beat_s, self._kept_section = now_s, section
        return True


@dataclass(slots=True)
class EventEar:
    """The agent's end of one rank's event pipe, and what has been heard from it."""

    descriptor: int
    dropped: int = 0
    """Lines that were malformed, too long, or of a kind that a rank may not tell."""
    _partial: bytearray = field(default_factory=bytearray)
    _beats: Beats = field(default_factory=Beats)

    @classmethod
    def beside_pipe(cls) -> tuple[Self, int]:
        """An ear at a new pipe, and the end that the rank writes to."""
        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        return cls(reader), writer

    def take(self, data: bytes) -> Iterator[Event]:
        """The events in the next bytes of the pipe, with what went before them; others are counted."""
        self._partial += data
        while (end := self._partial.find(b"\n")) >= 0:
            line = bytes(self._partial[: end + 1])
            del self._partial[: end + 1]
            try:
                event = decode_event(line, "a rank")
            except BadEvent:
                self.dropped += 1
                continue
            if event.kind in RANK_KINDS:
                yield event
            else:
                self.dropped += 1
        if len(self._partial) > MAX_LINE_BYTES:
            self._partial.clear()
            self.dropped += 1

    def worth_keeping(self, event: Event, now_s: float) -> bool:
        """Whether the file is to have it."""
        return self._beats.worth_keeping(event, now_s)

    def close(self) -> None:
        """The rank is gone; what it left of a line is dropped."""
        self.dropped += bool(self._partial)
        self._partial.clear()
        os.close(self.descriptor)
