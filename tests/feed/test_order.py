"""The order: a bijection whatever the sizes, a format that does not drift, a shuffle of known quality."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stoker.feed.mixture_pattern import Turns, turns_of_parts
from stoker.feed.order import Order, Purpose, permute, round_keys, unit_of, unpermute
from stoker.spec.mixture import nearest_turns

KNOWN_WHOLE_UNITS = [
    *(24, 0, 25, 2, 48, 1, 27, 47, 28, 4, 29, 3, 26, 6, 49, 5, 34, 8, 35, 7, 32, 9, 36, 10, 30),
    *(13, 33, 16, 37, 18, 31, 14, 42, 17, 43, 12, 40, 11, 41, 15, 38, 21, 45, 22, 39, 20, 44, 19, 46, 23),
]

SEEDS = st.integers(0, 2**64 - 1)


def test_permutation_is_a_bijection_for_every_small_size() -> None:
    for size in range(1, 301):
        for purpose in Purpose:
            keys = round_keys(7, 0, purpose, size)
            numbers = np.arange(size)
            places = permute(numbers, size, keys)
            assert np.array_equal(np.sort(places), numbers)
            assert np.array_equal(unpermute(places, size, keys), numbers)


@given(size=st.integers(1, 2**62), seed=SEEDS, data=st.data())
@settings(max_examples=80, deadline=None)
def test_permutation_of_a_large_size_is_inverted(size: int, seed: int, data: st.DataObject) -> None:
    some = st.lists(st.integers(0, size - 1), min_size=1, max_size=30, unique=True)
    numbers = np.array([0, size - 1, *data.draw(some)])
    keys = round_keys(seed, 3, Purpose.BLOCKS)
    places = permute(numbers, size, keys)
    assert ((places >= 0) & (places < size)).all()
    assert len(np.unique(places)) == len(np.unique(numbers))
    assert np.array_equal(unpermute(places, size, keys), numbers)


@given(sizes=st.lists(st.integers(1, 2**62), min_size=1, max_size=20), seed=SEEDS)
@settings(max_examples=50, deadline=None)
def test_many_permutations_at_once_equal_one_by_one(sizes: list[int], seed: int) -> None:
    numbers = np.array([size // 2 for size in sizes])
    keys = [round_keys(seed, 0, Purpose.WINDOW, lane) for lane in range(len(sizes))]
    together = permute(numbers, np.array(sizes), np.stack(keys, axis=1))
    alone = [int(permute(numbers[i : i + 1], size, keys[i])[0]) for i, size in enumerate(sizes)]
    assert together.tolist() == alone


def test_round_keys_differ_with_each_of_their_inputs() -> None:
    inputs = [
        (1, 2, Purpose.BLOCKS, 3, 4),
        (9, 2, Purpose.BLOCKS, 3, 4),
        (1, 9, Purpose.BLOCKS, 3, 4),
        (1, 2, Purpose.WINDOW, 3, 4),
        (1, 2, Purpose.BLOCKS, 9, 4),
        (1, 2, Purpose.BLOCKS, 3, 9),
    ]
    assert len({round_keys(*each).tobytes() for each in inputs}) == len(inputs)


def test_every_place_of_a_small_permutation_is_equally_likely() -> None:
    size, keys = 5, 2000
    counts = np.zeros((size, size), dtype=np.int64)
    for seed in range(keys):
        counts[np.arange(size), permute(np.arange(size), size, round_keys(seed, 0, Purpose.BLOCKS))] += 1
    expected = keys / size
    chi_squared = ((counts - expected) ** 2 / expected).sum()
    assert chi_squared < 50  # 16 degrees of freedom: the 99.99 % point is 44.9; the seeds are fixed


TURNS = st.lists(st.floats(1e-3, 1.0), min_size=1, max_size=4).flatmap(
    lambda raw: st.sampled_from(turns_of_parts(nearest_turns(tuple(raw))))
)
ORDERS = st.builds(
    Order,
    samples=st.integers(1, 400),
    block_samples=st.integers(1, 60),
    lanes=st.one_of(st.integers(1, 40), st.sampled_from([250, 1000, 1001, 1536])),
    window_blocks=st.integers(1, 9),
    seed=SEEDS,
    turns=st.one_of(st.none(), TURNS),
    unit_blocks=st.integers(1, 12),
)


@given(order=ORDERS, epoch=st.integers(0, 5))
@settings(max_examples=150, deadline=None)
def test_an_epoch_visits_each_sample_once_and_can_be_inverted(order: Order, epoch: int) -> None:
    indices = epoch * order.samples + np.arange(order.samples)
    numbers = order.numbers(indices)
    assert np.array_equal(np.sort(numbers), np.arange(order.samples))
    assert np.array_equal(order.index_of(epoch, numbers), indices)


@given(order=ORDERS.filter(lambda order: order.lanes <= 40), epoch=st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_a_window_names_the_blocks_it_draws_from_and_no_more_than_its_bound(order: Order, epoch: int) -> None:
    placement = order.place(epoch * order.samples + np.arange(order.samples))
    drawn: dict[tuple[int, int], set[int]] = {}
    for lane, window, block in zip(
        placement.lane.tolist(), placement.window.tolist(), placement.block.tolist(), strict=True
    ):
        drawn.setdefault((lane, window), set()).add(block)
    for (lane, window), blocks in drawn.items():
        named = order.blocks_of_window(epoch, lane, window)
        assert set(named) == blocks
        assert len(named) == len(blocks) <= order.window_blocks + 2


@given(order=ORDERS)
@settings(max_examples=100, deadline=None)
def test_lanes_share_a_block_only_at_their_borders(order: Order) -> None:
    placement = order.place(np.arange(order.samples))
    pairs = set(zip(placement.lane.tolist(), placement.block.tolist(), strict=True))
    assert len(pairs) <= order.blocks + min(order.lanes, order.samples) - 1


@given(order=ORDERS.filter(lambda order: order.lanes <= 40), epoch=st.integers(0, 3))
@settings(max_examples=30, deadline=None)
def test_units_are_dealt_whole(order: Order, epoch: int) -> None:
    """Along the lanes, blocks come unit after unit: a unit is left once, but where two lanes share it."""
    units = []
    placed = order.place(epoch * order.samples + np.arange(order.samples))
    for lane in range(order.lanes):
        windows = sorted(set(placed.window[placed.lane == lane].tolist()))
        blocks = [each for window in windows for each in order.blocks_of_window(epoch, lane, window)]
        units += [block // order.unit_blocks for block in blocks]
    changes = [unit for unit, before in zip(units, [-1, *units], strict=False) if unit != before]
    assert len(changes) == order.line.units
    assert set(changes) == set(range(order.line.units))


def test_shards_are_dealt_whole_where_every_lane_gets_many() -> None:
    assert unit_of(shards=15, shard_blocks=256, lanes=1) == 1
    assert unit_of(shards=16, shard_blocks=256, lanes=1) == 256
    assert unit_of(shards=16 * 64 - 1, shard_blocks=256, lanes=64) == 1
    assert unit_of(shards=16 * 64, shard_blocks=256, lanes=64) == 256


def test_dealing_shards_whole_gives_known_answers() -> None:
    order = Order(samples=50, block_samples=4, lanes=2, window_blocks=2, seed=42, unit_blocks=3)
    assert order.numbers(np.arange(50)).tolist() == KNOWN_WHOLE_UNITS


def test_a_placement_does_not_depend_on_what_is_asked_with_it() -> None:
    order = Order(samples=1003, block_samples=16, lanes=12, window_blocks=3, seed=5)
    indices = np.arange(3 * 1003)
    whole = order.numbers(indices)
    assert np.array_equal(whole[500:2000:7], order.numbers(indices[500:2000:7]))
    assert whole[1234] == order.numbers(np.array([1234]))[0]


def test_epochs_and_seeds_give_other_orders() -> None:
    order = Order(samples=500, block_samples=10, lanes=8, window_blocks=2, seed=1)
    other = Order(samples=500, block_samples=10, lanes=8, window_blocks=2, seed=2)
    first = order.numbers(np.arange(500))
    assert (first != order.numbers(500 + np.arange(500))).mean() > 0.9
    assert (first != other.numbers(np.arange(500))).mean() > 0.9


@pytest.mark.parametrize(
    ("samples", "turns"), [(2**62, None), (2**50, Turns((7,))), (2**50, Turns(tuple(range(1, 1000))))]
)
def test_an_exabyte_of_samples_is_placed_as_easily_as_a_few(samples: int, turns: Turns | None) -> None:
    order = Order(samples, block_samples=255, lanes=16384, window_blocks=4, seed=3, turns=turns)
    indices = np.array([0, 1, 2**40, samples // 2 + 12345, samples - 1])
    numbers = order.numbers(indices)
    assert len(set(numbers.tolist())) == len(indices)
    assert np.array_equal(order.index_of(0, numbers), indices)
    again = order.numbers(samples + indices)
    assert not np.array_equal(again, numbers)
    assert np.array_equal(order.index_of(1, again), samples + indices)


@given(order=ORDERS)
@settings(max_examples=100, deadline=None)
def test_a_position_draws_from_its_own_lane_and_rows_follow_each_other(order: Order) -> None:
    """So a rank, which has the same positions at every step, needs no other lane, whatever the world size."""
    if order.turns is None:
        indices = np.arange(order.samples)  # within an epoch: the next one's lanes may have moved on
        position = indices % order.lanes
    else:
        indices = np.arange(3 * order.samples)
        position = order.turns.mixture_index(indices) % order.lanes
    placement = order.place(indices)
    assert np.array_equal(placement.lane, position)
    seen: dict[tuple[int, int], int] = {}
    windows = zip(placement.epoch.tolist(), placement.lane.tolist(), placement.window.tolist(), strict=True)
    for epoch, lane, window in windows:
        assert seen.get((epoch, lane), 0) <= window <= seen.get((epoch, lane), 0) + 1
        seen[epoch, lane] = window


def _place_by_the_page(number: int, size: int, seed: int, numbers: tuple[int, int, int, int]) -> int:
    """docs/design/feed.md's permutation, written again in plain integers."""
    message = b"".join(value.to_bytes(8, "little") for value in (seed, *numbers))
    digest = hashlib.blake2b(message, digest_size=64, person=b"stoker feed 1").digest()
    keys = [int.from_bytes(digest[8 * i : 8 * i + 8], "little") for i in range(8)]
    bits = max(1, (size - 1).bit_length())
    low_bits = bits - bits // 2
    while True:
        halves = [number >> low_bits, number & (2**low_bits - 1)]
        for turn, key in enumerate(keys):
            mixed = (halves[1 - turn % 2] + key) % 2**64
            mixed = ((mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9) % 2**64
            mixed = ((mixed ^ mixed >> 27) * 0x94D049BB133111EB) % 2**64
            mixed ^= mixed >> 31
            halves[turn % 2] ^= mixed % 2 ** (low_bits if turn % 2 else bits // 2)
        number = halves[0] << low_bits | halves[1]
        if number < size:
            return number


@given(size=st.integers(1, 2**62), seed=SEEDS, epoch=st.integers(0, 2**40), data=st.data())
@settings(max_examples=60, deadline=None)
def test_permutation_is_the_one_of_the_design_page(
    size: int, seed: int, epoch: int, data: st.DataObject
) -> None:
    number = data.draw(st.integers(0, size - 1))
    keys = round_keys(seed, epoch, Purpose.WINDOW, 5, 6)
    expected = _place_by_the_page(number, size, seed, (epoch, 2, 5, 6))
    assert permute(np.array([number]), size, keys).tolist() == [expected]


def _epoch_by_the_page(order: Order, epoch: int) -> list[int]:
    """The samples of one epoch as docs/design/feed.md has them, in plain integers and lists."""
    samples, size, lanes = order.samples, order.block_samples, order.lanes
    together = order.unit_blocks * size
    units = -(-samples // together)
    line: list[int] = []
    for place in range(units):
        unit = _place_by_the_page(place, units, order.seed, (epoch, 1, 0, 0))
        line += range(unit * together, min((unit + 1) * together, samples))
    if order.turns is None:
        positions = [place % lanes for place in range(samples)]
        longest = -(-samples // lanes)
    else:
        turns = order.turns.places
        drawn = range(epoch * samples, (epoch + 1) * samples)
        positions = [(n // len(turns) * 1000 + turns[n % len(turns)]) % lanes for n in drawn]
        steps = -(-(-(-samples // len(turns)) * 1000) // lanes)
        uses = set(turns)
        most = [sum((first + lanes * step) % 1000 in uses for step in range(steps)) for first in range(1000)]
        longest = min(max(most), samples)
    width = min(order.window_blocks * size, longest)
    begins = [sum(other < lane for other in positions) for lane in range(lanes)]
    rows = [0] * lanes
    numbers = []
    for lane in positions:
        phase = 0 if width >= longest else lane * width // lanes
        window = (rows[lane] + phase) // width
        low = max(0, window * width - phase)
        high = min((window + 1) * width - phase, positions.count(lane))
        moved = _place_by_the_page(rows[lane] - low, high - low, order.seed, (epoch, 2, lane, window))
        numbers.append(line[begins[lane] + low + moved])
        rows[lane] += 1
    return numbers


@given(order=ORDERS.filter(lambda order: order.samples * order.lanes < 6_000), epoch=st.integers(0, 9))
@settings(max_examples=25, deadline=None)
def test_an_epoch_is_the_one_of_the_design_page(order: Order, epoch: int) -> None:
    indices = epoch * order.samples + np.arange(order.samples)
    assert order.numbers(indices).tolist() == _epoch_by_the_page(order, epoch)


def test_the_order_of_a_mixtures_part_is_a_format_and_does_not_drift() -> None:
    turns = turns_of_parts((700, 200, 100))[1]
    order = Order(samples=50, block_samples=8, lanes=4, window_blocks=2, seed=42, turns=turns)
    assert order.numbers(np.arange(12)).tolist() == [46, 34, 16, 41, 8, 32, 35, 47, 44, 38, 20, 43]
    assert order.numbers(np.arange(50, 62)).tolist() == [42, 32, 35, 4, 41, 37, 49, 0, 46, 33, 34, 7]


def test_the_order_is_a_format_and_does_not_drift() -> None:
    assert permute(np.arange(10), 10, round_keys(1, 2, Purpose.BLOCKS)).tolist() == [
        2,
        3,
        7,
        6,
        4,
        0,
        5,
        9,
        1,
        8,
    ]
    order = Order(samples=50, block_samples=8, lanes=4, window_blocks=2, seed=42)
    assert order.numbers(np.arange(12)).tolist() == [34, 24, 45, 6, 16, 22, 42, 2, 32, 40, 9, 5]
    assert order.numbers(np.arange(50, 62)).tolist() == [42, 7, 9, 26, 4, 49, 11, 29, 41, 17, 35, 31]


@pytest.mark.parametrize("name", ["samples", "block_samples", "lanes", "window_blocks"])
def test_an_order_of_nothing_is_refused(name: str) -> None:
    whole = Order(samples=10, block_samples=2, lanes=2, window_blocks=2, seed=0)
    with pytest.raises(ValueError, match=name):
        dataclasses.replace(whole, **{name: 0})  # type: ignore[arg-type]  # the names are of sizes


def _mean_per_step(order: Order, levels: np.ndarray) -> np.ndarray:
    """The mean of a property that whole blocks share over what each global batch draws of one epoch.

    A step that draws nothing of this part of a mixture is left out.
    """
    indices = np.arange(order.samples)
    drawn = indices if order.turns is None else order.turns.mixture_index(indices)
    steps = drawn // order.lanes
    values = levels[order.numbers(indices) // order.block_samples]
    sums, counts = np.bincount(steps, values), np.bincount(steps)
    return sums[counts > 0] / counts[counts > 0]


def _neighbours(series: np.ndarray) -> float:
    """The correlation of each value with the next."""
    centred = series - series.mean()
    return float((centred[1:] * centred[:-1]).mean() / centred.var())


@pytest.mark.parametrize("window_blocks", [1, 4, 16])
def test_shuffle_quality_is_what_the_design_page_says(window_blocks: int) -> None:
    """Batches mix blocks as a true shuffle does; neighbouring batches correlate by about 1/window_blocks."""
    order = Order(samples=64 * 64 * 16, block_samples=64, lanes=16, window_blocks=window_blocks, seed=9)
    levels = np.random.default_rng(0).normal(size=order.blocks)
    ours = _mean_per_step(order, levels)
    assert ours.var() * order.lanes == pytest.approx(levels.var(), rel=0.15)
    assert _neighbours(ours) == pytest.approx((window_blocks - 1 / 3) / window_blocks**2, abs=0.06)


@pytest.mark.parametrize("window_blocks", [1, 4, 16])
def test_a_mixtures_part_is_shuffled_as_well_as_a_dataset_alone(window_blocks: int) -> None:
    """A quarter of each batch of 64, and so as many samples of the part a step as above."""
    turns = turns_of_parts((250, 750))[0]
    order = Order(64 * 64 * 16, 64, lanes=64, window_blocks=window_blocks, seed=9, turns=turns)
    levels = np.random.default_rng(0).normal(size=order.blocks)
    ours = _mean_per_step(order, levels)
    assert ours.var() * 16 == pytest.approx(levels.var(), rel=0.15)
    assert _neighbours(ours) <= (window_blocks - 1 / 3) / window_blocks**2 + 0.06


@pytest.mark.parametrize("turns", [None, turns_of_parts((300, 700))[0]])
def test_an_epoch_says_nothing_of_the_next(turns: Turns | None) -> None:
    """Ranks of the same samples in two epochs do not correlate, and few samples keep their neighbours."""
    order = Order(64 * 64 * 4, 64, lanes=16, window_blocks=4, seed=3, turns=turns)
    numbers = np.arange(order.samples)
    first, second = (order.index_of(epoch, numbers) - epoch * order.samples for epoch in (0, 1))
    assert abs(np.corrcoef(first, second)[0, 1]) < 4 / np.sqrt(order.blocks)
    pairs = [
        set(zip(seen[:-1].tolist(), seen[1:].tolist(), strict=True))
        for seen in (order.numbers(epoch * order.samples + numbers) for epoch in (0, 1))
    ]
    assert len(pairs[0] & pairs[1]) < order.samples / 1000
