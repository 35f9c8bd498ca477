"""One rank's share of each global batch, as an array, for any step. See docs/design/feed.md."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from stoker.core.errors import MissingExtra
from stoker.feed.order import Order
from stoker.feed.rows import Batch, RowPlan, RowReader
from stoker.feed.source import ReadSettings, SampleSplit

if TYPE_CHECKING:
    import torch

PLANNED_SAMPLES: Final = 4096  # placed in one call: the permutation costs microseconds alone, 0.3 in a row


class BatchReader:
    """Reads positions [first, first + rows) of the global batch of any step, best in ascending steps.

    It holds the chunks of those positions' windows and no others. Used by one thread at a time.
    """

    def __init__(
        self, split: SampleSplit, order: Order, first: int, rows: int, settings: ReadSettings | None = None
    ) -> None:
        self._split = split
        self._order = order
        self._rows = rows
        self._positions = np.arange(first, first + rows, dtype=np.int64)
        self._reader = RowReader(split, order, rows)
        self._steps = range(0)
        self._plan: RowPlan | None = None

    @property
    def chunks_opened(self) -> int:
        """Chunks opened since the beginning."""
        return self._reader.chunks_opened

    @property
    def chunks_held(self) -> int:
        """Chunks in memory now."""
        return self._reader.chunks_held

    def read(self, step: int) -> Batch:
        """The tokens of this rank's positions in step `step`, in a fresh array."""
        plan = self._plan
        if plan is None or step not in self._steps:
            plan = self._plan_from(step)
        begin = (step - self._steps.start) * self._rows
        batch = np.empty((self._rows, self._split.sample_tokens), dtype=np.int64)
        self._reader.fill(batch, plan, range(begin, begin + self._rows))
        return batch

    def wipe(self) -> None:
        """Overwrite every token and forget every key held. Reading may go on afterwards, from any step."""
        self._reader.wipe()

    def wipe_batch(self, batch: Batch) -> None:
        """Overwrite a batch that nobody took."""
        batch.fill(0)

    def as_tensors(self, batch: Batch) -> torch.Tensor:
        """The batch as a tensor over the same memory. Raises MissingExtra without torch."""
        try:
            import torch
        except ModuleNotFoundError as error:
            raise MissingExtra(
                "Tensors need torch, which is not installed.",
                hint="Install the extra 'train' from Stoker's clone, or use next_array().",
            ) from error
        return torch.from_numpy(batch)

    def _plan_from(self, first: int) -> RowPlan:
        """The plan of `first` and some steps behind it: an epoch's at most."""
        epoch_steps = -(-self._order.samples // self._order.lanes)
        self._steps = range(first, first + max(1, min(PLANNED_SAMPLES // self._rows, epoch_steps)))
        starts = np.arange(first, self._steps.stop, dtype=np.int64) * self._order.lanes
        indices = (starts[:, None] + self._positions).reshape(-1)
        rows = np.tile(np.arange(self._rows, dtype=np.int64), len(self._steps))
        self._plan = self._reader.plan(indices, rows)
        return self._plan
