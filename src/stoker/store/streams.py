"""Objects written and read bit by bit, while something else works. See docs/design/store.md.

A disk is busy from the first block on, not only when all is written; and whoever seals or opens chunks does
so while a thread beside it waits for the disk.
"""

from __future__ import annotations

import mmap
import queue
import threading
from types import TracebackType
from typing import Final, Protocol, runtime_checkable

from stoker.store.ranges import BytesLike, RangeSource, check_range

BLOCK_BYTES: Final = 8 << 20
_WRITE_BLOCKS: Final = 4
_READ_BLOCKS: Final = 4


class ObjectSink(Protocol):
    """An object that is being written; at the end of a block without an error it is there, durable."""

    def write(self, data: BytesLike) -> int:
        """Append. Raises DiskFull and what the back end raises."""
        ...

    def __enter__(self) -> ObjectSink: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


@runtime_checkable
class ReadsInto(RangeSource, Protocol):
    """A source that can fill memory of the caller's."""

    def read_into(self, start: int, target: memoryview) -> None:
        """Fill `target` from offset `start`. Raises OutOfRange."""
        ...


class WriteBehind:
    """Hands what is written to `sink` by a thread of its own, in blocks; the caller's memory is free at once.

    An error of the sink is raised by the next write or at the end of the block; nothing is written after it.
    """

    def __init__(self, sink: ObjectSink, *, block_bytes: int = BLOCK_BYTES) -> None:
        self._sink = sink
        self._empty: queue.SimpleQueue[memoryview] = queue.SimpleQueue()
        self._full: queue.SimpleQueue[memoryview | None] = queue.SimpleQueue()
        for _ in range(_WRITE_BLOCKS):
            self._empty.put(_block(block_bytes))
        self._block = self._empty.get()
        self._filled = 0
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._write_on, name="write-behind", daemon=True)

    def __enter__(self) -> WriteBehind:
        self._thread.start()
        return self

    def write(self, data: BytesLike) -> int:
        """Take more. Raises what the sink raised for an earlier block."""
        view = memoryview(data).cast("B")
        done = 0
        while done < len(view):
            taken = min(len(self._block) - self._filled, len(view) - done)
            self._block[self._filled : self._filled + taken] = view[done : done + taken]
            self._filled += taken
            done += taken
            if self._filled == len(self._block):
                self._hand_over()
        return done

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None and self._filled:
            self._full.put(self._block[: self._filled])
        self._full.put(None)
        self._thread.join()
        if error is None and self._error is not None:
            raise self._error

    def _hand_over(self) -> None:
        self._full.put(self._block)
        self._block, self._filled = self._empty.get(), 0
        if self._error is not None:
            raise self._error

    def _write_on(self) -> None:
        while (block := self._full.get()) is not None:
            if self._error is None:
                try:
                    self._sink.write(block)
                except BaseException as error:  # noqa: BLE001 - raised again where the caller is
                    self._error = error
            self._empty.put(block)


class ReadAhead:
    """A source that is read from its beginning to its end: the blocks to come are fetched by a thread.

    For one reader. A read that does not go on where the last one ended is done at once, without the thread.
    """

    def __init__(self, source: RangeSource) -> None:
        self._source = source
        self._asked: queue.SimpleQueue[tuple[int, int, memoryview] | None] = queue.SimpleQueue()
        self._come: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        self._blocks: list[memoryview] = []
        self._coming: list[tuple[int, int, memoryview]] = []
        self._next_block = 0
        self._thread = threading.Thread(target=self._read_on, name="read-ahead", daemon=True)

    def __enter__(self) -> ReadAhead:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._asked.put(None)
        self._thread.join()

    def size(self) -> int:
        return self._source.size()

    def read(self, start: int, length: int) -> BytesLike:
        """Exactly these bytes, good until the next read; the ones behind them are asked for."""
        size = self.size()
        check_range("the object", start, length, size)
        if not self._coming or self._coming[0][:2] != (start, length):
            self._forget()
            self._ask(start, length)
        while len(self._coming) < _READ_BLOCKS:
            begin = self._coming[-1][0] + self._coming[-1][1]
            if begin >= size:
                break
            self._ask(begin, min(length, size - begin))
        _, _, block = self._coming.pop(0)
        error = self._come.get()
        if error is not None:
            raise error
        return block

    def _ask(self, start: int, length: int) -> None:
        # One block more than are on their way: the reader still uses the one that it was given last.
        skip = start % mmap.PAGESIZE  # bytes land at the same place in a page as they have in the file
        if len(self._blocks) <= self._next_block:
            self._blocks.append(_block(skip + length))
        elif len(self._blocks[self._next_block]) < skip + length:
            self._blocks[self._next_block] = _block(skip + length)
        block = self._blocks[self._next_block][skip : skip + length]
        self._next_block = (self._next_block + 1) % (_READ_BLOCKS + 1)
        self._coming.append((start, length, block))
        self._asked.put((start, length, block))

    def _forget(self) -> None:
        for _ in self._coming:
            self._come.get()
        self._coming.clear()

    def _read_on(self) -> None:
        while (asked := self._asked.get()) is not None:
            start, length, block = asked
            try:
                if isinstance(self._source, ReadsInto):
                    self._source.read_into(start, block)
                else:
                    block[:] = self._source.read(start, length)
            except BaseException as error:  # noqa: BLE001 - raised again where the reader is
                self._come.put(error)
            else:
                self._come.put(None)


def _block(length: int) -> memoryview:
    """Memory from the start of a page: the kernel copies there at twice the speed."""
    return memoryview(mmap.mmap(-1, max(length, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
