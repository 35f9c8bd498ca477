"""Rows of a batch filled with samples, out of the chunks of the windows they lie in: docs/design/feed.md."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from stoker.feed.chunk_cache import ChunkCache
from stoker.feed.order import Order, Placement
from stoker.feed.source import SampleSplit

Integers: TypeAlias = npt.NDArray[np.int64]

Batch: TypeAlias = npt.NDArray[np.integer[Any]]
"""Tokens, [rows, sample_tokens]: int64, or the type they are stored in."""

_NO_WINDOW: Final[tuple[tuple[int, int, int], tuple[int, ...]]] = ((-1, -1, -1), ())


@dataclass(frozen=True, slots=True)
class RowPlan:
    """Where some samples lie, in the order in which they will be read."""

    placement: Placement
    positions: list[int]
    entering: list[int]
    """The samples whose position enters another window with them, ascending."""
    blocks: list[int]
    offsets: list[int]

    def __len__(self) -> int:
        return len(self.blocks)


class RowReader:
    """Holds the chunks of the windows that some positions draw from, and copies samples out of them.

    A position stays in its window from one call to the next. For one thread at a time.
    """

    def __init__(self, split: SampleSplit, order: Order, positions: int) -> None:
        self._split = split
        self._order = order
        self._cache = ChunkCache(split)
        self._held = [_NO_WINDOW] * positions
        self._next: tuple[RowPlan | None, int] = (None, -1)  # where the next call would follow

    @property
    def chunks_opened(self) -> int:
        """Chunks opened since the beginning."""
        return self._cache.opens

    @property
    def chunks_held(self) -> int:
        """Chunks in memory now."""
        return len(self._cache)

    def plan(self, indices: Integers, positions: Integers) -> RowPlan:
        """Where the samples at global indices `indices` lie; sample j is for position `positions[j]`.

        Samples of one position must be in the order in which they will be read. A thousand samples in one
        call cost 0.3 microseconds each, a few alone a hundred.
        """
        placement = self._order.place(indices)
        by_position = np.argsort(positions, kind="stable")
        names = np.stack((positions, placement.epoch, placement.lane, placement.window))[:, by_position]
        changes = np.ones(len(by_position), dtype=np.bool_)
        changes[1:] = (names[:, 1:] != names[:, :-1]).any(axis=0)
        entering = np.sort(by_position[changes])
        return RowPlan(
            placement,
            positions.tolist(),
            entering.tolist(),
            placement.block.tolist(),
            placement.offset.tolist(),
        )

    def fill(self, batch: Batch, plan: RowPlan, samples: range, into: Sequence[int] | None = None) -> None:
        """`batch[into[j]]` becomes sample `samples[j]` of the plan; without `into`, `batch[j]`.

        Best called for one range after another of one plan, and then of the next; any other way is as
        right, and slower. Raises what opening a chunk raises.
        """
        follows = samples.start == self._next[1] and plan is self._next[0]
        self._next = (None, -1)  # should this fail
        begin = bisect_left(plan.entering, samples.start)
        entering = set(plan.entering[begin : bisect_left(plan.entering, samples.stop)])
        if not follows:
            first = {plan.positions[sample]: sample for sample in reversed(samples)}
            entering.update(first.values())
        rows_of = self._cache.rows
        for row, sample in zip(range(len(samples)) if into is None else into, samples, strict=True):
            if sample in entering:
                self._enter(plan, sample)
            batch[row] = rows_of(plan.blocks[sample])[plan.offsets[sample]]
        self._next = (plan, samples.stop)

    def wipe(self) -> None:
        """Overwrite every token and forget every key held. Reading may go on afterwards."""
        self._cache.wipe()
        self._held = [_NO_WINDOW] * len(self._held)
        self._next = (None, -1)
        self._split.wipe()

    def _enter(self, plan: RowPlan, sample: int) -> None:
        """Move a position to the chunks of the window that its sample lies in."""
        placement, position = plan.placement, plan.positions[sample]
        epoch, lane = int(placement.epoch[sample]), int(placement.lane[sample])
        entered = (epoch, lane, int(placement.window[sample]))
        left, old_blocks = self._held[position]
        if entered != left:
            blocks = self._order.blocks_of_window(*entered)
            self._cache.exchange(old_blocks, blocks)
            self._held[position] = entered, blocks
