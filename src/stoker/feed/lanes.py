"""How an epoch's samples are dealt to the positions of the global batch. See docs/design/feed.md.

A lane is what one position draws from in one epoch. Its samples lie side by side in the epoch's line, so that
whoever reads a position opens the chunks of one piece of the line and no others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import gcd
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from stoker.feed.mixture_pattern import Turns
from stoker.spec.mixture import PERIOD

Integers: TypeAlias = npt.NDArray[np.int64]


class Lanes(Protocol):
    """The lanes of every epoch. All arrays of a call have one shape."""

    @property
    def longest(self) -> int:
        """No lane of any epoch is longer."""
        ...

    def locate(self, indices: Integers) -> tuple[Integers, Integers, Integers]:
        """The epoch, the lane and the row of the lane of each index."""
        ...

    def index(self, epoch: Integers, lane: Integers, row: Integers) -> Integers:
        """The inverse of `locate`."""
        ...

    def start(self, epoch: Integers, lane: Integers) -> Integers:
        """Where each lane begins in its epoch's line."""
        ...

    def length(self, epoch: Integers, lane: Integers) -> Integers:
        """How many samples each lane has."""
        ...

    def at(self, epoch: Integers, line: Integers) -> Integers:
        """The lane that each place of the line belongs to."""
        ...


@dataclass(frozen=True, slots=True)
class EvenLanes:
    """Every global batch is the next `count` samples of one dataset: order format 1."""

    samples: int
    count: int

    @property
    def longest(self) -> int:
        """The longest lane's samples."""
        return -(-self.samples // self.count)

    def locate(self, indices: Integers) -> tuple[Integers, Integers, Integers]:
        """Index g is place g mod `samples` of epoch g div `samples`; the lanes take places in turn."""
        epoch, within = np.divmod(indices, self.samples)
        row, lane = np.divmod(within, self.count)
        return epoch, lane, row

    def index(self, epoch: Integers, lane: Integers, row: Integers) -> Integers:
        """The inverse of `locate`."""
        return epoch * self.samples + row * self.count + lane

    def start(self, epoch: Integers, lane: Integers) -> Integers:
        """The same in every epoch; the first `samples mod count` lanes are one sample longer."""
        base, longer = divmod(self.samples, self.count)
        return lane * base + np.minimum(lane, longer)

    def length(self, epoch: Integers, lane: Integers) -> Integers:
        """The same in every epoch."""
        base, longer = divmod(self.samples, self.count)
        return base + (lane < longer)

    def at(self, epoch: Integers, line: Integers) -> Integers:
        """The inverse of `start`."""
        base, longer = divmod(self.samples, self.count)
        in_longer = longer * (base + 1)
        return np.where(line < in_longer, line // (base + 1), longer + (line - in_longer) // max(base, 1))


@dataclass(frozen=True, slots=True)
class WeightedLanes:
    """Some samples of each global batch, as `turns` says, are this dataset's; position p draws from lane p.

    Sample g of the mixture stands at position g mod `count` of step g div `count`. Which positions a dataset
    has at a step depends on count · step mod `PERIOD` alone, so it repeats after
    Q = PERIOD / gcd(count, PERIOD) steps, and one table of (PERIOD + 1)·(Q + 1) counts answers everything:
    `_below[v, x]` is how many of the first x steps' positions 0 to v - 1 are this dataset's.
    """

    samples: int
    count: int
    turns: Turns
    longest: int = field(init=False)
    _below: npt.NDArray[np.int32] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        steps = PERIOD // gcd(self.count, PERIOD)
        first = (self.count % PERIOD) * np.arange(steps) % PERIOD
        used = self.turns.used[(np.arange(PERIOD)[:, None] + first) % PERIOD]
        below = np.zeros((PERIOD + 1, steps + 1), dtype=np.int32)
        np.cumsum(np.cumsum(used, axis=0), axis=1, out=below[1:, 1:])
        object.__setattr__(self, "_below", below)
        # An epoch spans so many samples of the mixture at most, and so many steps of each position.
        span = -(-self.samples // self.turns.count) * PERIOD
        spanned = np.full(PERIOD, -(-span // self.count))
        longest = int(self._rows(np.arange(PERIOD), spanned).max())
        object.__setattr__(self, "longest", min(longest, self.samples))

    def locate(self, indices: Integers) -> tuple[Integers, Integers, Integers]:
        """Index n is this dataset's sample n since the beginning; its row counts its lane's in the epoch."""
        step, lane = np.divmod(self.turns.mixture_index(indices), self.count)
        epoch = indices // self.samples
        return epoch, lane, self._rows(lane, step) - self._rows_before(epoch, lane)

    def index(self, epoch: Integers, lane: Integers, row: Integers) -> Integers:
        """The inverse of `locate`."""
        wanted = self._rows_before(epoch, lane) + row
        turn = lane % PERIOD
        steps = self._below.shape[1] - 1
        each = (self._below[turn + 1, steps] - self._below[turn, steps]).astype(np.int64)
        rounds, rest = np.divmod(wanted, each)

        def beyond(step: Integers) -> npt.NDArray[np.bool_]:
            return self._below[turn + 1, step] - self._below[turn, step] > rest

        step = rounds * steps + _first(np.full_like(lane, steps), beyond) - 1
        return self.turns.samples_before(step * self.count + lane)

    def start(self, epoch: Integers, lane: Integers) -> Integers:
        """All rows of lower lanes in the epoch."""
        return self._line_before(epoch + 1, lane) - self._line_before(epoch, lane)

    def length(self, epoch: Integers, lane: Integers) -> Integers:
        """Nothing at positions where the dataset has no turn; else in proportion to its turns there."""
        return self._rows_before(epoch + 1, lane) - self._rows_before(epoch, lane)

    def at(self, epoch: Integers, line: Integers) -> Integers:
        """The inverse of `start`: the last lane that begins here or before, so not an empty one."""

        def beyond(lane: Integers) -> npt.NDArray[np.bool_]:
            return self.start(epoch, lane) > line

        return _first(np.full_like(line, self.count), beyond) - 1

    def _epoch_begin(self, epoch: Integers) -> Integers:
        """The index in the mixture of each epoch's first sample."""
        return self.turns.mixture_index(epoch * self.samples)

    def _rows(self, lane: Integers, step: Integers) -> Integers:
        """How many of the first `step` steps take this dataset at position `lane`."""
        turn = lane % PERIOD
        steps = self._below.shape[1] - 1
        rounds, rest = np.divmod(step, steps)
        each = (self._below[turn + 1, steps] - self._below[turn, steps]).astype(np.int64)
        rows: Integers = rounds * each + self._below[turn + 1, rest] - self._below[turn, rest]
        return rows

    def _rows_before(self, epoch: Integers, lane: Integers) -> Integers:
        """The rows of `lane` in all epochs before."""
        return self._rows(lane, (self._epoch_begin(epoch) - lane + self.count - 1) // self.count)

    def _line_before(self, epoch: Integers, lane: Integers) -> Integers:
        """The rows of all lanes lower than `lane` in all epochs before: whole steps, then a part of one."""
        steps = self._below.shape[1] - 1
        whole, part = np.divmod(self._epoch_begin(epoch), self.count)
        rounds, rest = np.divmod(whole, steps)
        periods, turn = np.divmod(lane, PERIOD)
        in_whole: Integers = (
            whole * periods * self.turns.count
            + rounds * self._below[turn, steps].astype(np.int64)
            + self._below[turn, rest]
        )
        first = whole * self.count
        last = first + np.minimum(part, lane)
        return in_whole + self.turns.samples_before(last) - self.turns.samples_before(first)


def _first(high: Integers, holds: Callable[[Integers], npt.NDArray[np.bool_]]) -> Integers:
    """For each the lowest number of [0, high) at which `holds`, true from there on; `high` if none is."""
    low = np.zeros_like(high)
    high = high.copy()
    while (low < high).any():
        middle = (low + high) // 2
        true = holds(middle)
        high = np.where(true, middle, high)
        low = np.where(true, low, np.minimum(middle + 1, high))
    return low
