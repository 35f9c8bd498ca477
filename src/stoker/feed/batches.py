"""One rank's share of each global batch, as an array, for any step. See docs/design/feed.md."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from stoker.feed.chunk_cache import ChunkCache
from stoker.feed.order import Order, Placement
from stoker.feed.source import SampleSplit

Batch: TypeAlias = npt.NDArray[np.int64]
"""Tokens, [rows, sample_tokens]."""

PLANNED_SAMPLES: Final = 4096  # placed in one call: the permutation costs microseconds alone, 0.3 in a row

_NO_WINDOW: Final[tuple[tuple[int, int, int], tuple[int, ...]]] = ((-1, -1, -1), ())


@dataclass(frozen=True, slots=True)
class _Plan:
    """The samples of some steps, step after step, and for each step the rows that enter another window."""

    steps: range
    placement: Placement
    blocks: list[int]
    offsets: list[int]
    entering: dict[int, list[int]]


class BatchReader:
    """Reads positions [first, first + rows) of the global batch of any step, best in ascending steps.

    It holds the chunks of those positions' windows and no others. Used by one thread at a time.
    """

    def __init__(self, split: SampleSplit, order: Order, first: int, rows: int) -> None:
        self._split = split
        self._order = order
        self._rows = rows
        self._positions = np.arange(first, first + rows, dtype=np.int64)
        self._cache = ChunkCache(split)
        self._held = [_NO_WINDOW] * rows
        self._plan: _Plan | None = None
        self._next_step = -1

    @property
    def chunks_opened(self) -> int:
        """Chunks opened since the beginning."""
        return self._cache.opens

    @property
    def chunks_held(self) -> int:
        """Chunks in memory now."""
        return len(self._cache)

    def read(self, step: int) -> Batch:
        """The tokens of this rank's positions in step `step`, in a fresh array."""
        plan = self._plan
        if plan is None or step not in plan.steps:
            plan = self._plan = self._plan_from(step)
        begin = (step - plan.steps.start) * self._rows
        end = begin + self._rows
        follows = step == self._next_step
        self._next_step = -1  # should this step fail
        for entering in plan.entering.get(step, ()) if follows else range(self._rows):
            self._enter(entering, plan.placement, begin + entering)
        batch = np.empty((self._rows, self._split.sample_tokens), dtype=np.int64)
        rows_of = self._cache.rows
        places = zip(plan.blocks[begin:end], plan.offsets[begin:end], strict=True)
        for row, (block, offset) in enumerate(places):
            batch[row] = rows_of(block)[offset]
        self._next_step = step + 1
        return batch

    def wipe(self) -> None:
        """Overwrite every token and forget every key held. Reading may go on afterwards, from any step."""
        self._cache.wipe()
        self._held = [_NO_WINDOW] * self._rows
        self._next_step = -1
        self._split.wipe()

    def _plan_from(self, first: int) -> _Plan:
        """The plan of `first` and some steps behind it: an epoch's at most."""
        epoch_steps = -(-self._order.samples // self._order.lanes)
        steps = range(first, first + max(1, min(PLANNED_SAMPLES // self._rows, epoch_steps)))
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
        """Move a row to the chunks of the window that its sample lies in."""
        epoch, lane = int(placement.epoch[sample]), int(placement.lane[sample])
        entered = (epoch, lane, int(placement.window[sample]))
        left, old_blocks = self._held[row]
        if entered != left:
            blocks = self._order.blocks_of_window(*entered)
            self._cache.exchange(old_blocks, blocks)
            self._held[row] = entered, blocks
