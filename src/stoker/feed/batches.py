"""One rank's share of each global batch, as an array, for any step. See docs/design/feed.md."""

from __future__ import annotations

from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from stoker.feed.chunk_cache import ChunkCache
from stoker.feed.order import Order, Placement
from stoker.feed.source import SampleSplit

Batch: TypeAlias = npt.NDArray[np.int64]
"""Tokens, [rows, sample_tokens]."""

PLANNED_SAMPLES: Final = 4096  # placed in one call: the permutation costs microseconds alone, 0.3 in a row


class BatchReader:
    """Reads positions [first, first + rows) of the global batch of any step, best in ascending steps.

    It holds the chunks of those positions' windows and no others. Used by one thread at a time.
    """

    def __init__(self, split: SampleSplit, order: Order, first: int, rows: int) -> None:
        self._split = split
        self._order = order
        self._positions = np.arange(first, first + rows, dtype=np.int64)
        self._cache = ChunkCache(split)
        self._held: list[tuple[tuple[int, int, int] | None, tuple[int, ...]]] = [(None, ())] * rows
        self._planned_steps = range(0)
        self._plan: Placement | None = None

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
        plan, begin = self._placement(step)
        end = begin + self._positions.size
        self._hold(plan, begin, end)
        batch = np.empty((self._positions.size, self._split.sample_tokens), dtype=np.int64)
        places = zip(plan.block[begin:end].tolist(), plan.offset[begin:end].tolist(), strict=True)
        for row, (block, offset) in enumerate(places):
            batch[row] = self._cache.rows(block)[offset]
        return batch

    def wipe(self) -> None:
        """Overwrite every token and forget every key held. Reading may go on afterwards, from any step."""
        self._cache.wipe()
        self._held = [(None, ())] * self._positions.size
        self._split.wipe()

    def _placement(self, step: int) -> tuple[Placement, int]:
        """A plan that holds `step`, and where the step begins in it. Plans reach several steps on."""
        rows = self._positions.size
        if self._plan is None or step not in self._planned_steps:
            epoch_steps = -(-self._order.samples // self._order.lanes)
            ahead = max(1, min(PLANNED_SAMPLES // rows, epoch_steps))
            self._planned_steps = range(step, step + ahead)
            starts = np.arange(step, self._planned_steps.stop, dtype=np.int64) * self._order.lanes
            self._plan = self._order.place((starts[:, None] + self._positions).reshape(-1))
        return self._plan, (step - self._planned_steps.start) * rows

    def _hold(self, plan: Placement, begin: int, end: int) -> None:
        """Move each position that enters another window to that window's chunks."""
        windows = zip(
            plan.epoch[begin:end].tolist(),
            plan.lane[begin:end].tolist(),
            plan.window[begin:end].tolist(),
            strict=True,
        )
        for row, window in enumerate(windows):
            old_window, old_blocks = self._held[row]
            if window != old_window:
                blocks = self._order.blocks_of_window(*window)
                self._cache.exchange(old_blocks, blocks)
                self._held[row] = (window, blocks)
