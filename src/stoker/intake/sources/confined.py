"""A parser in a process of its own that may be killed, fed and read by the import over a socket pair.

Parquet and Arrow are parsed by a large library in C++ from bytes that are not trusted. The worker has
bounded memory and time, writes no file, and asks this process for the ranges of the one file it parses; what
comes back is rows in a framing that is checked. Its death is a fault of that file, not of the import.

Frames from the worker: `R` start, length (both 8 bytes, big-endian): a range is wanted. `V` rows, one after
the other: row (8 bytes), number of cells (1), and the cells: role (1), length (4), bytes. `W` row and JSON
`[reason, text]`: a row that cannot be taken. `S` text to say. `F` JSON `[reason, text]`: it cannot go on.
`E`: the end. To the worker go ranges, bare.
See docs/design/intake.md, "Workers".
"""

from __future__ import annotations

import faulthandler
import json
import signal
import struct
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import ForkProcess
from typing import Final, TypeAlias

from stoker.intake.closed import close_off
from stoker.intake.left_out import Reason
from stoker.intake.sources.rows import Cell, Role
from stoker.intake.sources.stream import StreamFault
from stoker.intake.workers import FORK, confine, ctrl_c_waits
from stoker.store.ranges import RangeSource

_RANGE: Final = struct.Struct(">QQ")
_ROW: Final = struct.Struct(">Q")
_ROW_HEAD: Final = struct.Struct(">QB")
_CELL: Final = struct.Struct(">BI")
_ROLES: Final = tuple(Role)
_FRAME_BYTES: Final = 1 << 30
_ROWS_BYTES: Final = 1 << 20
"""Rows are sent together until they have so many bytes."""

RANGE_BYTES: Final = 16 * 1024 * 1024
"""A longer range is asked for in pieces of this."""


@dataclass(frozen=True, slots=True)
class WorkerRow:
    """One row as the worker sent it."""

    row: int
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class WorkerFault:
    """A row that cannot be taken, and why."""

    row: int
    reason: Reason
    text: str


@dataclass(frozen=True, slots=True)
class WorkerWord:
    """Something for the person who imports."""

    text: str


FromWorker: TypeAlias = WorkerRow | WorkerFault | WorkerWord


class CannotGoOn(Exception):
    """Raised by a parser: the rest of the file is lost, for this reason."""

    def __init__(self, reason: Reason, text: str) -> None:
        super().__init__(text)
        self.reason = reason
        self.text = text


class WorkerSide:
    """What a parser in the worker has: the file, and where rows go."""

    def __init__(self, connection: Connection, size_bytes: int) -> None:
        self._connection = connection
        self._rows: list[bytes] = []
        self._rows_bytes = 0
        self.size_bytes = size_bytes

    def read(self, start: int, length: int) -> bytes:
        """These bytes of the file, fewer at its end."""
        end = min(start + length, self.size_bytes)
        pieces = []
        while 0 <= start < end:
            self._connection.send_bytes(b"R" + _RANGE.pack(start, min(RANGE_BYTES, end - start)))
            pieces.append(self._connection.recv_bytes(RANGE_BYTES))
            start += len(pieces[-1])
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def row(self, row: int, cells: list[Cell]) -> None:
        """One row."""
        self._rows.append(_ROW_HEAD.pack(row, len(cells)))
        for cell in cells:
            self._rows += (_CELL.pack(_ROLES.index(cell.role), len(cell.data)), cell.data)
            self._rows_bytes += len(cell.data) + _CELL.size
        if self._rows_bytes >= _ROWS_BYTES:
            self._flush()

    def fault(self, row: int, reason: Reason, text: str) -> None:
        """A row that cannot be taken."""
        self._flush()
        self._connection.send_bytes(b"W" + _ROW.pack(row) + json.dumps([reason, text]).encode())

    def say(self, text: str) -> None:
        """A word for the person who imports."""
        self._flush()
        self._connection.send_bytes(b"S" + text.encode())

    def end(self, fault: CannotGoOn | None) -> None:
        """Nothing follows."""
        self._flush()
        frame = b"E" if fault is None else b"F" + json.dumps([fault.reason, fault.text]).encode()
        self._connection.send_bytes(frame)

    def _flush(self) -> None:
        if self._rows:
            self._connection.send_bytes(b"".join((b"V", *self._rows)))
            self._rows, self._rows_bytes = [], 0


Parser: TypeAlias = Callable[[WorkerSide], None]


def parse_confined(
    parser: Parser, source: RangeSource, *, memory_bytes: int, silent_s: float
) -> Generator[FromWorker]:
    """What `parser` finds in the file. Raises StreamFault when it cannot go on, dies, or stays silent.

    Close the generator: the worker lives until then.
    """
    ours, theirs = FORK.Pipe()
    with ctrl_c_waits():
        process = FORK.Process(
            target=_serve, args=(theirs, ours, parser, source.size(), memory_bytes), daemon=True
        )
        process.start()
    theirs.close()
    try:
        yield from _converse(ours, process, source, silent_s)
    finally:
        ours.close()
        process.kill()
        process.join()
        process.close()


def _converse(
    ours: Connection, process: ForkProcess, source: RangeSource, silent_s: float
) -> Iterator[FromWorker]:
    while True:
        try:
            if not ours.poll(silent_s):
                raise StreamFault(Reason.WORKER_LOST, f"its parser was silent for {silent_s} s and was ended")
            frame = memoryview(ours.recv_bytes(_FRAME_BYTES))
        except (EOFError, OSError) as error:
            process.join(5.0)
            raise StreamFault(Reason.WORKER_LOST, f"its parser {_how(process.exitcode)}") from error
        kind, body = bytes(frame[:1]), frame[1:]
        try:
            if kind == b"R":
                start, length = _RANGE.unpack(body)
                if not 0 <= start < start + length <= source.size() or length > RANGE_BYTES:
                    raise ValueError("a range outside the file")
                data = source.read(start, length)
            elif kind == b"V":
                yield from _rows(body)
                continue
            elif kind == b"W":
                reason, text = json.loads(bytes(body[_ROW.size :]))
                yield WorkerFault(_ROW.unpack_from(body)[0], Reason(reason), str(text))
                continue
            elif kind == b"S":
                yield WorkerWord(bytes(body).decode())
                continue
            elif kind == b"E":
                return
            elif kind == b"F":
                reason, text = json.loads(bytes(body))
                raise StreamFault(Reason(reason), str(text))
            else:
                raise ValueError("a frame of no kind")
        except (ValueError, struct.error, IndexError) as error:
            raise StreamFault(Reason.WORKER_LOST, "its parser answered nonsense") from error
        try:
            ours.send_bytes(data)
        except OSError as error:
            process.join(5.0)
            raise StreamFault(Reason.WORKER_LOST, f"its parser {_how(process.exitcode)}") from error


def _rows(body: memoryview) -> Iterator[WorkerRow]:
    at = 0
    while at < len(body):
        row, count = _ROW_HEAD.unpack_from(body, at)
        at += _ROW_HEAD.size
        cells = []
        for _ in range(count):
            role, length = _CELL.unpack_from(body, at)
            at += _CELL.size
            if at + length > len(body):
                raise ValueError("a cell that is cut off")
            cells.append(Cell(_ROLES[role], bytes(body[at : at + length])))
            at += length
        yield WorkerRow(row, tuple(cells))


def _how(code: int | None) -> str:
    if code is None:
        return "went away"
    return f"was ended by signal {-code}" if code < 0 else f"exited with code {code}"


def _serve(
    connection: Connection, not_ours: Connection, parser: Parser, size_bytes: int, memory_bytes: int
) -> None:
    """The worker's whole life."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    faulthandler.disable()
    not_ours.close()
    side = WorkerSide(connection, size_bytes)
    try:
        fault: CannotGoOn | None = None
        try:
            close_off()
            confine(memory_bytes)
            parser(side)
        except CannotGoOn as error:
            fault = error
        except MemoryError:
            fault = CannotGoOn(Reason.TOO_MUCH, f"parsing it takes more than {memory_bytes} bytes of memory")
        except (EOFError, BrokenPipeError, ConnectionResetError):
            raise
        except Exception as error:  # noqa: BLE001 - the top of a process; its text may be personal
            fault = CannotGoOn(Reason.MALFORMED, f"it cannot be parsed ({type(error).__name__})")
        side.end(fault)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return
