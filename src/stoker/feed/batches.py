"""One rank's share of each global batch, as an array, for any step. See docs/design/feed.md."""

from __future__ import annotations

from collections import deque
from typing import Final

import numpy as np

from stoker.feed.order import Order
from stoker.feed.rows import Batch, RowPlan, RowReader
from stoker.feed.source import ReadSettings, SampleSplit
from stoker.feed.token_batches import TokenBatches, tokens_as_tensor

__all__ = ["PLANNED_SAMPLES", "BatchReader", "tokens_as_tensor"]

PLANNED_SAMPLES: Final = 16_384
"""Planned in one call: a plan costs some hundred microseconds, and a tenth of one for each sample."""


class BatchReader(TokenBatches):
    """Reads positions [first, first + rows) of the global batch of any step, best in ascending steps.

    It holds the chunks of those positions' windows and, with `settings.read_threads`, some that they need
    next. Used by one thread at a time.
    """

    def __init__(
        self, split: SampleSplit, order: Order, first: int, rows: int, settings: ReadSettings | None = None
    ) -> None:
        super().__init__(rows, split.sample_tokens, split.dtype, settings)
        self._order = order
        self._positions = np.arange(first, first + rows, dtype=np.int64)
        self._reader = RowReader(split, order, rows, self._settings.read_threads)
        self._plans: deque[tuple[range, RowPlan]] = deque()  # the steps that are read, and those after them

    @property
    def chunks_opened(self) -> int:
        """Chunks opened since the beginning."""
        return self._reader.chunks_opened

    @property
    def chunks_held(self) -> int:
        """Chunks in memory now."""
        return self._reader.chunks_held

    def _fill(self, rows: Batch, steps: range) -> int:
        planned, plan = self._plan_of(steps.start)
        begin = steps.start - planned.start
        end = min(steps.stop, planned.stop) - planned.start
        samples = range(begin * self._rows, end * self._rows)
        return self._reader.fill_some(rows, plan, samples, self._rows) // self._rows

    def _wipe_rows(self) -> None:
        self._plans.clear()
        self._reader.wipe()

    def _plan_of(self, step: int) -> tuple[range, RowPlan]:
        """The plan that has `step`. The next one is made when this one is half read."""
        plans = self._plans
        while plans and step not in plans[0][0]:
            plans.popleft()
        if not plans:
            plans.append(self._plan_from(step))
        planned = plans[0][0]
        if len(plans) == 1 and step - planned.start >= len(planned) // 2:
            plans.append(self._plan_from(planned.stop))
        return plans[0]

    def _plan_from(self, first: int) -> tuple[range, RowPlan]:
        """The plan of `first` and some steps behind it: an epoch's at most."""
        epoch_steps = -(-self._order.samples // self._order.lanes)
        steps = range(first, first + max(1, min(PLANNED_SAMPLES // self._rows, epoch_steps)))
        starts = np.arange(first, steps.stop, dtype=np.int64) * self._order.lanes
        indices = (starts[:, None] + self._positions).reshape(-1)
        rows = np.tile(np.arange(self._rows, dtype=np.int64), len(steps))
        return steps, self._reader.plan(indices, rows)
