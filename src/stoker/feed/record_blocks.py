"""The opened blocks of one rank, and the memory that they are opened into: docs/design/feed.md, "Records"."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from stoker.feed.arena import private_memory
from stoker.feed.ragged import RaggedRows
from stoker.store.ragged import Ragged
from stoker.store.record_schema import RecordSchema
from stoker.store.records import RecordBlock

_PIECE_BYTES: Final = 1 << 25
_SLOT_STEP: Final = 1 << 16
_AHEAD: Final = 3
"""For each thread: how many blocks are asked of it before a record needs them."""

Bytes = npt.NDArray[np.uint8]


class RecordBlocks(Protocol):
    """A split as blocks of records: what the reader of batches needs of RecordSplitReader."""

    @property
    def schema(self) -> RecordSchema: ...

    def read_block(self, block: int, *, memory: Callable[[int], Bytes] | None = None) -> RecordBlock: ...

    def wipe(self) -> None: ...


class OpenBlock:
    """An opened block with its columns ready for rows to be copied out of them."""

    __slots__ = ("arrays", "block", "ragged")

    def __init__(self, block: RecordBlock, schema: RecordSchema) -> None:
        self.block = block
        self.arrays: dict[str, npt.NDArray[Any]] = {}
        self.ragged: dict[str, RaggedRows] = {}
        for field in schema.fields:
            column = block.column(field.name)
            if isinstance(column, Ragged):
                self.ragged[field.name] = RaggedRows(column)
            else:
                self.arrays[field.name] = column


class BlockMemory:
    """Slots for opened blocks, cut from large pieces of private memory and used again and again.

    Memory that is touched for the first time costs more than decrypting into it: in large pages a quarter.
    A slot is an eighth larger than the first block; what does not fit into one gets a piece of its own.
    For any number of threads.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._slot_bytes = 0
        self._free: list[Bytes] = []

    def take(self, wanted_bytes: int) -> Bytes:
        """At least so many bytes."""
        with self._lock:
            if not self._slot_bytes:
                self._slot_bytes = -(-(wanted_bytes + wanted_bytes // 8) // _SLOT_STEP) * _SLOT_STEP
            if wanted_bytes > self._slot_bytes:
                return np.frombuffer(private_memory(wanted_bytes), dtype=np.uint8)
            if not self._free:
                slots = max(1, _PIECE_BYTES // self._slot_bytes)
                piece = np.frombuffer(private_memory(slots * self._slot_bytes), dtype=np.uint8)
                self._free = list(piece.reshape(slots, self._slot_bytes)[::-1])
            return self._free.pop()

    def give_back(self, slot: Bytes) -> None:
        """What `take` gave, and nobody uses any more."""
        with self._lock:
            if len(slot) == self._slot_bytes:
                self._free.append(slot)


class BlockCache:
    """Blocks in memory, each as long as some window holds it; wiped when dropped.

    With `threads` these open blocks that will be needed next; without, or when they have not come to it, a
    block is opened when it is asked for. Used by one thread at a time.
    """

    def __init__(self, split: RecordBlocks, threads: int = 0) -> None:
        self._split = split
        self._threads = threads
        self._pool: ThreadPoolExecutor | None = None
        self._opened: dict[int, OpenBlock] = {}
        self._ahead: dict[int, Future[OpenBlock]] = {}
        self._upcoming: Sequence[int] = ()
        self._looked = 0  # so many of these; blocks that are opened ahead are needed later than any that was
        self._holders: Counter[int] = Counter()
        self._memory = BlockMemory()
        self._counting = threading.Lock()
        self.opens = 0
        """Blocks opened since the beginning: the numerator of read amplification."""

    def __len__(self) -> int:
        return len(self._opened)

    def exchange(self, old: Sequence[int], new: Sequence[int]) -> None:
        """A window that held `old` blocks now holds `new`. Blocks that no window holds any more are wiped."""
        self._holders.update(new)
        for number in old:
            self._holders[number] -= 1
            if not self._holders[number]:
                del self._holders[number]
                self._drop(self._opened.pop(number, None))

    def expect(self, upcoming: Sequence[int]) -> None:
        """The blocks of the records to come, one for each record; what was expected before is forgotten."""
        self._forget_ahead()
        self._upcoming = upcoming

    def block(self, number: int) -> OpenBlock:
        """A block that some window holds. Raises what opening it raises."""
        opened = self._opened.get(number)
        if opened is None:
            assert self._holders[number] > 0, f"block {number} is read outside every window"
            opened = self._opened[number] = self._get(number)
        return opened

    def wipe(self) -> None:
        """End the threads; overwrite and forget every block and every holder, and give the memory back."""
        self._forget_ahead()
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown()
        while self._opened:
            self._opened.popitem()[1].block.wipe()
        self._holders.clear()
        self._memory = BlockMemory()

    def _get(self, number: int) -> OpenBlock:
        """The block from whoever opens it ahead, unless nobody has begun to."""
        self._look_ahead()
        ahead = self._ahead.pop(number, None)
        if ahead is not None and not ahead.cancel():
            return ahead.result()
        return self._open(number)

    def _look_ahead(self) -> None:
        """Have the next blocks opened: a few at a time, in the order in which they will be needed."""
        while len(self._ahead) < _AHEAD * self._threads and self._looked < len(self._upcoming):
            number = self._upcoming[self._looked]
            self._looked += 1
            if number not in self._opened and number not in self._ahead:
                if self._pool is None:
                    self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="stoker-feed-read")
                self._ahead[number] = self._pool.submit(self._open, number)

    def _forget_ahead(self) -> None:
        self._upcoming, self._looked = (), 0
        while self._ahead:
            future = self._ahead.popitem()[1]
            if not future.cancel() and future.exception() is None:
                self._drop(future.result())

    def _drop(self, opened: OpenBlock | None) -> None:
        if opened is not None:
            opened.block.wipe()
            self._memory.give_back(opened.block.buffer)

    def _open(self, number: int) -> OpenBlock:
        """In any thread."""
        memory = self._memory
        taken: list[Bytes] = []

        def take(wanted_bytes: int) -> Bytes:
            if not taken or len(taken[-1]) < wanted_bytes:  # a bad copy may be read again
                taken.append(memory.take(wanted_bytes))
            return taken[-1]

        try:
            opened = OpenBlock(self._split.read_block(number, memory=take), self._split.schema)
        except BaseException:
            for slot in taken:
                slot.fill(0)
                memory.give_back(slot)
            raise
        with self._counting:
            self.opens += 1
        return opened
