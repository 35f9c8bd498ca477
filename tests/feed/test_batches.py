"""How many chunks a rank opens and holds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stoker.feed.batches import BatchReader
from stoker.feed.order import Order
from support.memory_samples import memory_dataset


def _opens_of_one_epoch(order: Order, world_size: int) -> tuple[int, list[int], int]:
    """Chunks opened in the first epoch by all ranks; by each step; and the most that one rank held."""
    split = memory_dataset(order.samples, order.block_samples).train
    rows = order.lanes // world_size
    ranks = [BatchReader(split, order, rank * rows, rows) for rank in range(world_size)]
    steps = order.samples // order.lanes
    by_step = []
    most = 0
    for step in range(steps):
        before = sum(rank.chunks_opened for rank in ranks)
        for rank in ranks:
            rank.read(step)
            most = max(most, rank.chunks_held)
        by_step.append(sum(rank.chunks_opened for rank in ranks) - before)
    return sum(by_step), by_step, most


@pytest.mark.parametrize("world_size", [1, 4, 16])
@pytest.mark.parametrize(("chunks_per_lane", "goal"), [(4, 1.25), (16, 1.0625), (40, 1.025)])
def test_read_amplification_is_at_most_what_the_design_page_says(
    world_size: int, chunks_per_lane: int, goal: float
) -> None:
    order = Order(samples=chunks_per_lane * 16 * 8, block_samples=8, lanes=16, window_blocks=4, seed=3)
    opens, _, _ = _opens_of_one_epoch(order, world_size)
    assert order.blocks <= opens
    assert opens / order.blocks <= goal


@given(
    rows=st.integers(1, 40),
    block_samples=st.integers(1, 30),
    lanes=st.sampled_from([1, 4, 12]),
    window_blocks=st.integers(1, 6),
    world_size=st.sampled_from([1, 2, 4]),
)
@settings(max_examples=60, deadline=None)
def test_opens_and_memory_stay_below_their_bounds_for_any_sizes(
    rows: int, block_samples: int, lanes: int, window_blocks: int, world_size: int
) -> None:
    order = Order(rows * lanes, block_samples, lanes, window_blocks, seed=1)
    if lanes % world_size:
        world_size = 1
    opens, _, most = _opens_of_one_epoch(order, world_size)
    assert opens <= order.blocks + order.lanes - 1
    assert most <= order.lanes // world_size * (window_blocks + 2)


def test_lanes_change_windows_at_different_steps() -> None:
    order = Order(samples=64 * 16 * 32, block_samples=32, lanes=16, window_blocks=4, seed=3)
    _, by_step, _ = _opens_of_one_epoch(order, 1)
    later = np.array(by_step[128:])
    assert later.sum() > 500
    assert later.max() <= 4  # of 16 lanes; all of them when they change together


def test_reading_any_step_first_gives_what_reading_in_order_gives() -> None:
    order = Order(samples=1000, block_samples=16, lanes=8, window_blocks=3, seed=2)
    split = memory_dataset(1000, 16).train
    ascending = BatchReader(split, order, 0, 8)
    batches = [ascending.read(step) for step in range(300)]
    jumping = BatchReader(split, order, 0, 8)
    for step in (299, 0, 100, 101, 30, 150, 149, 17):
        assert np.array_equal(jumping.read(step), batches[step])
