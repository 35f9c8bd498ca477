"""Rows of a batch filled with samples, out of the chunks of the windows they lie in: docs/design/feed.md."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from stoker.feed.arena import Arena
from stoker.feed.chunk_slots import ChunkSlots
from stoker.feed.order import Order
from stoker.feed.source import Integers, SampleSplit
from stoker.feed.windows import WindowLayout, WindowName, Windows

Batch: TypeAlias = npt.NDArray[np.integer[Any]]
"""Tokens, [rows, sample_tokens]: int64, or the type they are stored in."""

CHUNKS_AHEAD: Final = 4
"""For each thread that opens chunks: how many are asked of it before a sample needs them."""


@dataclass(frozen=True, slots=True)
class _Entry:
    """A position enters a window with sample `number`."""

    number: int
    position: int
    layout: WindowLayout


@dataclass(frozen=True, slots=True)
class RowPlan:
    """Where some samples lie, in the order in which they will be read; the first is number `begin`.

    Sample j of them is row `offsets[j]` of chunk `chunks[refs[j]]`, whose first row in the arena is
    `first_rows[refs[j]]`, or -1 as long as the chunk has no slot.
    """

    begin: int
    entries: list[_Entry]
    chunks: list[int]
    ref_of: dict[int, int]
    refs: Integers
    offsets: Integers
    first_rows: Integers

    @property
    def end(self) -> int:
        """The number of the next plan's first sample."""
        return self.begin + len(self.refs)


class RowReader:
    """Holds the chunks of the windows that some positions draw from, and copies samples out of them.

    A position stays in its window from one call to the next. For one thread at a time; with `threads` others
    open the chunks that the plans will need next.
    """

    def __init__(self, split: SampleSplit, order: Order, positions: int, threads: int = 0) -> None:
        self._split = split
        self._order = order
        self._windows = Windows(order)
        self._ahead = CHUNKS_AHEAD * threads
        slots = min(order.blocks, positions * (order.window_blocks + 2) + self._ahead)
        self._arena = Arena(slots, split.chunk_bytes, split.sample_tokens, split.dtype)
        self._chunks = ChunkSlots(split, self._arena, threads)
        self._plans: deque[RowPlan] = deque()  # the one that is being read, and those made after it
        self._planned: dict[int, WindowLayout] = {}  # by position: the last window that was planned
        self._held: dict[int, WindowLayout] = {}  # by position: the last window that was entered
        self._leaving: deque[tuple[int, WindowLayout]] = deque()  # windows that end before which sample
        # Samples are numbered through all plans, in the order in which these were made.
        self._made = 0  # the samples of all plans
        self._entered = 0  # samples below have their windows entered and their chunks requested
        self._filled = 0  # samples below have been read

    @property
    def chunks_opened(self) -> int:
        """Chunks opened since the beginning."""
        return self._chunks.opens

    @property
    def chunks_held(self) -> int:
        """Chunks in memory now, and those that are being opened."""
        return len(self._chunks)

    def plan(self, indices: Integers, positions: Integers) -> RowPlan:
        """Where the samples at global indices `indices` lie; sample j is for position `positions[j]`.

        Samples of one position must be in the order in which they will be read. Plans may be made before they
        are needed, in the order in which they will be; so chunks are opened across their borders.
        """
        epoch, lane, row, window = self._order.locate(indices)
        narrow = positions.astype(np.uint16) if positions.size and positions.max() < 1 << 16 else positions
        by_position = np.argsort(narrow, kind="stable")  # of two bytes in linear time
        changes = np.ones(len(indices), dtype=np.bool_)
        changes[1:] = False
        for names in (positions, epoch, lane, window):
            sorted_names = names[by_position]
            changes[1:] |= sorted_names[1:] != sorted_names[:-1]
        first = by_position[changes]
        layouts = self._lay_out(*(each[first].tolist() for each in (positions, epoch, lane, window)))
        entries = [
            _Entry(self._made + sample, position, layout)
            for sample, position, layout in zip(
                first.tolist(), positions[first].tolist(), layouts, strict=True
            )
        ]
        ref_of: dict[int, int] = {}
        which, begins, begin = [], [], 0
        for layout in layouts:
            refs = np.array([ref_of.setdefault(block, len(ref_of)) for block in layout.blocks])
            which.append(refs[layout.which])
            begins.append(begin - layout.first_row)
            begin += len(layout.which)
        place = np.empty(len(indices), dtype=np.int64)
        place[by_position] = np.array(begins, dtype=np.int64)[np.cumsum(changes) - 1]
        place += row
        plan = RowPlan(
            self._made,
            sorted(entries, key=lambda entry: entry.number),
            list(ref_of),
            ref_of,
            _joined(which)[place],
            _joined([layout.offsets for layout in layouts])[place],
            np.full(len(ref_of), -1, dtype=np.int64),
        )
        self._plans.append(plan)
        self._made = plan.end
        return plan

    def fill(self, batch: Batch, plan: RowPlan, samples: range, into: Sequence[int] | None = None) -> None:
        """`batch[into[j]]` becomes sample `samples[j]` of the plan; without `into`, `batch[j]`.

        Best called for one range after another of one plan, and then of the next; any other way is as
        right, and slower. Raises what opening a chunk raises.
        """
        if into is None and batch.dtype == self._split.dtype and batch.flags.c_contiguous:
            picked = batch
        else:
            picked = np.empty((len(samples), self._split.sample_tokens), dtype=self._split.dtype)
        done = 0
        try:
            while done < len(samples):
                done += self.fill_some(picked[done:], plan, samples[done:])
            if picked is not batch:
                batch[slice(len(samples)) if into is None else list(into)] = picked
        finally:
            if picked is not batch:
                picked.fill(0)

    def fill_some(self, batch: Batch, plan: RowPlan, samples: range, unit: int = 1) -> int:
        """Fill rows of `batch`, of the stored type, until a chunk does not open; says how many.

        They are a multiple of `unit`, as `samples` are. Raises what opening the chunk raises when one of the
        first `unit` samples needs it.
        """
        begin, stop = plan.begin + samples.start, plan.begin + samples.stop
        self._turn_to(plan, begin)
        error = None
        while self._filled < stop and error is None:
            self._enter_upto(stop)
            upto, error = self._opened(plan, stop)
            if self._ahead:
                self._enter_upto(stop)  # so that threads go on while rows are picked
            if error is not None:
                upto -= (upto - begin) % unit
            if upto > self._filled:
                places = slice(self._filled - plan.begin, upto - plan.begin)
                rows = plan.first_rows[plan.refs[places]] + plan.offsets[places]
                self._arena.pick(rows, batch[self._filled - begin : upto - begin])
                self._filled = upto
                self._leave()
        if error is not None and self._filled - begin < unit:
            raise error
        return self._filled - begin

    def wipe(self) -> None:
        """Overwrite every token and forget every key held. Reading may go on afterwards."""
        self._chunks.wipe()
        self._plans.clear()
        self._planned.clear()
        self._held.clear()
        self._leaving.clear()
        self._split.wipe()

    def _lay_out(
        self, positions: list[int], epochs: list[int], lanes: list[int], windows: list[int]
    ) -> list[WindowLayout]:
        """The layouts of the windows that positions enter; a position's last one is laid out already."""
        names = [WindowName(*name) for name in zip(epochs, lanes, windows, strict=True)]
        known = {layout.name: layout for layout in self._planned.values()}
        fresh = list(dict.fromkeys(name for name in names if name not in known))
        known.update(zip(fresh, self._windows.lay_out(fresh), strict=True))
        layouts = [known[name] for name in names]
        self._planned.update(zip(positions, layouts, strict=True))
        return layouts

    def _turn_to(self, plan: RowPlan, number: int) -> None:
        """Be where sample `number`, one of `plan`, is read next: at once when it follows the last one."""
        while self._plans and self._plans[0] is not plan and self._plans[0].end <= self._filled:
            self._plans.popleft()
        if not self._plans or self._plans[0] is not plan or self._filled != number:
            self._jump_to(plan, number)

    def _jump_to(self, plan: RowPlan, number: int) -> None:
        """Hold the windows that are open at sample `number`, and no others."""
        kept = deque([plan])
        for each in self._plans:
            if each.begin == kept[-1].end and each is not plan:
                kept.append(each)
        self._plans = kept
        before = [layout for _, layout in self._leaving] + list(self._held.values())
        self._leaving.clear()
        self._held = {entry.position: entry.layout for entry in plan.entries if entry.number <= number}
        for layout in self._held.values():
            self._chunks.hold(layout.blocks)
        for layout in before:
            self._let_go(layout)
        for each in self._plans:
            each.first_rows.fill(-1)  # asked for anew; a chunk that is still held keeps its slot
        self._entered = self._filled = number

    def _enter_upto(self, stop: int) -> None:
        """Give slots to the chunks of samples below `stop`, and then to some chunks needed later."""
        for plan in self._plans:
            if plan.begin <= self._entered < plan.end:
                self._enter_plan(plan, stop)
            if self._entered < plan.end:
                return

    def _enter_plan(self, plan: RowPlan, stop: int) -> None:
        entries = plan.entries
        at = bisect_left(entries, self._entered, key=lambda entry: entry.number)
        while self._entered < plan.end:
            if self._entered >= stop and len(self._chunks.opening) >= self._ahead:
                return
            while at < len(entries) and entries[at].number == self._entered:
                self._enter_window(entries[at])
                at += 1
            end = entries[at].number if at < len(entries) else plan.end
            if self._entered < stop:
                end = min(end, stop)
            self._entered = self._give_slots(plan, self._entered, end, stop)
            if self._entered < end:
                return

    def _enter_window(self, entry: _Entry) -> None:
        left = self._held.get(entry.position)
        if left is entry.layout:
            return
        self._chunks.hold(entry.layout.blocks)
        self._held[entry.position] = entry.layout
        if left is not None:
            self._leaving.append((entry.number, left))
            self._leave()

    def _give_slots(self, plan: RowPlan, begin: int, end: int, stop: int) -> int:
        """Request the chunks of samples [begin, end); the first sample whose chunk has no slot, or `end`."""
        refs = plan.refs[begin - plan.begin : end - plan.begin]
        missing = (plan.first_rows[refs] < 0).nonzero()[0]
        while missing.size:
            number = begin + int(missing[0])
            if number >= stop and len(self._chunks.opening) >= self._ahead:
                return number
            ref = int(refs[missing[0]])
            slot = self._chunks.request(plan.chunks[ref])
            if slot is None:
                return number
            plan.first_rows[ref] = slot * self._arena.slot_rows
            missing = missing[refs[missing] != ref]
        return end

    def _opened(self, plan: RowPlan, stop: int) -> tuple[int, BaseException | None]:
        """Wait for the chunks of the next samples below `stop`; up to which all are open, and what failed."""
        stop, failed = min(stop, self._entered), None
        for chunk in list(self._chunks.opening):
            ref = plan.ref_of.get(chunk)
            if ref is not None:
                uses = (plan.refs[self._filled - plan.begin : stop - plan.begin] == ref).nonzero()[0]
                if uses.size:
                    error = self._chunks.error(chunk)
                    if error is not None:
                        stop, failed = self._filled + int(uses[0]), error
        assert failed is not None or stop > self._filled, "every slot is taken by a window that has ended"
        return stop, failed

    def _leave(self) -> None:
        """Let go of the windows whose positions have read their last sample there."""
        while self._leaving and self._leaving[0][0] <= self._filled:
            self._let_go(self._leaving.popleft()[1])

    def _let_go(self, layout: WindowLayout) -> None:
        for chunk in self._chunks.let_go(layout.blocks):
            for plan in self._plans:
                ref = plan.ref_of.get(chunk)
                if ref is not None:
                    plan.first_rows[ref] = -1


def _joined(parts: list[Integers]) -> Integers:
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)
