"""What ranks, agents and supervisors tell: JSON lines with stable kinds and a schema.

Goodput, ETTR and attribution are computed from these and from nothing else. A line that was cut by a crash
is the last of its writer and is skipped and counted; any other malformed line is an error that names it.
The schema is documented in docs/design/fleet.md.
"""

from __future__ import annotations

import enum
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from stoker.core.atomic import naming_full_disk
from stoker.core.canonical import JsonValue
from stoker.core.errors import BadEvent, DiskFull
from stoker.core.ids import RunId

MAX_LINE_BYTES: Final = 65_536


class EventKind(enum.StrEnum):
    """The stable names of what can happen to a run."""

    RUN_STARTED = "run_started"
    ATTEMPT_STARTED = "attempt_started"
    ISOLATION_PROBED = "isolation_probed"
    CALLER_REFUSED = "caller_refused"
    LEASE_ENDED = "lease_ended"
    STANDBY_LOADED = "standby_loaded"
    STANDBY_LOST = "standby_lost"
    RANK_SPAWNED = "rank_spawned"
    RANK_STARTED = "rank_started"
    RANK_READY = "rank_ready"
    HEARTBEAT = "heartbeat"
    STEP = "step"
    RANK_PARTS = "rank_parts"
    BATCH_SKIPPED = "batch_skipped"
    ROLLED_BACK = "rolled_back"
    CHECKPOINT_STARTED = "checkpoint_started"
    CHECKPOINT_INTERVAL = "checkpoint_interval"
    CHECKPOINT_COMMITTED = "checkpoint_committed"
    EVALUATION = "evaluation"
    FIGURE = "figure"
    STOPPED_EARLY = "stopped_early"
    EXPOSURE = "exposure"
    SAMPLE = "sample"
    FAULT_INJECTED = "fault_injected"
    CANCEL_REQUESTED = "cancel_requested"
    RANK_ERROR = "rank_error"
    OUTPUT_WITHHELD = "output_withheld"
    RANK_EXITED = "rank_exited"
    NODE_LOST = "node_lost"
    NODE_BACK = "node_back"
    REGROUPING = "regrouping"
    RANK_HUNG = "rank_hung"
    RANK_STACK = "rank_stack"
    HANG_NAMED = "hang_named"
    ATTEMPT_ENDED = "attempt_ended"
    RESTART_SCHEDULED = "restart_scheduled"
    RUN_ENDED = "run_ended"


class Section(enum.StrEnum):
    """What a rank is doing, in its heartbeats."""

    START_UP = "start_up"
    DATA = "data"
    COMPUTE = "compute"
    OPTIMIZER = "optimizer"
    CHECKPOINT = "checkpoint"
    EVALUATE = "evaluate"
    DONE = "done"


REQUIRED_FIELDS: Final[Mapping[EventKind, Mapping[str, type | tuple[type, ...]]]] = {
    EventKind.RUN_STARTED: {"steps": int, "world_size": int},
    EventKind.ATTEMPT_STARTED: {"world_size": int, "resume_step": int},
    EventKind.ISOLATION_PROBED: {"state": str, "reason": str},
    EventKind.CALLER_REFUSED: {"count": int},
    EventKind.LEASE_ENDED: {"reason": str},
    EventKind.STANDBY_LOADED: {},
    EventKind.STANDBY_LOST: {"reason": str},
    EventKind.RANK_SPAWNED: {"pid": int},
    EventKind.RANK_STARTED: {"pid": int},
    EventKind.RANK_READY: {"resume_step": int, "parameters": int},
    EventKind.HEARTBEAT: {"section": str, "step": int},
    EventKind.STEP: {
        "step": int,
        "loss": (int, float),
        "lr": (int, float),
        "grad_norm": (int, float),
        "tokens": int,
        "step_s": (int, float),
        "data_wait_s": (int, float),
    },
    EventKind.RANK_PARTS: {
        "first_step": int,
        "step": int,
        "data_s": (int, float),
        "compute_s": (int, float),
        "optimizer_s": (int, float),
        "waited_s": (int, float),
    },
    EventKind.BATCH_SKIPPED: {
        "step": int,
        "reason": str,
        "loss": (int, float),
        "grad_norm": (int, float),
        "batch_digest": str,
    },
    EventKind.ROLLED_BACK: {"step": int, "to_step": int, "reason": str},
    EventKind.CHECKPOINT_STARTED: {"step": int},
    EventKind.CHECKPOINT_INTERVAL: {"step": int, "every_steps": int},
    EventKind.CHECKPOINT_COMMITTED: {
        "step": int,
        "sequence": int,
        "digest": str,
        "stall_s": (int, float),
        "bytes": int,
    },
    EventKind.EVALUATION: {"name": str, "bits_per_byte": (int, float), "bytes": int, "seconds": (int, float)},
    EventKind.FIGURE: {"name": str, "value": (int, float), "rows": int},
    EventKind.STOPPED_EARLY: {"step": int, "best_step": int, "best": (int, float)},
    EventKind.EXPOSURE: {"dataset": str, "bits": (int, float), "rank_among": int, "candidates": int},
    EventKind.SAMPLE: {"text": str},
    EventKind.FAULT_INJECTED: {"fault": str, "step": int},
    EventKind.CANCEL_REQUESTED: {},
    EventKind.RANK_ERROR: {"error_id": str, "message": str, "hint": str, "exit_code": int},
    EventKind.OUTPUT_WITHHELD: {"bytes": int},
    EventKind.RANK_EXITED: {"exit_code": int, "signal": int},
    EventKind.NODE_LOST: {"name": str},
    EventKind.NODE_BACK: {"name": str},
    EventKind.REGROUPING: {"reason": str},
    EventKind.RANK_HUNG: {"silent_s": (int, float), "section": str},
    EventKind.RANK_STACK: {"frames": list},
    EventKind.HANG_NAMED: {"waiting": int},
    EventKind.ATTEMPT_ENDED: {"outcome": str},
    EventKind.RESTART_SCHEDULED: {"delay_s": (int, float), "reason": str},
    EventKind.RUN_ENDED: {"outcome": str},
}
"""The fields each kind must hold, with their types; more fields are allowed."""

_ENVELOPE: Final = ("ts", "mono_s", "run", "attempt", "rank", "node", "kind")


@dataclass(frozen=True, slots=True)
class Event:
    """One line. `rank` is -1 for the agent and the supervisor; `mono_s` compares only on one `node`."""

    ts: float
    mono_s: float
    run: RunId
    attempt: int
    rank: int
    node: str
    kind: EventKind
    fields: Mapping[str, JsonValue] = field(default_factory=dict)

    def number(self, name: str) -> float:
        """The field `name` as a float; it must be there and a number."""
        value = self.fields.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise BadEvent(f"Event {self.kind} of run {self.run} has no number {name!r}.")
        return float(value)

    def text(self, name: str) -> str:
        """The field `name` as text; it must be there and text."""
        value = self.fields.get(name)
        if not isinstance(value, str):
            raise BadEvent(f"Event {self.kind} of run {self.run} has no text {name!r}.")
        return value


def encode_event(event: Event) -> bytes:
    """The event as one line of JSON with its newline. Raises BadEvent when it breaks its kind's schema."""
    _check(event, "an event of this process")
    head: dict[str, JsonValue] = {name: getattr(event, name) for name in _ENVELOPE}
    try:
        line = json.dumps({**head, **event.fields}, ensure_ascii=False, allow_nan=True).encode() + b"\n"
    except (TypeError, ValueError) as error:
        raise BadEvent(f"Event {event.kind} holds a value that JSON cannot carry: {error}.") from error
    if len(line) > MAX_LINE_BYTES:
        raise BadEvent(f"Event {event.kind} takes {len(line)} bytes; at most {MAX_LINE_BYTES} are allowed.")
    return line


def decode_event(line: bytes, place: str) -> Event:
    """The event in `line`. Raises BadEvent, naming `place`, on anything that is not a whole, valid event."""
    if len(line) > MAX_LINE_BYTES:
        raise BadEvent(f"{place}: a line of {len(line)} bytes; at most {MAX_LINE_BYTES} are allowed.")
    try:
        body: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadEvent(f"{place}: not JSON ({error}).") from error
    if not isinstance(body, dict):
        raise BadEvent(f"{place}: expected a JSON object.")
    try:
        head = {name: body.pop(name) for name in _ENVELOPE}
        event = Event(
            ts=float(head["ts"]),
            mono_s=float(head["mono_s"]),
            run=RunId(str(head["run"])),
            attempt=int(head["attempt"]),
            rank=int(head["rank"]),
            node=str(head["node"]),
            kind=EventKind(head["kind"]),
            fields=body,
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise BadEvent(f"{place}: missing or wrong envelope ({error!r}).") from error
    if not (math.isfinite(event.ts) and math.isfinite(event.mono_s)):
        raise BadEvent(f"{place}: 'ts' and 'mono_s' must be finite numbers of seconds.")
    _check(event, place)
    return event


def _check(event: Event, place: str) -> None:
    for name, expected in REQUIRED_FIELDS[event.kind].items():
        value = event.fields.get(name)
        if isinstance(value, bool) or not isinstance(value, expected):
            raise BadEvent(f"{place}: event {event.kind} needs {name!r}, found {ascii(value)[:80]}.")
    clash = set(_ENVELOPE) & set(event.fields)
    if clash:
        raise BadEvent(f"{place}: event {event.kind} may not name a field {sorted(clash)[0]!r}.")


class EventLog:
    """Appends whole lines to one file; several processes may append to the same file.

    A file whose last line was cut by a crash is given its missing newline first, so that no event is glued
    to the cut line.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        with naming_full_disk(path):
            self._descriptor = os.open(path, flags, 0o600)
            size = os.fstat(self._descriptor).st_size
            if size and os.pread(self._descriptor, 1, size - 1) != b"\n":
                os.write(self._descriptor, b"\n")

    def append(self, event: Event) -> None:
        """Write the event in one call, so that lines of several writers never mix."""
        line = encode_event(event)
        with naming_full_disk(self._path):
            written = os.write(self._descriptor, line)
        if written != len(line):
            raise DiskFull(
                f"No space is left on the file system that holds {self._path}.",
                hint="Free some space; the event that was cut is skipped when the file is read.",
            )

    def close(self) -> None:
        os.close(self._descriptor)


@dataclass(frozen=True, slots=True)
class EventFile:
    """What a file of events held: the events in order, and how many cut lines were skipped."""

    events: tuple[Event, ...]
    cut_lines: int


def read_events(path: Path) -> EventFile:
    """Every event in `path`. A line without its end, or garbage glued to a cut line, is skipped and counted.

    Raises BadEvent, naming file and line, when a whole line is JSON but breaks the schema.
    """
    events: list[Event] = []
    cut_lines = 0
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), start=1):
        if not line.strip():
            continue
        if not line.endswith(b"\n") or not _is_json(line):
            cut_lines += 1
            continue
        events.append(decode_event(line, f"{path}, line {number}"))
    return EventFile(tuple(events), cut_lines)


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True
