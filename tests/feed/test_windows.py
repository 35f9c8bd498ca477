"""Windows laid out whole: the order's own samples, for any sizes, with and without turns."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from stoker.feed.mixture_pattern import turns_of_parts, turns_of_weights
from stoker.feed.order import ROUNDS, Order, permute
from stoker.feed.windows import WindowName, Windows, whole_permutations


def _same_as_placed(order: Order, first: int, count: int) -> None:
    """Samples [first, first + count) are where `place` puts them, and blocks are `blocks_of_window`'s."""
    indices = np.arange(first, first + count, dtype=np.int64)
    placed = order.place(indices)
    epochs, lanes, rows, windows = (each.tolist() for each in order.locate(indices))
    names = [WindowName(*name) for name in zip(epochs, lanes, windows, strict=True)]
    distinct = list(dict.fromkeys(names))
    layouts = dict(zip(distinct, Windows(order).lay_out(distinct), strict=True))
    found = []
    for name, row in zip(names, rows, strict=True):
        layout = layouts[name]
        place = row - layout.first_row
        found.append((layout.blocks[layout.which[place]], int(layout.offsets[place])))
    assert found == list(zip(placed.block.tolist(), placed.offset.tolist(), strict=True))
    for name, layout in layouts.items():
        assert layout.blocks == order.blocks_of_window(name.epoch, name.lane, name.window)


@given(
    samples=st.integers(1, 400),
    block_samples=st.integers(1, 60),
    lanes=st.integers(1, 20),
    window_blocks=st.integers(1, 6),
    first=st.integers(0, 900),
    unit_blocks=st.integers(1, 5),
)
@settings(max_examples=60, deadline=None)
def test_a_window_holds_what_the_order_places_in_it(
    samples: int, block_samples: int, lanes: int, window_blocks: int, first: int, unit_blocks: int
) -> None:
    order = Order(samples, block_samples, lanes, window_blocks, seed=5, unit_blocks=unit_blocks)
    _same_as_placed(order, first, 300)


@given(weight=st.integers(1, 999), samples=st.integers(20, 400), first=st.integers(0, 500))
@settings(max_examples=15, deadline=None)
def test_a_window_of_a_mixtures_part_does_too(weight: int, samples: int, first: int) -> None:
    turns = turns_of_parts(turns_of_weights((weight / 1000, 1 - weight / 1000)))[0]
    _same_as_placed(Order(samples, 7, 12, 2, seed=5, turns=turns), first, 200)


@given(sizes=st.lists(st.integers(1, 3000), min_size=1, max_size=6), seed=st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_a_whole_permutation_is_the_permutation_of_every_number(sizes: list[int], seed: int) -> None:
    keys = np.random.default_rng(seed).integers(0, 2**64, (len(sizes), ROUNDS), dtype=np.uint64)
    for size, key, whole in zip(sizes, keys, whole_permutations(sizes, keys), strict=True):
        assert np.array_equal(whole, permute(np.arange(size), size, key))
        assert sorted(whole.tolist()) == list(range(size))
