"""One rank's share of each global batch of records, for any step. See docs/design/feed.md, "Records"."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Generic, Protocol, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from stoker.feed.order import Order, Placement
from stoker.feed.ragged import RaggedBuffer, RaggedRows
from stoker.feed.record_batch import Column, RecordBatch, batch_tensors
from stoker.feed.source import ReadSettings
from stoker.store.ragged import Ragged
from stoker.store.record_schema import RecordSchema
from stoker.store.records import RecordBlock

T = TypeVar("T")

PLANNED_RECORDS: Final = 4096  # placed in one call: the permutation costs microseconds alone, 0.3 in a row
_SPARE_BUFFERS: Final = 8

_Window: TypeAlias = tuple[int, int, int]
_NO_WINDOW: Final[tuple[_Window, tuple[int, ...]]] = ((-1, -1, -1), ())


class RecordBlocks(Protocol):
    """A split as blocks of records: what the reader of batches needs of RecordSplitReader."""

    @property
    def schema(self) -> RecordSchema: ...

    def read_block(self, block: int, *, into: npt.NDArray[np.uint8] | None = None) -> RecordBlock: ...

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


class BlockCache:
    """The opened blocks of one rank: each as long as some window holds it. Dropped ones are wiped.

    The memory of dropped blocks is used again for the next, because fresh memory costs as much as opening.
    """

    def __init__(self, split: RecordBlocks) -> None:
        self._split = split
        self._opened: dict[int, OpenBlock] = {}
        self._holders: Counter[int] = Counter()
        self._spare: list[npt.NDArray[np.uint8]] = []
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
                    if len(self._spare) < _SPARE_BUFFERS:
                        self._spare.append(dropped.block.buffer)

    def block(self, number: int) -> OpenBlock:
        """A block that some window holds. Raises what opening it raises."""
        assert self._holders[number] > 0, f"block {number} is read outside every window"
        opened = self._opened.get(number)
        if opened is None:
            spare = self._spare.pop() if self._spare else None
            opened = OpenBlock(self._split.read_block(number, into=spare), self._split.schema)
            self._opened[number] = opened
            self.opens += 1
        return opened

    def wipe(self) -> None:
        """Overwrite and forget every block and every holder."""
        while self._opened:
            self._opened.popitem()[1].block.wipe()
        self._holders.clear()
        self._spare.clear()


@dataclass(frozen=True, slots=True)
class _Plan:
    """The records of some steps, step after step, and for each step the rows that enter another window."""

    steps: range
    placement: Placement
    blocks: list[int]
    offsets: list[int]
    entering: dict[int, list[int]]


class Ring(Generic[T]):
    """The memory of `size` batches, used in turn; without a size, each batch has fresh memory."""

    def __init__(self, make: Callable[[], T], size: int) -> None:
        self._make = make
        self._size = size
        self._kept: deque[T] = deque()

    def following(self) -> T:
        """Fresh memory, or that of the batch that was read `size` batches ago."""
        if len(self._kept) < max(1, self._size) or not self._size:
            self._kept.append(self._make())
        else:
            self._kept.rotate(-1)
        return self._kept[-1] if self._size else self._kept.pop()

    def all(self) -> Iterator[T]:
        """What is used in turn."""
        return iter(self._kept)


def batch_memory(shape: tuple[int, ...], dtype: np.dtype[Any], *, pinned: bool) -> npt.NDArray[Any]:
    """Zeros of this shape; page-locked for a CUDA device when `pinned`."""
    if not pinned:
        return np.zeros(shape, dtype=dtype)
    import torch

    found: npt.NDArray[Any] = torch.zeros(shape, dtype=getattr(torch, dtype.name), pin_memory=True).numpy()
    return found


class _Buffers:
    """The memory of one batch."""

    def __init__(self, schema: RecordSchema, rows: int, *, pinned: bool) -> None:
        self.numbers = batch_memory((rows,), np.dtype(np.int64), pinned=pinned)
        self.arrays: dict[str, npt.NDArray[Any]] = {}
        self.ragged: dict[str, RaggedBuffer] = {}
        for field in schema.fields:
            native = field.stored.newbyteorder("=")
            if field.ragged:
                self.ragged[field.name] = RaggedBuffer(native, rows, partial(batch_memory, pinned=pinned))
            else:
                self.arrays[field.name] = batch_memory((rows, *field.shape), native, pinned=pinned)

    def wipe(self) -> None:
        """Overwrite everything."""
        self.numbers.fill(0)
        for array in self.arrays.values():
            array.fill(0)
        for buffer in self.ragged.values():
            buffer.wipe()


class RecordBatchReader:
    """Reads positions [first, first + rows) of the global batch of any step, best in ascending steps.

    It holds the blocks of those positions' windows and no others. Used by one thread at a time. With
    `settings.buffers` the memory of a batch is used again after so many others; without, each has its own.
    """

    def __init__(
        self, split: RecordBlocks, order: Order, first: int, rows: int, settings: ReadSettings | None = None
    ) -> None:
        self._split = split
        self._schema = split.schema
        self._order = order
        self._rows = rows
        self._positions = np.arange(first, first + rows, dtype=np.int64)
        self._cache = BlockCache(split)
        self._held = [_NO_WINDOW] * rows
        self._plan: _Plan | None = None
        self._next_step = -1
        settings = settings or ReadSettings()
        pinned, schema = settings.pin_memory, self._schema
        self._buffers = Ring(lambda: _Buffers(schema, rows, pinned=pinned), settings.buffers)

    @property
    def chunks_opened(self) -> int:
        """Blocks opened since the beginning."""
        return self._cache.opens

    @property
    def chunks_held(self) -> int:
        """Blocks in memory now."""
        return len(self._cache)

    def read(self, step: int) -> RecordBatch:
        """The records of this rank's positions in step `step`. Raises what opening a block raises."""
        plan = self._plan
        if plan is None or step not in plan.steps:
            plan = self._plan = self._plan_from(step)
        begin = (step - plan.steps.start) * self._rows
        end = begin + self._rows
        follows = step == self._next_step
        self._next_step = -1  # should this step fail
        for entering in plan.entering.get(step, ()) if follows else range(self._rows):
            self._enter(entering, plan.placement, begin + entering)
        offsets = plan.offsets[begin:end]
        opened = [self._cache.block(block) for block in plan.blocks[begin:end]]
        into = self._buffers.following()
        block_samples = self._order.block_samples
        np.multiply(plan.placement.block[begin:end], block_samples, out=into.numbers)
        into.numbers += plan.placement.offset[begin:end]
        columns: dict[str, Column] = {}
        for field in self._schema.fields:
            name = field.name
            if field.ragged:
                rows = [(block.ragged[name], row) for block, row in zip(opened, offsets, strict=True)]
                columns[name] = into.ragged[name].fill(rows)
            else:
                array = columns[name] = into.arrays[name]
                for row, (block, offset) in enumerate(zip(opened, offsets, strict=True)):
                    array[row] = block.arrays[name][offset]
        self._next_step = step + 1
        return RecordBatch(into.numbers, columns)

    def wipe(self) -> None:
        """Overwrite every record that is not the caller's and forget every key held. Reading may go on.

        With `settings.buffers`, batches that were handed out are not the caller's: they are overwritten too.
        """
        self._cache.wipe()
        self._held = [_NO_WINDOW] * self._rows
        self._next_step = -1
        for buffers in self._buffers.all():
            buffers.wipe()
        self._split.wipe()

    def wipe_batch(self, batch: RecordBatch) -> None:
        """Overwrite a batch that nobody took."""
        batch.wipe()

    def as_tensors(self, batch: RecordBatch) -> dict[str, Any]:
        """The batch as torch tensors by field; see `batch_tensors`. Raises MissingExtra without torch."""
        return batch_tensors(batch)

    def _plan_from(self, first: int) -> _Plan:
        """The plan of `first` and some steps behind it: an epoch's at most."""
        epoch_steps = -(-self._order.samples // self._order.lanes)
        steps = range(first, first + max(1, min(PLANNED_RECORDS // self._rows, epoch_steps)))
        starts = np.arange(first, steps.stop, dtype=np.int64) * self._order.lanes
        placement = self._order.place((starts[:, None] + self._positions).reshape(-1))
        windows = np.stack((placement.epoch, placement.lane, placement.window)).reshape(3, -1, self._rows)
        # The first step's rows have nothing before them in the plan, so all of them are asked.
        entering = {first: list(range(self._rows))}
        changes = np.nonzero((windows[:, 1:] != windows[:, :-1]).any(axis=0))
        for step, row in zip(*(each.tolist() for each in changes), strict=True):
            entering.setdefault(first + 1 + step, []).append(row)
        return _Plan(steps, placement, placement.block.tolist(), placement.offset.tolist(), entering)

    def _enter(self, row: int, placement: Placement, sample: int) -> None:
        """Move a row to the blocks of the window that its record lies in."""
        entered = (
            int(placement.epoch[sample]),
            int(placement.lane[sample]),
            int(placement.window[sample]),
        )
        left, old_blocks = self._held[row]
        if entered != left:
            blocks = self._order.blocks_of_window(*entered)
            self._cache.exchange(old_blocks, blocks)
            self._held[row] = entered, blocks
