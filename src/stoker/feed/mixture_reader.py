"""One rank's share of each global batch of a mixture: every row from the part whose turn it is.

See docs/design/feed.md, "Mixtures".
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from stoker.core.errors import StokerError
from stoker.feed.batches import PLANNED_SAMPLES
from stoker.feed.order import Order
from stoker.feed.rows import Batch, RowPlan, RowReader
from stoker.feed.source import Integers, ReadSettings, SampleSplit
from stoker.feed.token_batches import TokenBatches
from stoker.spec.mixture import PERIOD

FIRST_PLANNED_SAMPLES: Final = 256
MIN_PLANNED_SAMPLES: Final = 512
"""Of a part whose epochs are shorter: each of its samples may be a window of its own to lay out."""


@dataclass(frozen=True, slots=True)
class _PartPlan:
    """One part's samples of some steps, of which there are some."""

    reader: RowReader
    plan: RowPlan
    begins: list[int]
    """The samples of step s, counted from the plan's first, are [begins[s], begins[s + 1])."""
    rows: Integers
    """The row of the batch that each sample is for."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """Some steps, part by part."""

    steps: range
    parts: list[_PartPlan]


class MixtureReader(TokenBatches):
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
        settings: ReadSettings | None = None,
    ) -> None:
        """`pattern`, [PERIOD], says which part's turn each sample is; `orders` are the parts', with turns."""
        super().__init__(rows, splits[0].sample_tokens, splits[0].dtype, settings)
        self._orders = orders
        self._pattern = pattern
        self._positions = np.arange(first, first + rows, dtype=np.int64)
        self._lanes = orders[0].lanes
        threads = self._settings.read_threads
        self._readers = [
            RowReader(split, order, rows, threads) for split, order in zip(splits, orders, strict=True)
        ]
        self._most_planned = min(PLANNED_SAMPLES, *(_most_planned(order) for order in orders))
        self._plans: deque[_Plan] = deque()  # that of the steps that are read, and of those after them
        self._next_step = -1
        self._picked: Batch = np.empty((0, splits[0].sample_tokens), dtype=splits[0].dtype)

    @property
    def chunks_opened(self) -> int:
        """Chunks of all parts opened since the beginning."""
        return sum(reader.chunks_opened for reader in self._readers)

    @property
    def chunks_held(self) -> int:
        """Chunks of all parts in memory now."""
        return sum(reader.chunks_held for reader in self._readers)

    def sources(self, step: int) -> npt.NDArray[np.int16]:
        """The part that each row of a step comes from, int16 [rows]."""
        return self._pattern[(step * self._lanes + self._positions) % PERIOD]

    def _fill(self, rows: Batch, steps: range) -> int:
        plan = self._plan_of(steps.start)
        steps = range(steps.start, min(steps.stop, plan.steps.stop))
        self._next_step = -1  # should these steps fail: then what follows is planned anew
        begin, done, error = steps.start - plan.steps.start, len(steps), None
        for part in plan.parts:
            first, last = part.begins[begin], part.begins[begin + len(steps)]
            filled, failed = self._fill_part(rows, part, range(first, last), begin)
            if failed is not None:
                whole = bisect_right(part.begins, first + filled) - 1 - begin
                if whole < done:
                    done, error = whole, failed
        if error is None:
            self._next_step = steps.stop
        elif not done:
            raise error
        return done

    def _fill_part(
        self, rows: Batch, part: _PartPlan, samples: range, step: int
    ) -> tuple[int, StokerError | None]:
        """Fill a part's rows of the steps from `step` of its plan; how many, and what ended it too early."""
        picked = self._picked_of(len(samples))
        filled, error = 0, None
        while filled < len(samples) and error is None:
            try:
                filled += part.reader.fill_some(picked[filled:], part.plan, samples[filled:])
            except StokerError as failed:  # raised by the step that it belongs to
                error = failed
        rows[part.rows[samples.start : samples.start + filled] - step * self._rows] = picked[:filled]
        picked[:filled].fill(0)
        return filled, error

    def _wipe_rows(self) -> None:
        self._plans.clear()
        self._next_step = -1
        for reader in self._readers:
            reader.wipe()

    def _picked_of(self, rows: int) -> Batch:
        if len(self._picked) < rows:
            self._picked = np.empty((rows, self._sample_tokens), dtype=self._stored)
        return self._picked[:rows]

    def _plan_of(self, step: int) -> _Plan:
        """The plan that has `step`. The next one is made when this one is half read.

        Few steps are planned after a jump, so that the first batch comes soon.
        """
        plans = self._plans
        if step != self._next_step:
            plans.clear()
        while plans and step not in plans[0].steps:
            plans.popleft()
        if not plans:
            plans.append(self._plan_from(step, FIRST_PLANNED_SAMPLES))
        planned = plans[0].steps
        if len(plans) == 1 and step - planned.start >= len(planned) // 2:
            plans.append(self._plan_from(planned.stop, PLANNED_SAMPLES))
        return plans[0]

    def _plan_from(self, first: int, samples: int) -> _Plan:
        """A plan of the steps from `first` on that have about so many samples."""
        steps = range(first, first + max(1, min(samples, self._most_planned) // self._rows))
        begins = np.arange(first, steps.stop, dtype=np.int64) * self._lanes
        indices = begins[:, None] + self._positions
        parts = self._pattern[indices % PERIOD]
        drawn = [(number, parts == number) for number in range(len(self._readers))]
        return _Plan(steps, [self._plan_part(number, indices, mine) for number, mine in drawn if mine.any()])

    def _plan_part(self, number: int, indices: Integers, mine: npt.NDArray[np.bool_]) -> _PartPlan:
        reader, turns = self._readers[number], self._orders[number].turns
        assert turns is not None
        step, position = np.nonzero(mine)
        plan = reader.plan(turns.samples_before(indices[mine]), position)
        begins = np.concatenate(([0], np.cumsum(mine.sum(axis=1))))
        return _PartPlan(reader, plan, begins.tolist(), step * self._rows + position)


def _most_planned(order: Order) -> int:
    """Samples of the mixture in which a part does not come to many of its epochs."""
    assert order.turns is not None
    return max(order.samples, MIN_PLANNED_SAMPLES) * PERIOD // order.turns.count
