"""Whole windows of the order, laid out at once: the same samples as `Order.place`, for a tenth of the work.

A reader draws each row of a window once, so the window's permutation is computed for all its rows together:
the network's halves have few bits, so each round is a look-up in a small table. See docs/design/feed.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from stoker.feed.order import ROUNDS, Order, Purpose, Words, mix, round_keys

Integers: TypeAlias = npt.NDArray[np.int64]

_NOTHING: Final = (np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64))


@dataclass(frozen=True, slots=True)
class WindowName:
    """One window of one lane in one epoch."""

    epoch: int
    lane: int
    window: int


@dataclass(frozen=True, slots=True)
class WindowLayout:
    """What a window draws in each of its rows.

    Row t of the lane, `first_row` ≤ t < `first_row` + len(which), is row `offsets[t - first_row]` of block
    `blocks[which[t - first_row]]`. `blocks` are all of the window's, in line order.
    """

    name: WindowName
    first_row: int
    blocks: tuple[int, ...]
    which: Integers
    offsets: Integers


class Windows:
    """Lays out windows of an order."""

    def __init__(self, order: Order) -> None:
        self._order = order

    def lay_out(self, names: Sequence[WindowName]) -> list[WindowLayout]:
        """The layouts of some windows; many at once cost less each than one alone."""
        if not names:
            return []
        order = self._order
        epochs, lanes, windows = np.array([(n.epoch, n.lane, n.window) for n in names], dtype=np.int64).T
        low, high, line = order.spans(epochs, lanes, windows)
        sizes = high - low
        keys = [round_keys(order.seed, n.epoch, Purpose.WINDOW, n.lane, n.window) for n in names]
        shuffled = whole_permutations(sizes.tolist(), np.stack(keys))
        places = self._places([name.epoch for name in names], line.tolist(), sizes.tolist())
        blocks = self._blocks([name.epoch for name in names], places)
        return [
            WindowLayout(name, first_row, held, (place - place[0])[rows], offset[rows])
            for name, first_row, held, (place, offset), rows in zip(
                names, low.tolist(), blocks, places, shuffled, strict=True
            )
        ]

    def _places(
        self, epochs: Sequence[int], firsts: Sequence[int], sizes: Sequence[int]
    ) -> list[tuple[Integers, Integers]]:
        """For each stretch of its epoch's line: the place of the block of each sample, and its row there."""
        found: list[tuple[Integers, Integers]] = [_NOTHING] * len(epochs)
        for epoch in set(epochs):  # one or two; what is computed for an epoch costs more than its samples
            mine = [number for number, each in enumerate(epochs) if each == epoch]
            line = np.concatenate([np.arange(firsts[n], firsts[n] + sizes[n], dtype=np.int64) for n in mine])
            place, offset = self._order.line.places(np.array([epoch]), line)
            begin = 0
            for number in mine:
                end = begin + sizes[number]
                found[number] = place[begin:end], offset[begin:end]
                begin = end
        return found

    def _blocks(
        self, epochs: Sequence[int], places: Sequence[tuple[Integers, Integers]]
    ) -> list[tuple[int, ...]]:
        """The blocks at all places from the first to the last of each window."""
        between = [np.arange(place[0], place[-1] + 1, dtype=np.int64) for place, _ in places]
        counts = [len(each) for each in between]
        epoch = np.repeat(np.array(epochs, dtype=np.int64), counts)
        blocks = self._order.line.blocks_at(epoch, np.concatenate(between)).tolist()
        ends = np.cumsum(counts).tolist()
        return [tuple(blocks[end - count : end]) for end, count in zip(ends, counts, strict=True)]


def whole_permutations(sizes: Sequence[int], keys: Words) -> list[Integers]:
    """For each size, `permute(arange(size), size, its keys)`; `keys` has shape [len(sizes), ROUNDS]."""
    by_bits: dict[int, list[int]] = {}
    for number, size in enumerate(sizes):
        by_bits.setdefault(max(1, (size - 1).bit_length()), []).append(number)
    found: list[Integers] = [np.empty(0, dtype=np.int64)] * len(sizes)
    for bits, numbers in by_bits.items():
        networks = _whole_networks(bits, keys[numbers])
        for number, network in zip(numbers, networks, strict=True):
            found[number] = _walked(network, sizes[number])
    return found


def _whole_networks(bits: int, keys: Words) -> Integers:
    """The network of `order.permute` applied to all of [0, 2^bits), for each row of keys."""
    left_bits = bits // 2
    right_bits = bits - left_bits
    half = 1 << right_bits  # the wider half: its values index every table
    hashes = mix(np.arange(half, dtype=np.uint64), keys[:, :, None])  # [windows, ROUNDS, half]
    hashes[:, 0::2] &= np.uint64((1 << left_bits) - 1)
    hashes[:, 1::2] &= np.uint64(half - 1)
    tables = hashes.astype(np.int64)
    values = np.arange(1 << bits, dtype=np.int64)
    network = np.empty((len(keys), 1 << bits), dtype=np.int64)
    for number, table in enumerate(tables):
        left, right = values >> right_bits, values & (half - 1)
        for count in range(0, ROUNDS, 2):
            left ^= table[count].take(right)
            right ^= table[count + 1].take(left)
        network[number] = (left << right_bits) | right
    return network


def _walked(network: Integers, size: int) -> Integers:
    """The network's values of [0, size), taken through it again until each is below `size`."""
    values = network[:size].copy()
    outside = np.flatnonzero(values >= size)
    while outside.size:
        values[outside] = network[values[outside]]
        outside = outside[values[outside] >= size]
    return values
