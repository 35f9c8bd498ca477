"""The order in which an epoch visits its samples: computed from a seed, never stored: docs/design/feed.md.

Two keyed permutations make it. One deals the blocks (a block is one chunk's samples) of the split into a
line, anew in every epoch; the line is cut into as many lanes as the global batch has positions. The other
shuffles each lane's samples inside windows of a few blocks. Both are Feistel networks with cycle walking, so
that any sample's place follows from its number, and its number from its place, in constant time and memory.

The order is a format: a run that resumes after an upgrade must see the same samples. `Order.format` names it,
and the tests hold known answers. It is no cipher: nothing rests on the order being hard to guess.
"""

from __future__ import annotations

import enum
import hashlib
import struct
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from stoker.feed.lanes import EvenLanes, Integers, Lanes, WeightedLanes
from stoker.feed.mixture_pattern import Turns

Words: TypeAlias = npt.NDArray[np.uint64]

ORDER_FORMAT: Final = 1
MIXTURE_ORDER_FORMAT: Final = 2
SHARD_ORDER_FORMAT: Final = 3
MAX_SAMPLES: Final = 2**62
MAX_MIXED_SAMPLES: Final = 2**50  # so that a weight of 1/1000 keeps the mixture's indices below 2^62
MAX_SHAPE: Final = 2**40  # of blocks, lanes and windows: keeps every product below 2^63
ROUNDS: Final = 8  # one 64-byte digest holds eight round keys
_PERSON: Final = b"stoker feed 1"


class Purpose(enum.IntEnum):
    """What a permutation is for; part of its key, so that no two uses share one."""

    BLOCKS = 1
    WINDOW = 2


@lru_cache(maxsize=8192)
def round_keys(seed: int, epoch: int, purpose: Purpose, lane: int = 0, window: int = 0) -> Words:
    """`ROUNDS` 64-bit keys: BLAKE2b over the five numbers, each as 8 little-endian bytes."""
    message = struct.pack("<5Q", seed, epoch, purpose, lane, window)
    digest = hashlib.blake2b(message, digest_size=8 * ROUNDS, person=_PERSON).digest()
    keys = np.frombuffer(digest, dtype="<u8").astype(np.uint64)
    keys.setflags(write=False)
    return keys


def permute(numbers: Integers, size: Integers | int, keys: Words) -> Integers:
    """The place of each number of [0, size) under the permutation of [0, size) that `keys` names.

    `size` is one size or one for each number; `keys` has shape [ROUNDS] or [ROUNDS, len(numbers)].
    """
    return _walk(numbers, size, keys, range(ROUNDS))


def unpermute(places: Integers, size: Integers | int, keys: Words) -> Integers:
    """The inverse of `permute`: the number that has each place."""
    return _walk(places, size, keys, range(ROUNDS - 1, -1, -1))


def _walk(start: Integers, size: Integers | int, keys: Words, rounds: range) -> Integers:
    """Apply the network until each value is below its size again.

    The network permutes [0, 2^bits) with 2^bits < 2·size, so this ends on every cycle, after two rounds of
    walking on average, and the result is a permutation of [0, size).
    """
    values = start.astype(np.uint64)
    sizes = np.broadcast_to(np.asarray(size, dtype=np.uint64), values.shape)
    assert (values < sizes).all(), "a value that is not below its size would be walked for ever"
    every_key = np.broadcast_to(keys.reshape(ROUNDS, -1), (ROUNDS, values.size))
    left_bits, right_bits = (
        np.broadcast_to(bits, values.shape) for bits in _halves(np.atleast_1d(np.asarray(size, np.uint64)))
    )
    values = _network(values, left_bits, right_bits, every_key, rounds)
    outside = np.flatnonzero(values >= sizes)
    while outside.size:
        values[outside] = _network(
            values[outside], left_bits[outside], right_bits[outside], every_key[:, outside], rounds
        )
        outside = outside[values[outside] >= sizes[outside]]
    return values.astype(np.int64)


def _halves(sizes: Words) -> tuple[Words, Words]:
    """The bits of the network's high and low half: together what `size - 1` needs, at least one."""
    last = sizes - np.uint64(1)
    bits = np.ones(sizes.shape, dtype=np.uint64)
    shift = 32
    rest = last.copy()
    while shift:  # a bit length by halving, exact where a floating-point logarithm is not
        high = rest >> np.uint64(shift)
        wide = high > 0
        bits[wide] += np.uint64(shift)
        rest = np.where(wide, high, rest)
        shift //= 2
    left = bits // np.uint64(2)
    return left, bits - left


def _network(values: Words, left_bits: Words, right_bits: Words, keys: Words, rounds: range) -> Words:
    """Each round XORs a keyed hash of one half into the other: its own inverse at any widths."""
    one = np.uint64(1)
    left_mask = (one << left_bits) - one
    right_mask = (one << right_bits) - one
    left = values >> right_bits
    right = values & right_mask
    for number in rounds:
        if number % 2 == 0:
            left ^= mix(right, keys[number]) & left_mask
        else:
            right ^= mix(left, keys[number]) & right_mask
    return (left << right_bits) | right


def mix(half: Words, key: Words) -> Words:
    """The finaliser of SplitMix64 over half + key: every output bit depends on every input bit."""
    mixed = half + key
    mixed ^= mixed >> np.uint64(30)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(27)
    mixed *= np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return mixed


@dataclass(frozen=True, slots=True)
class Placement:
    """Where each of a row of global indices leads; all arrays have the indices' shape.

    `block` and `offset` say which sample; `epoch`, `lane` and `window` say which window holds it.
    """

    epoch: Integers
    lane: Integers
    window: Integers
    block: Integers
    offset: Integers


@dataclass(frozen=True, slots=True)
class Line:
    """Every block of a split once, in the order of an epoch: units of `unit_blocks` are dealt, each whole.

    A sample's index in the line leads to the place of its block, counted along the line, and its row there.
    The unit that holds the split's end may be short; what stands behind it moves up by what it lacks.
    Arrays of one call have shapes that broadcast.
    """

    samples: int
    block_samples: int
    unit_blocks: int
    seed: int

    @property
    def units(self) -> int:
        """How many units there are, the short one included."""
        return -(-self.samples // self._unit_samples)

    def places(self, epoch: Integers, line: Integers) -> tuple[Integers, Integers]:
        """For each index of its epoch's line: the place of its block in the line, and its row there."""
        behind = line >= self._short_place(epoch) * self._unit_samples + self._short_samples
        lacking = self._unit_samples - self._short_samples
        place, offset = np.divmod(line + np.where(behind, lacking, 0), self.block_samples)
        return place - np.where(behind, self.unit_blocks - self._short_blocks, 0), offset

    def blocks_at(self, epoch: Integers, place: Integers) -> Integers:
        """The block at each place of its epoch's line."""
        behind = place >= self._short_place(epoch) * self.unit_blocks + self._short_blocks
        whole = place + np.where(behind, self.unit_blocks - self._short_blocks, 0)
        unit, within = np.divmod(whole, self.unit_blocks)
        return self.unit_blocks * permute(unit, self.units, self._keys(epoch)) + within

    def find(self, epoch: Integers, block: Integers, offset: Integers) -> Integers:
        """The inverse: where in its epoch's line each row of a block stands."""
        unit, within = np.divmod(block, self.unit_blocks)
        place = unpermute(unit, self.units, self._keys(epoch))
        lacking = self._unit_samples - self._short_samples
        moved = np.where(place > self._short_place(epoch), lacking, 0)
        line: Integers = place * self._unit_samples - moved + within * self.block_samples + offset
        return line

    @property
    def _unit_samples(self) -> int:
        return self.unit_blocks * self.block_samples

    @property
    def _short_samples(self) -> int:
        """The size of the last unit, the only one that may be short."""
        return self.samples - (self.units - 1) * self._unit_samples

    @property
    def _short_blocks(self) -> int:
        return -(-self._short_samples // self.block_samples)

    def _keys(self, epoch: Integers) -> Words:
        distinct, which = np.unique(epoch, return_inverse=True)
        keys = [round_keys(self.seed, each, Purpose.BLOCKS) for each in distinct.tolist()]
        return np.stack(keys, axis=1)[:, which]

    def _short_place(self, epoch: Integers) -> Integers:
        """Where in each epoch's line the short unit stands, counted in units."""
        distinct, which = np.unique(epoch, return_inverse=True)
        places = [_place_of_last(self.units, self.seed, each) for each in distinct.tolist()]
        return np.array(places, dtype=np.int64)[which]


@lru_cache(maxsize=256)
def _place_of_last(units: int, seed: int, epoch: int) -> int:
    last = np.array([units - 1], dtype=np.int64)
    return int(unpermute(last, units, round_keys(seed, epoch, Purpose.BLOCKS))[0])


WHOLE_SHARDS_FROM: Final = 16
"""Shards for each position of the global batch from which on they are dealt whole."""


def unit_of(shards: int, shard_blocks: int, lanes: int) -> int:
    """How many blocks are dealt together: a shard's where every lane gets many shards, else one.

    So a large dataset is read shard by shard, and a node needs a lane's shard only while the lane is in it.
    A part of the order's format: it follows from the dataset and the global batch.
    """
    return shard_blocks if shards >= WHOLE_SHARDS_FROM * lanes else 1


class Dealt(Protocol):
    """What the order must know of a split."""

    @property
    def samples(self) -> int:
        """How many there are."""
        ...

    @property
    def chunk_samples(self) -> int:
        """The samples of each block but the last."""
        ...

    @property
    def shard_chunks(self) -> int:
        """The blocks of each shard but the last."""
        ...


@dataclass(frozen=True, slots=True)
class Order:
    """The order of a split of `samples` in blocks of `block_samples` (the last may be short).

    `lanes` is the global batch; `window_blocks` is how many blocks a lane shuffles among each other. With
    `turns` the split is a part of a mixture: indices count the split's own samples, and each lies in the lane
    of the position of the global batch that those turns bring it to. Blocks are dealt in units of
    `unit_blocks`, which stay together: those of one shard where there are many shards, see `unit_of`.
    """

    samples: int
    block_samples: int
    lanes: int
    window_blocks: int
    seed: int
    turns: Turns | None = None
    unit_blocks: int = 1
    line: Line = field(init=False, repr=False, compare=False)
    _cut: Lanes = field(init=False, repr=False, compare=False)

    @classmethod
    def of(cls, split: Dealt, lanes: int, window_blocks: int, seed: int, turns: Turns | None = None) -> Order:
        """The order of a split for a global batch of `lanes`."""
        shards = -(-split.samples // (split.chunk_samples * split.shard_chunks))
        unit_blocks = unit_of(shards, split.shard_chunks, lanes)
        return cls(split.samples, split.chunk_samples, lanes, window_blocks, seed, turns, unit_blocks)

    def __post_init__(self) -> None:
        caps = {
            "samples": MAX_SAMPLES if self.turns is None else MAX_MIXED_SAMPLES,
            "block_samples": MAX_SHAPE,
            "lanes": MAX_SHAPE,
            "window_blocks": MAX_SHAPE,
            "unit_blocks": MAX_SHAPE,
        }
        for name, cap in caps.items():
            if not 1 <= getattr(self, name) <= cap:
                raise ValueError(f"{name} must be in [1, {cap}], not {getattr(self, name)}")
        if not 0 <= self.seed < 2**64:
            raise ValueError(f"seed must be in [0, 2^64), not {self.seed}")
        cut = (
            EvenLanes(self.samples, self.lanes)
            if self.turns is None
            else WeightedLanes(self.samples, self.lanes, self.turns)
        )
        line = Line(self.samples, self.block_samples, self.unit_blocks, self.seed)
        object.__setattr__(self, "_cut", cut)
        object.__setattr__(self, "line", line)

    @property
    def format(self) -> int:
        """Which order this is: of blocks dealt one by one, of a mixture's part, or of whole shards."""
        if self.turns is not None:
            return MIXTURE_ORDER_FORMAT
        return ORDER_FORMAT if self.unit_blocks == 1 else SHARD_ORDER_FORMAT

    @property
    def blocks(self) -> int:
        """How many blocks there are, the short one included."""
        return -(-self.samples // self.block_samples)

    @property
    def window_samples(self) -> int:
        """The length of a whole window; a lane that fits into one window is one window."""
        return min(self.window_blocks * self.block_samples, self._cut.longest)

    def locate(self, indices: Integers) -> tuple[Integers, Integers, Integers, Integers]:
        """The epoch, lane, row of the lane and window of each global index, without the permutations."""
        epoch, lane, row = self._cut.locate(indices)
        return epoch, lane, row, (row + self._phase(lane)) // self.window_samples

    def spans(self, epoch: Integers, lane: Integers, window: Integers) -> tuple[Integers, Integers, Integers]:
        """The half-open range of the lane's rows that each window covers, and where it begins in the line."""
        low, high = self._window_rows(epoch, lane, window)
        return low, high, self._cut.start(epoch, lane) + low

    def place(self, indices: Integers) -> Placement:
        """Where each global index leads. Index g is place g mod `samples` of epoch g div `samples`."""
        epoch, lane, row, window = self.locate(indices)
        low, high = self._window_rows(epoch, lane, window)
        keys = self._window_keys(epoch, lane, window)
        shuffled = low + permute(row - low, high - low, keys)
        place, offset = self.line.places(epoch, self._cut.start(epoch, lane) + shuffled)
        return Placement(epoch, lane, window, self.line.blocks_at(epoch, place), offset)

    def numbers(self, indices: Integers) -> Integers:
        """The number in the split of the sample at each global index."""
        placement = self.place(indices)
        return placement.block * self.block_samples + placement.offset

    def index_of(self, epoch: int, numbers: Integers) -> Integers:
        """The inverse of `numbers` within one epoch: the global index at which each sample is seen."""
        epochs = np.full(numbers.shape, epoch, dtype=np.int64)
        line = self.line.find(epochs, *np.divmod(numbers, self.block_samples))
        lane = self._cut.at(epochs, line)
        shuffled = line - self._cut.start(epochs, lane)
        window = (shuffled + self._phase(lane)) // self.window_samples
        low, high = self._window_rows(epochs, lane, window)
        row = low + unpermute(shuffled - low, high - low, self._window_keys(epochs, lane, window))
        return self._cut.index(epochs, lane, row)

    def blocks_of_window(self, epoch: int, lane: int, window: int) -> tuple[int, ...]:
        """The blocks that one window draws from, in line order: at most `window_blocks` + 2 of them."""
        epochs, lanes = np.array([epoch]), np.array([lane])
        low, high = self._window_rows(epochs, lanes, np.array([window]))
        start = int(self._cut.start(epochs, lanes)[0])
        ends = np.array([start + int(low[0]), start + int(high[0]) - 1])
        first, last = self.line.places(np.array([epoch, epoch]), ends)[0].tolist()
        between = np.arange(first, last + 1, dtype=np.int64)
        return tuple(self.line.blocks_at(np.full(between.shape, epoch), between).tolist())

    def _phase(self, lane: Integers) -> Integers:
        """How much of a lane's first window is cut off, so that lanes change windows at different steps."""
        if self.window_samples >= self._cut.longest:
            return np.zeros_like(lane)
        return lane * self.window_samples // self.lanes

    def _window_rows(self, epoch: Integers, lane: Integers, window: Integers) -> tuple[Integers, Integers]:
        """The half-open range of a lane's rows that a window covers."""
        low = window * self.window_samples - self._phase(lane)
        high = np.minimum(low + self.window_samples, self._cut.length(epoch, lane))
        return np.maximum(low, 0), high

    def _window_keys(self, epoch: Integers, lane: Integers, window: Integers) -> Words:
        windows = self._cut.longest // self.window_samples + 2
        name = ((epoch - epoch.min()) * self.lanes + lane) * windows + window
        _, first, which = np.unique(name, return_index=True, return_inverse=True)
        named = zip(epoch[first].tolist(), lane[first].tolist(), window[first].tolist(), strict=True)
        keys = [round_keys(self.seed, e, Purpose.WINDOW, n, w) for e, n, w in named]
        return np.stack(keys, axis=1)[:, which]
