"""What a rank tells: events and heartbeats over one inherited descriptor. See docs/design/train.md.

A small thread says each second which section and step the rank is in, so that silence means the process is
stopped or gone. It also says for how long neither has changed: a rank that waits for a peer for ever still
beats, and that number is what gives it away.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from stoker.core.canonical import JsonValue
from stoker.core.clock import Clock
from stoker.core.errors import StokerError
from stoker.core.events import Event, EventKind, Section, encode_event
from stoker.core.ids import RunId
from stoker.train.checkpoint_errors import TelemetryLost

BEAT_EVERY_S: Final = 1.0
_GONE: Final = {errno.EPIPE, errno.EBADF, errno.ECONNRESET}


class Telemetry:
    """Writes whole event lines to `descriptor`, from any thread, and keeps the heart beating."""

    def __init__(
        self,
        descriptor: int,
        *,
        run: RunId,
        attempt: int,
        rank: int,
        node: str,
        clock: Clock,
        beat_every_s: float = BEAT_EVERY_S,
    ) -> None:
        self._descriptor = descriptor
        self._run = run
        self._attempt = attempt
        self._rank = rank
        self._node = node
        self._clock = clock
        self._beat_every_s = beat_every_s
        self._writing = threading.Lock()
        self._section = Section.START_UP
        self._step = 0
        self._changed_s = clock.monotonic_s()

    def emit(self, kind: EventKind, **fields: JsonValue) -> None:
        """One event. Raises TelemetryLost when nobody holds the other end any more."""
        event = Event(
            ts=self._clock.now_s(),
            mono_s=self._clock.monotonic_s(),
            run=self._run,
            attempt=self._attempt,
            rank=self._rank,
            node=self._node,
            kind=kind,
            fields=fields,
        )
        self._write(encode_event(event))

    def enter(self, section: Section, step: int | None = None) -> None:
        """The rank is now in `section` (of `step`, when that has changed too); the heart beats at once."""
        if step is not None:
            self._step = step
        self._section = section
        self._changed_s = self._clock.monotonic_s()
        self.beat()

    def beat(self) -> None:
        """Say where the rank is, and for how long it has been there."""
        still_s = self._clock.monotonic_s() - self._changed_s
        self.emit(
            EventKind.HEARTBEAT, section=self._section.value, step=self._step, still_s=round(still_s, 3)
        )

    def report(self, error: StokerError) -> None:
        """The rank ends with a known error."""
        self.emit(
            EventKind.RANK_ERROR,
            error_id=error.id,
            message=error.message,
            hint=error.hint,
            exit_code=error.exit_code,
            section=self._section.value,
            step=self._step,
        )

    def report_unknown(self, error: BaseException, trace: str) -> None:
        """The rank ends with an error that is none of ours; `trace` names files and lines, no data."""
        self.emit(
            EventKind.RANK_ERROR,
            error_id="unknown",
            message=f"{type(error).__name__} in section {self._section.value} of step {self._step}.",
            hint=trace[-4000:],
            exit_code=1,
            section=self._section.value,
            step=self._step,
        )

    @contextmanager
    def beating(self, on_loss: Callable[[TelemetryLost], None]) -> Iterator[None]:
        """Beat each second for the length of the block; `on_loss` is called from the beating thread."""
        ended = threading.Event()

        def keep_beating() -> None:
            while not ended.wait(self._beat_every_s):
                try:
                    self.beat()
                except TelemetryLost as error:
                    on_loss(error)
                    return

        thread = threading.Thread(target=keep_beating, name="heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _write(self, line: bytes) -> None:
        view = memoryview(line)
        try:
            with self._writing:
                while view:
                    view = view[os.write(self._descriptor, view) :]
        except OSError as error:
            if error.errno not in _GONE:
                raise
            raise TelemetryLost(
                f"Rank {self._rank} cannot tell its events any more: {error.strerror}.",
                hint="The agent of this node has ended. The supervisor starts the run again.",
            ) from error


def step_fields(
    *, step: int, loss: float, lr: float, grad_norm: float, tokens: int, step_s: float, data_wait_s: float
) -> Mapping[str, JsonValue]:
    """The fields of a step event, rounded to what was measured."""
    return {
        "step": step,
        "loss": loss,
        "lr": lr,
        "grad_norm": grad_norm,
        "tokens": tokens,
        "step_s": round(step_s, 6),
        "data_wait_s": round(data_wait_s, 6),
    }
