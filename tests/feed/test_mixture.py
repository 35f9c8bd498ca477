"""A mixture: exact weights over any 1,000 samples, each part whole in its epochs, at any world size."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.distributed.checkpoint.stateful import Stateful

from stoker.core.errors import StokerError
from stoker.feed.errors import BadFeedState, BadMixture, BadWorldSize, EmptySplit, FeedStopped
from stoker.feed.feed import Feed
from stoker.feed.mixture import Mixture, MixturePart, part_seed
from stoker.feed.mixture_pattern import pattern_of_turns, turns_of_parts
from stoker.feed.order import Order
from stoker.spec.mixture import nearest_turns
from support.memory_samples import memory_dataset
from support.mixed_samples import BASE, MixedMemoryDataset, mixed_dataset

Stream = np.ndarray
"""The first token of each sample of the global stream: part · BASE + number."""


class BrokenChunk(StokerError):
    """Stands for what the store raises for a chunk that was changed."""

    exit_code = 199


@dataclasses.dataclass(frozen=True)
class Shape:
    """A mixture but for its rank and world size."""

    sizes: tuple[int, ...]
    thousandths: tuple[int, ...]
    global_batch: int = 24
    chunk_samples: int = 8
    window_chunks: int = 2

    def datasets(self) -> list[MixedMemoryDataset]:
        return [mixed_dataset(number, size, self.chunk_samples) for number, size in enumerate(self.sizes)]

    def mixture(
        self,
        datasets: Sequence[MixedMemoryDataset] = (),
        rank: int = 0,
        world_size: int = 1,
        read_threads: int = 0,
    ) -> Mixture:
        return Mixture(
            [
                MixturePart(dataset, count / 1000)
                for dataset, count in zip(datasets or self.datasets(), self.thousandths, strict=True)
            ],
            global_batch=self.global_batch,
            seed=11,
            rank=rank,
            world_size=world_size,
            window_chunks=self.window_chunks,
            prefetch_batches=1,
            read_threads=read_threads,
        )


def _world(
    shape: Shape, steps: int, world_size: int = 1, state: dict[str, object] | None = None
) -> tuple[Stream, dict[str, object]]:
    """The next `steps` global batches of a world, put together in order of position, and its state then."""
    shares, states = [], []
    datasets = shape.datasets()
    for rank in range(world_size):
        with shape.mixture(datasets, rank, world_size) as mixture:
            if state is not None:
                mixture.load_state_dict(state)
            rows = shape.global_batch // world_size
            share = [mixture.next_array()[:, 0] for _ in range(steps)]
            shares.append(np.stack(share) if share else np.empty((0, rows), dtype=np.int64))
            states.append(json.loads(json.dumps(mixture.state_dict())))
    assert all(each == states[0] for each in states)
    return np.concatenate(shares, axis=1).reshape(-1), states[0]


def _assert_epochs_are_permutations(shape: Shape, stream: Stream) -> None:
    """Each part's samples come once in each of its epochs, as far as the stream goes."""
    for part, size in enumerate(shape.sizes):
        numbers = stream[stream // BASE == part] - part * BASE
        for begin in range(0, len(numbers), size):
            epoch = np.sort(numbers[begin : begin + size])
            if len(epoch) == size:
                assert np.array_equal(epoch, np.arange(size))
            else:
                assert len(np.unique(epoch)) == len(epoch)
                assert epoch.max() < size


@st.composite
def shapes(draw: st.DrawFn) -> Shape:
    sizes = draw(
        st.lists(
            st.one_of(st.integers(1, 9), st.integers(30, 300), st.integers(30, 300)), min_size=1, max_size=4
        )
    )
    raw = draw(st.lists(st.floats(1e-3, 1.0), min_size=len(sizes), max_size=len(sizes)))
    return Shape(
        tuple(sizes),
        nearest_turns(tuple(raw)),
        global_batch=draw(st.sampled_from([1, 7, 24, 25, 40])),
        chunk_samples=draw(st.integers(1, 40)),
        window_chunks=draw(st.integers(1, 5)),
    )


@given(shape=shapes(), skipped=st.integers(0, 5000), data=st.data())
@settings(max_examples=4, deadline=None)
def test_any_1000_consecutive_samples_hold_exactly_the_weights(
    shape: Shape, skipped: int, data: st.DataObject
) -> None:
    state = {**shape.mixture().state_dict(), "consumed": skipped * shape.global_batch}
    stream, _ = _world(shape, -(-1300 // shape.global_batch), state=state)
    begin = data.draw(st.integers(0, len(stream) - 1000))
    counts = np.bincount(stream[begin : begin + 1000] // BASE, minlength=len(shape.sizes))
    assert counts.tolist() == list(shape.thousandths)


@given(shape=shapes())
@example(shape=Shape((1, 2, 200), (1, 499, 500)))
@example(shape=Shape((50,), (1000,)))
@example(shape=Shape((3, 400), (999, 1), window_chunks=5))
@example(shape=Shape((5, 90), (100, 900), global_batch=1000))
@settings(max_examples=4, deadline=None)
def test_each_part_is_whole_in_each_of_its_epochs(shape: Shape) -> None:
    stream, _ = _world(shape, -(-1200 // shape.global_batch))
    _assert_epochs_are_permutations(shape, stream)


def test_epochs_of_a_part_differ_and_so_do_parts_of_one_size() -> None:
    stream, _ = _world(Shape((100, 100), (500, 500)), 25)
    first, second = (stream[stream // BASE == part] % BASE for part in (0, 1))
    assert (first[:100] != first[100:200]).mean() > 0.9
    assert (first[:100] != second[:100]).mean() > 0.9
    assert part_seed(11, 0) != part_seed(11, 1) != part_seed(12, 1)


DIVISORS = (1, 2, 3, 4, 6, 8, 12, 24)


@given(shape=shapes(), worlds=st.lists(st.tuples(st.sampled_from(DIVISORS), st.integers(0, 9)), max_size=5))
@example(shape=Shape((90, 37, 5), (700, 299, 1)), worlds=[(8, 5), (3, 4), (1, 3), (6, 6)])
@example(shape=Shape((1, 3), (500, 500), window_chunks=9), worlds=[(8, 1), (3, 1), (1, 1), (6, 1)])
@settings(max_examples=4, deadline=None)
def test_changing_the_world_size_changes_nothing_of_the_stream(
    shape: Shape, worlds: list[tuple[int, int]]
) -> None:
    shape = dataclasses.replace(shape, global_batch=24)
    pieces = []
    state: dict[str, object] | None = None
    for world_size, steps in worlds:
        piece, state = _world(shape, steps, world_size, state)
        pieces.append(piece)
    together = np.concatenate([np.empty(0, dtype=np.int64), *pieces])
    uninterrupted, last = _world(shape, len(together) // 24)
    assert np.array_equal(together, uninterrupted)
    assert state is None or state == last
    _assert_epochs_are_permutations(shape, together)


def test_a_state_is_as_small_as_one_feeds_and_says_nothing_of_ranks() -> None:
    shape = Shape((90, 37), (750, 250), global_batch=8)
    with shape.mixture(rank=1, world_size=2) as mixture:
        for _ in range(9):
            mixture.next_array()
        assert mixture.state_dict() == {
            "format": 2,
            "parts": [
                {"root": f"{0:064x}", "split": "train", "thousandths": 750},
                {"root": f"{1:064x}", "split": "train", "thousandths": 250},
            ],
            "seed": 11,
            "global_batch": 8,
            "window_chunks": 2,
            "consumed": 72,
        }
        assert mixture.drawn == (54, 18)
        assert mixture.epochs == (0, 0)
        assert isinstance(mixture, Stateful)


def test_the_stream_is_a_format_and_does_not_drift() -> None:
    stream, _ = _world(Shape((50, 30), (700, 300), global_batch=4), 3)
    assert [(each // BASE, each % BASE) for each in stream.tolist()] == [
        (0, 29), (1, 18), (0, 6), (0, 10),
        (0, 25), (1, 6), (0, 4), (0, 8),
        (1, 4), (0, 47), (0, 3), (1, 15),
    ]  # fmt: skip


@given(shape=shapes())
@settings(max_examples=4, deadline=None)
def test_the_stream_is_each_parts_own_order_in_turn(shape: Shape) -> None:
    """As docs/design/feed.md builds it, counting instead of computing; the order has its own such test."""
    stream, _ = _world(shape, -(-1100 // shape.global_batch))
    pattern = pattern_of_turns(shape.thousandths).tolist()
    drawn = [0] * len(shape.sizes)
    for index, seen in enumerate(stream.tolist()):
        part = pattern[index % 1000]
        drawn[part] += 1
        assert seen // BASE == part
    for part, turns in enumerate(turns_of_parts(shape.thousandths)):
        order = Order(
            samples=shape.sizes[part],
            block_samples=shape.chunk_samples,
            lanes=shape.global_batch,
            window_blocks=shape.window_chunks,
            seed=part_seed(11, part),
            turns=turns,
        )
        if drawn[part]:
            expected = order.numbers(np.arange(drawn[part]))
            assert np.array_equal(stream[stream // BASE == part] % BASE, expected)


def test_rows_say_which_part_they_came_from() -> None:
    shape = Shape((90, 37, 5), (700, 299, 1))
    with shape.mixture(rank=2, world_size=3) as mixture:
        assert mixture.sources.shape == (0,)
        for _ in range(30):
            batch = mixture.next_array()
            assert mixture.sources.dtype == np.int16
            assert np.array_equal(mixture.sources, batch[:, 0] // BASE)


def test_batches_are_int64_tensors_of_this_ranks_share() -> None:
    shape = Shape((90, 37), (500, 500))
    with shape.mixture(rank=1, world_size=4) as mixture:
        batch = next(iter(mixture))
        assert isinstance(batch, torch.Tensor)
        assert batch.dtype == torch.int64
        assert tuple(batch.shape) == (6, 3)
        assert torch.equal(batch[:, 1:], batch[:, :-1] + 1)
        assert mixture.chunks_held > 0


@pytest.mark.parametrize("read_threads", [0, 3])
@pytest.mark.parametrize("dtype", ["int64", "stored"])
@pytest.mark.parametrize("reuse_batches", [False, True])
def test_how_it_is_read_changes_no_sample(read_threads: int, dtype: str, reuse_batches: bool) -> None:
    shape = Shape((90, 37, 5), (600, 300, 100))
    stream, _ = _world(shape, 70)
    with Mixture(
        [
            MixturePart(each, count / 1000)
            for each, count in zip(shape.datasets(), shape.thousandths, strict=True)
        ],
        global_batch=24,
        seed=11,
        window_chunks=2,
        dtype=dtype,
        read_threads=read_threads,
        reuse_batches=reuse_batches,
    ) as mixture:
        for step in range(70):
            batch = mixture.next_array()
            assert batch.dtype == (np.int64 if dtype == "int64" else np.uint32)
            assert np.array_equal(batch[:, 0], stream[24 * step : 24 * (step + 1)])
            assert np.array_equal(batch, batch[:, :1] + np.arange(3, dtype=batch.dtype))


def test_reading_may_go_on_from_any_step_and_again_after_a_state_was_loaded() -> None:
    shape = Shape((90, 37, 5), (600, 300, 100), global_batch=8)
    stream, _ = _world(shape, 60)
    with shape.mixture() as mixture:
        for step in (50, 0, 1, 17, 16, 40, 2):
            mixture.load_state_dict({**mixture.state_dict(), "consumed": step * 8})
            for ahead in range(3):
                expected = stream[8 * (step + ahead) : 8 * (step + ahead + 1)]
                assert np.array_equal(mixture.next_array()[:, 0], expected)


def test_every_part_is_wiped_when_a_mixture_is_closed_or_fails() -> None:
    shape = Shape((90, 90), (500, 500), global_batch=4)
    datasets = shape.datasets()
    with shape.mixture(datasets) as mixture:
        for _ in range(30):
            mixture.next_array()
    for dataset in datasets:
        assert dataset.train.rooms
        assert not any(any(room) for room in dataset.train.rooms)
        assert dataset.train.wipes >= 1
    with pytest.raises(FeedStopped, match="closed"):
        mixture.next_array()


@pytest.mark.parametrize("read_threads", [0, 3])
def test_an_error_of_one_part_stops_the_mixture_at_the_step_that_needs_it(read_threads: int) -> None:
    shape = Shape((90, 90), (500, 500), global_batch=4)
    stream, _ = _world(shape, 60)
    broken = int(stream[stream >= BASE][-1] % BASE) // 8
    reached = np.flatnonzero((stream >= BASE) & (stream % BASE // 8 == broken))[0] // 4
    datasets = shape.datasets()
    datasets[1].train.failing[broken] = BrokenChunk("Shard 3, chunk 7 was changed.")
    with shape.mixture(datasets, read_threads=read_threads) as mixture:
        read = [mixture.next_array()[:, 0] for _ in range(reached)]
        assert np.array_equal(np.concatenate([*read, []]), stream[: 4 * reached])
        with pytest.raises(BrokenChunk, match="Shard 3, chunk 7"):
            mixture.next_array()
    assert not any(any(room) for dataset in datasets for room in dataset.train.rooms)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"format": 1}, "order format 1; mixtures of this version have 2"),
        ({"seed": 6}, "seed is 6 in the state and 11 here"),
        ({"global_batch": 12}, "global_batch is 12"),
        ({"parts": []}, "there are 0 parts in the state and 2 here"),
        (
            {"parts": [{"root": "ab" * 32, "split": "train", "thousandths": 700}] * 2},
            r"part 0's root is abab.*part 0's thousandths is 700 in the state and 500 here; part 1's root",
        ),
        ({"parts": [{"root": "x", "split": "y"}]}, "part 0 has not the fields root, split, thousandths"),
        ({"parts": [{"root": 1, "split": "y", "thousandths": 1}]}, "part 0's root or split is not text"),
        ({"parts": [{"root": "x", "split": "y", "thousandths": -1}]}, "part 0's 'thousandths' is not"),
        ({"parts": 3}, "'parts' is no list"),
        ({"consumed": 9}, "contradicts itself"),
        ({"consumed": -24}, "'consumed' is not a whole number"),
        ({"world_size": 2}, "'world_size' is unknown"),
    ],
)
def test_a_state_that_does_not_fit_is_refused(change: dict[str, object], named: str) -> None:
    shape = Shape((90, 37), (500, 500))
    with shape.mixture() as mixture:
        with pytest.raises(BadFeedState, match=named):
            mixture.load_state_dict({**mixture.state_dict(), **change})
        assert mixture.consumed == 0


def test_the_state_of_a_feed_is_none_of_a_mixture_nor_the_other_way_round() -> None:
    shape = Shape((90, 37), (500, 500))
    with shape.mixture() as mixture, Feed(memory_dataset(90), global_batch=24, seed=11) as feed:
        with pytest.raises(BadFeedState, match="'parts' is missing"):
            mixture.load_state_dict(feed.state_dict())
        with pytest.raises(BadFeedState, match="'parts' is unknown"):
            feed.load_state_dict(mixture.state_dict())


def _refused(*parts: MixturePart) -> str:
    with pytest.raises(BadMixture) as refused:
        Mixture(parts, global_batch=4, seed=0)
    return refused.value.message


def test_parts_that_cannot_share_a_batch_are_named() -> None:
    first = MixturePart(mixed_dataset(0, 90), 0.5)
    longer = mixed_dataset(1, 90)
    longer.train.sample_tokens = 5
    message = _refused(first, MixturePart(longer, 0.5))
    assert f"{longer.root[:16]}… has samples of 5 tokens, 'train' of {'0' * 16}… samples of 3" in message


def test_parts_of_other_tokenizers_are_refused() -> None:
    first = MixturePart(mixed_dataset(0, 90), 0.4)
    other = MixedMemoryDataset(memory_dataset(90).train, root="cd" * 32, tokenizer=b"\x02" * 32)
    without = MixedMemoryDataset(memory_dataset(90).train, root="ef" * 32, tokenizer=None)
    message = _refused(first, MixturePart(other, 0.3), MixturePart(without, 0.3))
    assert f"has the tokenizer {'02' * 32}, 'train' of {'0' * 16}… the tokenizer {'01' * 32}" in message
    assert "efefefefefefefef… has no tokenizer" in message


def test_one_split_named_twice_is_refused() -> None:
    part = MixturePart(mixed_dataset(3, 90), 0.5)
    assert "is there twice" in _refused(part, part)


def test_weights_an_empty_part_and_a_world_that_does_not_divide_are_refused() -> None:
    whole, empty = mixed_dataset(0, 90), mixed_dataset(1, 0)
    assert "0.333, 0.667" in _refused(MixturePart(whole, 1 / 3), MixturePart(mixed_dataset(1, 9), 2 / 3))
    with pytest.raises(EmptySplit, match="'train'"):
        Mixture([MixturePart(whole, 0.5), MixturePart(empty, 0.5)], global_batch=4, seed=0)
    with pytest.raises(BadWorldSize, match="world size of 3"):
        Mixture([MixturePart(whole, 1.0)], global_batch=4, seed=0, world_size=3)
