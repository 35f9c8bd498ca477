"""What a supervisor remembers of the attempt that is alive, to say at its end what it died of."""

from __future__ import annotations

from typing import Final

from stoker.core.events import Event, EventKind
from stoker.fleet.attribution import Attribution, attribute, loopback_broke
from stoker.fleet.witnesses import Witnesses

TELLING: Final = frozenset(
    {
        EventKind.ATTEMPT_STARTED,
        EventKind.RANK_SPAWNED,
        EventKind.RANK_HUNG,
        EventKind.RANK_STACK,
        EventKind.RANK_ERROR,
        EventKind.RANK_EXITED,
    }
)
"""The kinds that attribution looks at: a few for each rank, however long the attempt lives."""


class AttemptStory:
    """The telling events of one attempt, in order."""

    def __init__(self, witnesses: Witnesses) -> None:
        self._witnesses = witnesses
        self._events: list[Event] = []

    def note(self, event: Event) -> None:
        """Remember an event; the first of a newer attempt lets go of the one before."""
        if event.kind not in TELLING and not loopback_broke(event):
            return
        if self._events and event.attempt > self._events[-1].attempt:
            self._events.clear()
        self._events.append(event)

    def attribution(self, attempt: int, refused: str, now_s: float) -> Attribution:
        """What `attempt`, which is over now, died of; `refused` is the id of the error that ended it."""
        events = [event for event in self._events if event.attempt == attempt]
        return attribute(events, self._witnesses(attempt), refused=refused, ended_s=now_s)
