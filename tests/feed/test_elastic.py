"""Elastic: another world size goes on exactly, and costs hardly more reading, whatever the sizes."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stoker.feed.errors import BadFeedState
from stoker.feed.feed import Feed
from stoker.feed.mixture import Mixture, MixturePart
from stoker.feed.order import Order
from stoker.feed.source import BatchSource, ReadSettings
from stoker.store.cache import NodeCache
from support.memory_samples import memory_dataset
from support.mixed_samples import MixedMemoryDataset, mixed_dataset
from support.sealed_dataset import sealed_dataset
from support.sealed_samples import MemoryKeys

GLOBAL_BATCH = 24
DIVISORS = (1, 2, 3, 4, 6, 8, 12, 24)


@dataclass(frozen=True)
class Shape:
    """A dataset and the order over it."""

    samples: int
    chunk_samples: int = 8
    window_chunks: int = 2


def _world(
    shape: Shape, steps: int, world_size: int = 1, state: dict[str, object] | None = None
) -> tuple[list[int], dict[str, object]]:
    """The next `steps` global batches of a world, put together in order of position, and its state then."""
    dataset = memory_dataset(shape.samples, shape.chunk_samples)
    shares, states = [], []
    for rank in range(world_size):
        with Feed(
            dataset,
            global_batch=GLOBAL_BATCH,
            seed=11,
            rank=rank,
            world_size=world_size,
            window_chunks=shape.window_chunks,
            prefetch_batches=1,
            read_threads=0,
        ) as feed:
            if state is not None:
                feed.load_state_dict(state)
            share = np.empty((steps, GLOBAL_BATCH // world_size), dtype=np.int64)
            for step in range(steps):
                share[step] = feed.next_array()[:, 0]
            shares.append(share)
            states.append(json.loads(json.dumps(feed.state_dict())))
    assert all(each == states[0] for each in states)
    return np.concatenate(shares, axis=1).reshape(-1).tolist(), states[0]


SHAPES = st.builds(
    Shape,
    samples=st.one_of(st.integers(1, 30), st.integers(1, 400)),
    chunk_samples=st.integers(1, 60),
    window_chunks=st.integers(1, 9),
)
WORLDS = st.lists(st.tuples(st.sampled_from(DIVISORS), st.integers(0, 9)), min_size=1, max_size=5)
EIGHT_THREE_ONE_SIX = [(8, 5), (3, 4), (1, 3), (6, 6)]


@given(shape=SHAPES, worlds=WORLDS)
@example(shape=Shape(1000), worlds=EIGHT_THREE_ONE_SIX)  # all within one epoch
@example(shape=Shape(100), worlds=EIGHT_THREE_ONE_SIX)  # four epochs, their ends inside batches and worlds
@example(shape=Shape(120), worlds=[(8, 5), (3, 5), (1, 5), (6, 5)])  # each world ends with an epoch
@example(shape=Shape(100, window_chunks=50), worlds=EIGHT_THREE_ONE_SIX)  # a window larger than the data
@example(shape=Shape(5, chunk_samples=3), worlds=EIGHT_THREE_ONE_SIX)  # fewer samples than a batch
@example(shape=Shape(1), worlds=EIGHT_THREE_ONE_SIX)
@example(shape=Shape(40, chunk_samples=64), worlds=EIGHT_THREE_ONE_SIX)  # one chunk
@example(shape=Shape(257, chunk_samples=64), worlds=EIGHT_THREE_ONE_SIX)  # a last chunk of one sample
@settings(max_examples=8, deadline=None)
def test_changing_the_world_size_changes_nothing_of_the_stream(
    shape: Shape, worlds: list[tuple[int, int]]
) -> None:
    together: list[int] = []
    state: dict[str, object] | None = None
    for world_size, steps in worlds:
        piece, state = _world(shape, steps, world_size, state)
        together += piece
    uninterrupted, last = _world(shape, len(together) // GLOBAL_BATCH)
    assert together == uninterrupted
    assert state == last
    for begin in range(0, len(together), shape.samples):
        epoch = together[begin : begin + shape.samples]
        assert len(set(epoch)) == len(epoch)
        assert len(epoch) < shape.samples or sorted(epoch) == list(range(shape.samples))


def test_a_state_of_blocks_dealt_one_by_one_does_not_go_on_where_whole_shards_are_dealt() -> None:
    """As an earlier version dealt every dataset: its states name another order."""
    dataset = memory_dataset(16 * 4 * 8 + 1, 1)
    dataset.train.shard_chunks = 8
    with Feed(dataset, global_batch=4, seed=11) as feed:
        state = feed.state_dict()
        assert state["format"] == 3
        with pytest.raises(BadFeedState, match="order format 1; here this dataset has 3"):
            feed.load_state_dict({**state, "format": 1})
    with Feed(dataset, global_batch=24, seed=11) as feed:
        assert feed.state_dict()["format"] == 1
        with pytest.raises(BadFeedState, match="global_batch is 4 in the state and 24 here"):
            feed.load_state_dict(state)


def _readers(order: Order, world_size: int) -> list[BatchSource[np.ndarray]]:
    rows = order.lanes // world_size
    return [
        memory_dataset(order.samples, order.block_samples).train.batches(
            order, rank * rows, rows, ReadSettings()
        )
        for rank in range(world_size)
    ]


def _opens(readers: list[BatchSource[np.ndarray]], steps: range) -> int:
    """The chunks that a world opens for some steps."""
    before = sum(reader.chunks_opened for reader in readers)
    for reader in readers:
        for step in steps:
            reader.read(step)
    return sum(reader.chunks_opened for reader in readers) - before


@pytest.mark.parametrize("world_size", DIVISORS)
@pytest.mark.parametrize(
    ("chunks", "spare", "goal"),
    [(4 * GLOBAL_BATCH, 0, 1.25), (4 * GLOBAL_BATCH + 7, 3, 1.25), (16 * GLOBAL_BATCH, 5, 1.0625)],
)
def test_no_world_size_opens_more_than_a_quarter_of_the_chunks_again(
    world_size: int, chunks: int, spare: int, goal: float
) -> None:
    """From four chunks a lane on; `spare` samples are missing from the last chunk."""
    order = Order(chunks * 8 - spare, 8, GLOBAL_BATCH, window_blocks=4, seed=3)
    assert order.blocks == chunks
    opens = _opens(_readers(order, world_size), range(order.samples // GLOBAL_BATCH))
    assert chunks - 1 <= opens
    assert opens / chunks <= goal


@given(
    shape=SHAPES,
    world_size=st.sampled_from(DIVISORS),
    epochs=st.integers(1, 3),
    seed=st.integers(0, 2**64 - 1),
)
@settings(max_examples=40, deadline=None)
def test_below_four_chunks_a_lane_the_bound_is_one_open_more_for_each_lane_but_one(
    shape: Shape, world_size: int, epochs: int, seed: int
) -> None:
    order = Order(shape.samples, shape.chunk_samples, GLOBAL_BATCH, shape.window_chunks, seed)
    opens = _opens(_readers(order, world_size), range(epochs * order.samples // GLOBAL_BATCH))
    assert opens <= epochs * (order.blocks + min(GLOBAL_BATCH, order.samples) - 1)


@given(
    shape=SHAPES,
    worlds=st.tuples(st.sampled_from(DIVISORS), st.sampled_from(DIVISORS)),
    stop=st.floats(0.0, 1.0),
)
@settings(max_examples=30, deadline=None)
def test_a_resume_opens_its_windows_again_and_no_more(
    shape: Shape, worlds: tuple[int, int], stop: float
) -> None:
    order = Order(shape.samples, shape.chunk_samples, GLOBAL_BATCH, shape.window_chunks, seed=3)
    steps = order.samples // GLOBAL_BATCH
    border = int(stop * steps)
    opens = _opens(_readers(order, worlds[0]), range(border))
    opens += _opens(_readers(order, worlds[1]), range(border, steps))
    bound = order.blocks + GLOBAL_BATCH - 1
    assert opens <= bound + GLOBAL_BATCH * (shape.window_chunks + 2)


@pytest.mark.parametrize("world_size", DIVISORS)
def test_parts_of_a_mixture_are_opened_as_rarely_as_alone(world_size: int) -> None:
    datasets = [mixed_dataset(0, 24 * 4 * 8), mixed_dataset(1, 24 * 4 * 4)]
    for rank in range(world_size):
        with Mixture(
            [MixturePart(datasets[0], 0.6), MixturePart(datasets[1], 0.4)],
            global_batch=GLOBAL_BATCH,
            seed=3,
            rank=rank,
            world_size=world_size,
            prefetch_batches=1,
            read_threads=0,  # so that no chunk is opened before a sample needs it
        ) as mixture:
            for _ in range(1280 // GLOBAL_BATCH - 2):  # with what is read ahead, an epoch of the larger
                mixture.next_array()
    assert _opened(datasets[0]) / 96 <= 1.25
    assert _opened(datasets[1]) <= 2 * (48 + GLOBAL_BATCH - 1)


def _opened(dataset: MixedMemoryDataset) -> int:
    return sum(dataset.train.opened.values())


@pytest.mark.parametrize("world_size", [1, 4, 24])
def test_ranks_of_a_node_bring_each_shard_from_the_store_once(tmp_path: Path, world_size: int) -> None:
    """Three shards of seven chunks, so most chunks are opened by several of the ranks, which run at once."""
    sealed = sealed_dataset(tmp_path / "store", MemoryKeys())
    caches = [NodeCache(tmp_path / "cache", sealed.store, 1 << 24) for _ in range(world_size)]
    seen: list[list[int]] = [[] for _ in caches]

    def read(rank: int) -> None:
        with Feed(
            sealed.open(cache=caches[rank]),
            global_batch=GLOBAL_BATCH,
            seed=1,
            rank=rank,
            world_size=world_size,
        ) as feed:
            for _ in range(800 // GLOBAL_BATCH + 1):
                seen[rank] += feed.next_array()[:, 0].tolist()

    ranks = [threading.Thread(target=read, args=(rank,)) for rank in range(world_size)]
    for thread in ranks:
        thread.start()
    for thread in ranks:
        thread.join()
    assert set().union(*seen) == set(range(800))
    shards = sum(sealed.shard_path(shard).stat().st_size for shard in range(3))
    assert sum(cache.counts().store_bytes for cache in caches) == shards
