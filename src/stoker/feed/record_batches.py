"""One rank's share of each global batch of records, for any step. See docs/design/feed.md, "Records"."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from stoker.feed.order import Order
from stoker.feed.ragged import RaggedBuffer
from stoker.feed.record_batch import Column, RecordBatch, batch_tensors
from stoker.feed.record_blocks import BlockCache, RecordBlocks
from stoker.feed.record_plan import RecordPlan, RecordPlanner
from stoker.feed.source import ReadSettings
from stoker.feed.windows import WindowLayout
from stoker.store.record_schema import RecordSchema

T = TypeVar("T")


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
        settings = settings or ReadSettings()
        self._split = split
        self._schema = split.schema
        self._rows = rows
        self._planner = RecordPlanner(order, first, rows)
        self._cache = BlockCache(split, settings.read_threads)
        self._held: list[WindowLayout | None] = [None] * rows
        self._plan: RecordPlan | None = None
        self._next_step = -1
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
        if plan is None or step not in plan.steps or step != self._next_step:
            plan = self._plan = self._planner.plan(step)  # and with its first step all rows enter windows
            self._cache.expect(plan.blocks)
        self._next_step = -1  # should this step fail
        for row, layout in plan.entering.get(step, ()):
            self._enter(row, layout)
        begin = (step - plan.steps.start) * self._rows
        end = begin + self._rows
        offsets = plan.offsets[begin:end]
        opened = [self._cache.block(block) for block in plan.blocks[begin:end]]
        into = self._buffers.following()
        into.numbers[:] = plan.numbers[begin:end]
        columns: dict[str, Column] = {}
        for field in self._schema.fields:
            name = field.name
            if field.ragged:
                columns[name] = into.ragged[name].fill([each.ragged[name] for each in opened], offsets)
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
        self._held = [None] * self._rows
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

    def _enter(self, row: int, layout: WindowLayout) -> None:
        """Move a row to the blocks of a window."""
        held = self._held[row]
        if held is None or held.name != layout.name:
            self._cache.exchange(held.blocks if held is not None else (), layout.blocks)
            self._held[row] = layout
