"""One rank's share of each global batch of a mixture: every row from the part whose turn it is.

See docs/design/feed.md, "Mixtures".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from stoker.core.errors import MissingExtra
from stoker.feed.batches import PLANNED_SAMPLES
from stoker.feed.order import Order
from stoker.feed.rows import Batch, RowPlan, RowReader
from stoker.feed.source import SampleSplit
from stoker.spec.mixture import PERIOD

if TYPE_CHECKING:
    import torch

FIRST_PLANNED_SAMPLES: Final = 256


@dataclass(frozen=True, slots=True)
class _PartPlan:
    """One part's samples of some steps, of which there are some."""

    reader: RowReader
    plan: RowPlan
    begins: list[int]
    """The samples of step s, counted from the plan's first, are [begins[s], begins[s + 1])."""
    rows: list[int]
    """The row of the batch that each sample is for."""


class MixtureReader:
    """Reads positions [first, first + rows) of the global batch of any step, best in ascending steps.

    It holds the chunks of those positions' windows in every part. Used by one thread at a time.
    """

    def __init__(
        self,
        splits: Sequence[SampleSplit],
        orders: Sequence[Order],
        pattern: npt.NDArray[np.int16],
        first: int,
        rows: int,
    ) -> None:
        """`pattern`, [PERIOD], says which part's turn each sample is; `orders` are the parts', with turns."""
        self._orders = orders
        self._pattern = pattern
        self._rows = rows
        self._positions = np.arange(first, first + rows, dtype=np.int64)
        self._sample_tokens = splits[0].sample_tokens
        self._lanes = orders[0].lanes
        self._readers = [RowReader(split, order, rows) for split, order in zip(splits, orders, strict=True)]
        self._steps = range(0)
        self._plans: list[_PartPlan] = []
        self._next_step = -1

    @property
    def chunks_opened(self) -> int:
        """Chunks of all parts opened since the beginning."""
        return sum(reader.chunks_opened for reader in self._readers)

    @property
    def chunks_held(self) -> int:
        """Chunks of all parts in memory now."""
        return sum(reader.chunks_held for reader in self._readers)

    def read(self, step: int) -> Batch:
        """The tokens of this rank's positions in step `step`, in a fresh array."""
        if step != self._next_step or step not in self._steps:
            self._plan_from(step)
        self._next_step = -1  # should this step fail
        batch = np.empty((self._rows, self._sample_tokens), dtype=np.int64)
        within = step - self._steps.start
        for part in self._plans:
            begin, end = part.begins[within], part.begins[within + 1]
            part.reader.fill(batch, part.plan, range(begin, end), part.rows[begin:end])
        self._next_step = step + 1
        return batch

    def sources(self, step: int) -> npt.NDArray[np.int16]:
        """The part that each row of a step comes from, int16 [rows]."""
        return self._pattern[(step * self._lanes + self._positions) % PERIOD]

    def wipe(self) -> None:
        """Overwrite every token and forget every key held. Reading may go on afterwards, from any step."""
        self._next_step = -1
        for reader in self._readers:
            reader.wipe()

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

    def _plan_from(self, first: int) -> None:
        """Plan `first` and some steps behind it: few after a jump, so that the first batch comes soon."""
        samples = PLANNED_SAMPLES if first == self._next_step else FIRST_PLANNED_SAMPLES
        self._steps = range(first, first + max(1, samples // self._rows))
        begins = np.arange(first, self._steps.stop, dtype=np.int64) * self._lanes
        indices = begins[:, None] + self._positions
        parts = self._pattern[indices % PERIOD]
        drawn = [(number, parts == number) for number in range(len(self._readers))]
        self._plans = [self._plan_part(number, indices, mine) for number, mine in drawn if mine.any()]

    def _plan_part(
        self, number: int, indices: npt.NDArray[np.int64], mine: npt.NDArray[np.bool_]
    ) -> _PartPlan:
        reader, turns = self._readers[number], self._orders[number].turns
        assert turns is not None
        rows = np.nonzero(mine)[1]
        plan = reader.plan(turns.samples_before(indices[mine]), rows)
        begins = np.concatenate(([0], np.cumsum(mine.sum(axis=1))))
        return _PartPlan(reader, plan, begins.tolist(), rows.tolist())
