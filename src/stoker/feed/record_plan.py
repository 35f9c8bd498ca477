"""Where the records of some steps lie, worked out window by window: docs/design/feed.md, "Records"."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from stoker.feed.order import Order
from stoker.feed.source import Integers
from stoker.feed.windows import WindowLayout, WindowName, Windows

PLANNED_RECORDS: Final = 4096
"""About how many records are placed in one call: that costs less each than a few alone."""


@dataclass(frozen=True, slots=True)
class RecordPlan:
    """The records of `steps`, step after step: each is row `offsets[j]` of block `blocks[j]`.

    `entering` names for each step the rows that enter another window with it; with the first step, all do.
    """

    steps: range
    numbers: Integers
    blocks: list[int]
    offsets: list[int]
    entering: dict[int, list[tuple[int, WindowLayout]]]


class RecordPlanner:
    """Plans positions [first, first + rows) of the global batch."""

    def __init__(self, order: Order, first: int, rows: int) -> None:
        self._order = order
        self._rows = rows
        self._positions = np.arange(first, first + rows, dtype=np.int64)
        self._windows = Windows(order)
        self._known: dict[WindowName, WindowLayout] = {}

    def plan(self, first: int) -> RecordPlan:
        """The plan of step `first` and some behind it: an epoch's at most."""
        order, rows = self._order, self._rows
        epoch_steps = -(-order.samples // order.lanes)
        steps = range(first, first + max(1, min(PLANNED_RECORDS // rows, epoch_steps)))
        starts = np.arange(first, steps.stop, dtype=np.int64) * order.lanes
        located = order.locate((starts[:, None] + self._positions).reshape(-1))
        epoch, lane, row, window = (each.reshape(-1, rows).T for each in located)  # [rows, steps]
        changes = np.ones(epoch.shape, dtype=np.bool_)
        changes[:, 1:] = False
        for name in (epoch, lane, window):
            changes[:, 1:] |= name[:, 1:] != name[:, :-1]
        names = [
            WindowName(*each)
            for each in zip(*(part[changes].tolist() for part in (epoch, lane, window)), strict=True)
        ]
        layouts = self._lay_out(names)
        blocks, offsets = np.empty(epoch.shape, dtype=np.int64), np.empty(epoch.shape, dtype=np.int64)
        entering: dict[int, list[tuple[int, WindowLayout]]] = {}
        at = [each.tolist() for each in np.nonzero(changes)]
        ends = [*at[1][1:], 0]
        for position, begin, following, layout in zip(*at, ends, layouts, strict=True):
            end = following or len(steps)  # the next position's first window begins with step 0
            places = row[position, begin:end] - layout.first_row
            blocks[position, begin:end] = np.asarray(layout.blocks)[layout.which[places]]
            offsets[position, begin:end] = layout.offsets[places]
            entering.setdefault(first + begin, []).append((position, layout))
        flat_blocks, flat_offsets = blocks.T.reshape(-1), offsets.T.reshape(-1)
        numbers = flat_blocks * order.block_samples + flat_offsets
        return RecordPlan(steps, numbers, flat_blocks.tolist(), flat_offsets.tolist(), entering)

    def _lay_out(self, names: list[WindowName]) -> list[WindowLayout]:
        """The windows' layouts; those of the plan before are known."""
        fresh = list(dict.fromkeys(name for name in names if name not in self._known))
        known = self._known | dict(zip(fresh, self._windows.lay_out(fresh), strict=True))
        self._known = {name: known[name] for name in names}
        return [known[name] for name in names]
