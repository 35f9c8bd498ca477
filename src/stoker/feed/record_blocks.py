"""The opened blocks of one rank, and the memory that they are opened into: docs/design/feed.md, "Records"."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
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
    """

    def __init__(self) -> None:
        self._slot_bytes = 0
        self._free: list[Bytes] = []

    def take(self, wanted_bytes: int) -> Bytes:
        """At least so many bytes."""
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
        if len(slot) == self._slot_bytes:
            self._free.append(slot)


class BlockCache:
    """Blocks in memory, each as long as some window holds it; opened when asked for, wiped when dropped."""

    def __init__(self, split: RecordBlocks) -> None:
        self._split = split
        self._opened: dict[int, OpenBlock] = {}
        self._holders: Counter[int] = Counter()
        self._memory = BlockMemory()
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
                dropped = self._opened.pop(number, None)
                if dropped is not None:
                    dropped.block.wipe()
                    self._memory.give_back(dropped.block.buffer)

    def block(self, number: int) -> OpenBlock:
        """A block that some window holds. Raises what opening it raises."""
        opened = self._opened.get(number)
        if opened is None:
            assert self._holders[number] > 0, f"block {number} is read outside every window"
            opened = self._opened[number] = self._open(number)
            self.opens += 1
        return opened

    def wipe(self) -> None:
        """Overwrite and forget every block and every holder, and give the memory back."""
        while self._opened:
            self._opened.popitem()[1].block.wipe()
        self._holders.clear()
        self._memory = BlockMemory()

    def _open(self, number: int) -> OpenBlock:
        taken: list[Bytes] = []

        def memory(wanted_bytes: int) -> Bytes:
            if not taken or len(taken[-1]) < wanted_bytes:  # a bad copy may be read again
                taken.append(self._memory.take(wanted_bytes))
            return taken[-1]

        try:
            return OpenBlock(self._split.read_block(number, memory=memory), self._split.schema)
        except BaseException:
            for slot in taken:
                slot.fill(0)
                self._memory.give_back(slot)
            raise
