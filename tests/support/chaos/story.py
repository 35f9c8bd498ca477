"""What a campaign sees of its run while it goes on: the events that were written so far."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from stoker.core.errors import StokerError
from stoker.core.events import Event, EventKind, decode_event
from stoker.fleet.attribution import Attribution

K = EventKind


@dataclass(slots=True)
class Story:
    """Read on with `read`. A line that was cut by a death is counted and passed over."""

    path: Path
    attempt: int = 0
    step: int = 0
    """The last step of the attempt that was begun last; 0 before it has done one."""
    steps_told: int = 0
    """Steps that were told so far, those that were done again counted each time."""
    failures: list[Attribution | None] = field(default_factory=list)
    """Of each attempt that failed what it was put down to."""
    standbys_lost: int = 0
    standby_loaded: bool = False
    resumed: int = 0
    cut_lines: int = 0
    ended: bool = False
    pids: dict[int, int] = field(default_factory=dict)
    """Of the ranks of the current attempt."""
    _offset: int = 0
    _alive: bool = False

    @property
    def training(self) -> bool:
        """Whether the current attempt has done a step, and nothing is known to be wrong with it."""
        return self._alive and self.step > 0

    def read(self) -> None:
        """Take what was written since the last call, as far as its lines are whole."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(self._offset)
            data = file.read(size - self._offset)
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        for line in whole.splitlines(keepends=True):
            try:
                self._take(decode_event(line, str(self.path)))
            except StokerError:
                self.cut_lines += 1

    def _take(self, event: Event) -> None:
        if event.kind is K.RUN_STARTED:
            self._alive, self.standby_loaded = False, False
            lost = Attribution.told_in(event)
            if lost is not None:
                self.failures.append(lost)
            self.resumed += event.fields.get("session") == "resumed"
        elif event.kind is K.ATTEMPT_STARTED:
            self.attempt, self.step, self._alive, self.standby_loaded = event.attempt, 0, True, False
            self.pids.clear()
        elif event.kind is K.RANK_SPAWNED:
            self.pids[event.rank] = int(event.number("pid"))
        elif event.kind is K.STEP and event.rank == 0:
            self.step, self.steps_told = int(event.number("step")), self.steps_told + 1
        elif event.kind in (K.RANK_HUNG, K.RANK_ERROR):
            self._alive = False
        elif event.kind is K.STANDBY_LOADED:
            self.standby_loaded = True
        elif event.kind is K.STANDBY_LOST:
            self.standbys_lost += 1
            self.standby_loaded = False
        elif event.kind is K.ATTEMPT_ENDED:
            self._alive = False
            if event.text("outcome") == "failed":
                self.failures.append(Attribution.told_in(event))
        elif event.kind is K.RUN_ENDED:
            self.ended = event.text("outcome") == "finished"
