"""A run's figures in a file of W&B's offline mode, for `wandb sync` and `wandb leet`.

W&B's own offline mode starts a program that listens on a socket and collects facts of the machine; this
writes the same kind of file from events alone, and needs no package of W&B's. See docs/design/watch.md,
"Curves", and docs/decisions/0717-wandb-without-its-service.md. The file
is LevelDB's log (doc/log_format.md there, with zlib's CRC-32) behind seven bytes of W&B's; each record is a
protobuf message of wandb_internal.proto, whose field numbers stand here.
"""

from __future__ import annotations

import json
import struct
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from stoker import __version__
from stoker.core.atomic import naming_full_disk
from stoker.core.canonical import JsonValue
from stoker.core.events import Event, EventKind
from stoker.core.ids import RunId
from stoker.core.result import plain
from stoker.fleet.curves import points
from stoker.ledger.records import RunOutcome
from stoker.spec.run import RunSpec

PROJECT: Final = "stoker"
STEP: Final = "step"
"""The figure that W&B draws all others over. Its own count of rows cannot go back, and a run's steps can."""

BLOCK_BYTES: Final = 32_768
_FILE_HEAD: Final = b":W&B" + struct.pack("<HB", 0xBEE1, 0)
_RECORD_HEAD: Final = struct.Struct("<IHB")
_WHOLE, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4

_OLDEST_READER: Final = "0.70.0"
"""Of W&B's core, as its version 0.31 writes it."""


@dataclass(frozen=True, slots=True)
class WandbRun:
    """What W&B is told of a run beside its figures; `config` is the merged run file."""

    id: str
    name: str
    config: Mapping[str, JsonValue]


def wandb_run(run: RunId, spec: RunSpec) -> WandbRun:
    """What W&B is told of a run by its run file."""
    config = plain(spec)
    assert isinstance(config, dict)
    return WandbRun(run, spec.name, config)


class WandbLog:
    """Appends to one new folder of an offline run in `folder`, made when the first figure comes."""

    def __init__(self, folder: Path, run: WandbRun) -> None:
        self._folder = folder
        self._run = run
        self._file: BinaryIO | None = None
        self._written = 0
        self._records = 0
        self._rows = 0
        self._step = 0
        self._begun_s = 0.0
        self._newest: dict[str, float] = {}
        self._outcome: str | None = None

    def take(self, event: Event) -> None:
        """Write what is drawn of an event. Raises DiskFull."""
        if event.kind is EventKind.RUN_ENDED:
            self._outcome = event.text("outcome")
        found = dict(points(event))
        if not found:
            return
        step = event.fields.get("step")
        if isinstance(step, int):
            self._step = step
        with naming_full_disk(self._folder):
            file = self._file or self._open(event.ts)
            self._newest |= found
            told = {
                **found,
                STEP: float(self._step),
                "_step": float(self._rows),
                "_timestamp": event.ts,
                "_runtime": event.ts - self._begun_s,
            }
            self._record(file, _history(told, self._rows))
            self._rows += 1
            file.flush()

    def close(self) -> None:
        """The file is whole; nothing when there was no figure. Raises DiskFull."""
        file, self._file = self._file, None
        if file is None:
            return
        with naming_full_disk(self._folder), file:
            self._record(file, _summary({**self._newest, STEP: float(self._step)}))
            if self._outcome is not None:
                self._record(file, _exit(0 if self._outcome == RunOutcome.FINISHED.value else 1))

    def _open(self, now_s: float) -> BinaryIO:
        stamp, name = time.strftime("%Y%m%d_%H%M%S", time.gmtime(now_s)), self._run.id
        for number in range(1000):  # two supervisors in one second
            place = self._folder / f"offline-run-{stamp}-{name}{f'-{number}' if number else ''}"
            if not place.exists():
                break
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        place.mkdir(mode=0o700)
        (place / "files").mkdir(mode=0o700)
        path = place / f"run-{name}.wandb"
        path.touch(mode=0o600)
        self._file = file = path.open("wb")
        self._begun_s = now_s
        file.write(_FILE_HEAD)
        self._written = len(_FILE_HEAD)
        for record in (_header(), _run(self._run, now_s), _over_steps()):
            self._record(file, record)
        return file

    def _record(self, file: BinaryIO, record: bytes) -> None:
        self._records += 1
        for piece in framed(_number(1, self._records) + record, self._written):
            file.write(piece)
            self._written += len(piece)


def write_wandb(events: Iterable[Event], folder: Path, run: WandbRun) -> int:
    """One offline run of W&B's of a whole run's events; how many figures it has."""
    log, count = WandbLog(folder, run), 0
    for event in events:
        count += sum(1 for _ in points(event))
        log.take(event)
    log.close()
    return count


def framed(record: bytes, position: int) -> Iterator[bytes]:
    """A record as LevelDB's log has it from byte `position` of the file on: in pieces, none over a block."""
    begin = 0
    while True:
        room = BLOCK_BYTES - position % BLOCK_BYTES
        if room < _RECORD_HEAD.size:
            yield bytes(room)
            position += room
            continue
        piece = record[begin : begin + room - _RECORD_HEAD.size]
        first, last = begin == 0, begin + len(piece) == len(record)
        kind = (_WHOLE if last else _FIRST) if first else (_LAST if last else _MIDDLE)
        checked = zlib.crc32(piece, zlib.crc32(bytes((kind,))))
        framed_piece = _RECORD_HEAD.pack(checked, len(piece), kind) + piece
        yield framed_piece
        position += len(framed_piece)
        begin += len(piece)
        if last:
            return


# -- messages of wandb_internal.proto, by field number


def _header() -> bytes:
    version = _text(1, f"stoker {__version__}") + _text(2, _OLDEST_READER)
    return _message(21, _message(1, version))


def _run(run: WandbRun, begun_s: float) -> bytes:
    config = b"".join(
        _message(1, _text(1, key) + _text(16, json.dumps(value))) for key, value in run.config.items()
    )
    seconds = int(begun_s)
    started = _number(1, seconds) + _number(2, int((begun_s - seconds) * 1e9))
    told = _text(1, run.id) + _text(3, PROJECT) + _message(4, config) + _text(8, run.name)
    return _message(17, told + _message(17, started))


def _over_steps() -> bytes:
    """Every figure is drawn over the run's steps."""
    return _message(12, _text(2, "*") + _text(4, STEP) + _message(6, _number(1, 1) + _number(3, 1)))


def _history(told: Mapping[str, float], row: int) -> bytes:
    items = (_message(1, _text(2, key) + _text(16, json.dumps(value))) for key, value in told.items())
    return _message(2, b"".join(items) + _message(2, _number(1, row)))


def _summary(newest: Mapping[str, float]) -> bytes:
    items = (_message(1, _text(2, key) + _text(16, json.dumps(value))) for key, value in newest.items())
    return _message(3, b"".join(items))


def _exit(code: int) -> bytes:
    return _message(18, _number(1, code))


def _number(field: int, value: int) -> bytes:
    """A field of an integer that is not negative."""
    return _varint(field << 3) + _varint(value)


def _text(field: int, value: str) -> bytes:
    return _message(field, value.encode())


def _message(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
