"""Shards are in the node's cache before a batch needs them, soonest first, and nothing is evicted for it."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stoker.core.clock import ManualClock
from stoker.feed.batches import BatchReader
from stoker.feed.errors import BadFeedSetting
from stoker.feed.feed import Feed
from stoker.feed.mixture_pattern import pattern_of_turns, turns_of_parts, turns_of_weights
from stoker.feed.order import Order
from stoker.feed.shard_needs import PrefetchedSplit, ShardNeeds
from stoker.feed.shard_prefetch import ShardPrefetch, prefetch_of
from stoker.feed.split_reader import SplitReader
from stoker.keys.partition import KeySource
from stoker.store.cache import DIRECT_BYTES, NodeCache
from stoker.store.cache_counts import Brought
from stoker.store.errors import ObjectMissing, StoreUnreachable
from stoker.store.objects import ObjectStore
from stoker.store.record_schema import FieldKind, RecordField, RecordSchema
from stoker.store.superblock import SampleSchema
from support.sealed_dataset import SealedDataset, sealed_dataset
from support.sealed_records import sealed_records
from support.sealed_samples import MemoryKeys

GLOBAL_BATCH = 4
SHARDS = 12


class _Shards:
    """Shards of three blocks and 100 bytes that only say what was asked of them."""

    shards = 100

    def __init__(self, limit_bytes: int = 1 << 40) -> None:
        self.limit_bytes = limit_bytes
        self.asked: list[int] = []
        self.answers: dict[int, Callable[[], Brought]] = {}
        self.at_once = 0
        self.most_at_once = 0
        self._lock = threading.Lock()

    def shard_of(self, block: int) -> int:
        return block // 3

    def size(self, shard: int) -> int:
        return 100

    def bring_in(self, shard: int, keep_s: float, stopped: Callable[[], bool]) -> Brought:
        with self._lock:
            self.asked.append(shard)
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            return self.answers.get(shard, lambda: Brought.IN)()
        finally:
            with self._lock:
                self.at_once -= 1


def _order(samples: int = 3000, window: int = 2, seed: int = 1) -> Order:
    return Order(samples=samples, block_samples=10, lanes=GLOBAL_BATCH, window_blocks=window, seed=seed)


def _needs(order: Order, shards: _Shards, first: int = 0, rows: int = GLOBAL_BATCH) -> ShardNeeds:
    return ShardNeeds([order], [shards], first, rows)


@given(
    samples=st.integers(1, 2000),
    window=st.integers(1, 6),
    rows=st.integers(1, GLOBAL_BATCH),
    begin=st.integers(0, 700),
    pieces=st.lists(st.integers(1, 40), min_size=1, max_size=3),
    unit=st.sampled_from([1, 3]),
    weights=st.sampled_from([(1.0,), (0.5, 0.5), (0.7, 0.2, 0.1), (0.999, 0.001)]),
)
@settings(max_examples=15, deadline=None)
def test_what_a_sample_lies_in_is_needed_when_its_window_is_entered(
    samples: int,
    window: int,
    rows: int,
    begin: int,
    pieces: list[int],
    unit: int,
    weights: tuple[float, ...],
) -> None:
    turns = turns_of_weights(weights)
    mixed = len(weights) > 1
    orders = [
        Order(
            samples + 37 * n,
            10,
            GLOBAL_BATCH,
            window,
            seed=n,
            turns=each if mixed else None,
            unit_blocks=unit,
        )
        for n, each in enumerate(turns_of_parts(turns))
    ]
    pattern = pattern_of_turns(turns) if mixed else None
    first = GLOBAL_BATCH - rows
    needs = ShardNeeds(orders, [_Shards() for _ in orders], first, rows, pattern)
    found, at = [], begin
    for piece in pieces:
        found += needs.between(at, at + piece)
        at += piece
    assert [need.step for need in found] == sorted(need.step for need in found)

    expected: set[tuple[int, int, int]] = set()
    held: dict[tuple[int, int], tuple[int, int, int]] = {}
    for step in range(begin, at):
        for position in range(first, GLOBAL_BATCH):
            index = step * GLOBAL_BATCH + position
            part = 0 if pattern is None else int(pattern[index % 1000])
            if mixed:
                part_turns = orders[part].turns
                assert part_turns is not None
                index = int(part_turns.samples_before(np.array([index]))[0])
            place = orders[part].place(np.array([index]))
            name = int(place.epoch[0]), int(place.lane[0]), int(place.window[0])
            blocks = orders[part].blocks_of_window(*name)
            assert int(place.block[0]) in blocks
            if held.get((part, position)) != name:
                held[part, position] = name
                expected |= {(step, part, block // 3) for block in blocks}
    assert {(need.step, need.part, need.shard) for need in found} == expected


def test_the_soonest_needed_come_first_and_few_at_once() -> None:
    order, shards = _order(), _Shards()
    expected = list(dict.fromkeys(need.shard for need in _needs(order, _Shards()).between(0, 64)))
    prefetch = ShardPrefetch(_needs(order, shards), 60, ManualClock(), threads=1)
    prefetch.advance(0)
    prefetch.settle()
    assert shards.asked == expected and shards.most_at_once == 1
    assert prefetch.counts().brought == len(expected)
    prefetch.stop()

    gate, wide = threading.Barrier(3), _Shards()
    wide.answers = dict.fromkeys(expected[:3], lambda: (gate.wait(), Brought.HELD)[1])
    prefetch = ShardPrefetch(_needs(order, wide), 60, ManualClock(), threads=3)
    prefetch.advance(0)
    prefetch.settle()
    assert wide.most_at_once == 3 and sorted(wide.asked) == sorted(expected)
    assert prefetch.counts().held == 3
    prefetch.stop()


def test_it_looks_as_many_steps_ahead_as_the_seconds_say() -> None:
    order, shards, clock = _order(), _Shards(), ManualClock()
    prefetch = ShardPrefetch(_needs(order, shards), 20, clock, threads=2)
    for step in range(200):
        prefetch.advance(step)
        prefetch.settle()
        clock.advance(0.1)
    # 20 s are 200 steps. It looks again when a quarter of them has passed.
    least, most, all_of_them = (
        {need.shard for need in _needs(order, _Shards()).between(0, stop)} for stop in (199 + 149, 400, 700)
    )
    assert least <= set(shards.asked) <= most < all_of_them
    prefetch.stop()


def test_it_asks_for_no_more_than_the_cache_holds() -> None:
    order, shards = _order(), _Shards(limit_bytes=900)
    prefetch = ShardPrefetch(_needs(order, shards), 3600, ManualClock(), threads=2)
    prefetch.advance(0)
    prefetch.settle()
    # What the next steps need is asked for whole, also when it is more: the cache says what it can take.
    at_start = {need.shard for need in _needs(order, _Shards()).between(0, 64)}
    assert set(shards.asked) <= at_start
    asked = len(shards.asked)
    prefetch.advance(1)
    prefetch.settle()
    assert len(shards.asked) == asked
    prefetch.stop()


def test_what_finds_no_room_is_asked_for_again_before_anything_later() -> None:
    order, shards, clock = _order(), _Shards(), ManualClock()
    expected = list(dict.fromkeys(need.shard for need in _needs(order, _Shards()).between(0, 64)))
    full = [True]
    shards.answers[expected[2]] = lambda: Brought.NO_ROOM if full[0] else Brought.IN
    prefetch = ShardPrefetch(_needs(order, shards), 60, clock, threads=1)
    prefetch.advance(0)
    prefetch.settle()
    assert shards.asked == expected[:3]
    prefetch.advance(0)
    prefetch.settle()
    assert shards.asked == expected[:3], "asked again only after a pause"
    clock.advance(1.5)
    prefetch.advance(0)
    prefetch.settle()
    assert shards.asked == [*expected[:3], expected[2]]
    full[0] = False
    clock.advance(10)
    prefetch.advance(0)
    prefetch.settle()
    assert shards.asked == [*expected[:3], expected[2], *expected[2:]]
    assert prefetch.counts().declined == 2
    prefetch.stop()


def test_an_error_is_left_to_the_reader_and_the_rest_goes_on() -> None:
    def unreachable() -> Brought:
        raise StoreUnreachable("The store is away.")

    order, shards = _order(), _Shards()
    expected = list(dict.fromkeys(need.shard for need in _needs(order, _Shards()).between(0, 64)))
    shards.answers[expected[1]] = unreachable
    prefetch = ShardPrefetch(_needs(order, shards), 60, ManualClock(), threads=1)
    prefetch.advance(0)
    prefetch.settle()
    assert shards.asked == expected
    assert prefetch.counts().failed == 1 and prefetch.counts().brought == len(expected) - 1
    prefetch.stop()


def test_a_jump_begins_anew_and_a_stop_ends_all_threads() -> None:
    order, shards = _order(), _Shards()
    prefetch = ShardPrefetch(_needs(order, shards), 60, ManualClock(), threads=1)
    prefetch.advance(0)
    prefetch.settle()
    shards.asked.clear()
    prefetch.advance(500)
    prefetch.settle()
    there = _needs(order, _Shards()).between(500, 564)
    assert shards.asked == list(dict.fromkeys(need.shard for need in there))
    prefetch.stop()
    prefetch.stop()
    assert _threads() == []
    shards.asked.clear()
    prefetch.advance(501)
    prefetch.settle()
    assert shards.asked, "a stopped prefetch begins anew with the next step"
    prefetch.stop()


def test_stopping_gives_up_what_is_being_brought_in() -> None:
    class Endless(_Shards):
        def bring_in(self, shard: int, keep_s: float, stopped: Callable[[], bool]) -> Brought:
            begun.set()
            while not stopped():
                ended.wait(0.01)
            return Brought.STOPPED

    begun, ended = threading.Event(), threading.Event()
    prefetch = ShardPrefetch(_needs(_order(), Endless()), 60, ManualClock(), threads=2)
    prefetch.advance(0)
    begun.wait()
    prefetch.stop()
    assert _threads() == []


class _RecordingStore(ObjectStore):
    """Which thread read which shard."""

    def __init__(self, store: ObjectStore) -> None:
        super().__init__(store._backend)
        self.reads: list[tuple[str, str]] = []

    def get_range(self, key: str, start: int, length: int) -> memoryview:
        if key.endswith(".stk"):
            self.reads.append((threading.current_thread().name, key))
        return super().get_range(key, start, length)


@pytest.fixture(scope="module")
def keys() -> KeySource:
    return MemoryKeys()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, keys: KeySource) -> SealedDataset:
    return sealed_dataset(tmp_path_factory.mktemp("made"), keys, train=375 * SHARDS)


def _opened(
    made: SealedDataset, folder: Path, limit_bytes: int, clock: ManualClock | None = None
) -> tuple[_RecordingStore, NodeCache, SplitReader]:
    store = _RecordingStore(made.store)
    cache = NodeCache(folder / "cache", store, limit_bytes, clock=clock)
    dataset = SealedDataset(store, made.folder, made.keys, made.root, made.public_key, made.written).open(
        cache=cache
    )
    split = dataset.split("train")
    assert isinstance(split, SplitReader) and isinstance(split, PrefetchedSplit)
    return store, cache, split


@pytest.mark.parametrize("share", [1.0, 0.6])
def test_in_steady_state_the_reader_never_reads_from_the_store(
    share: float, made: SealedDataset, tmp_path: Path
) -> None:
    """With a cache of `share` of the dataset; the step is slow enough, so what is needed next is there."""
    shard_bytes = made.shard_path(0).stat().st_size
    clock = ManualClock()
    store, cache, split = _opened(made, tmp_path, int(share * SHARDS * shard_bytes), clock)
    order = Order(split.samples, split.chunk_samples, GLOBAL_BATCH, 1, seed=5)
    reader = BatchReader(split, order, 0, GLOBAL_BATCH)
    prefetch = prefetch_of([split], [order], 0, GLOBAL_BATCH, 40, clock)
    assert prefetch is not None
    steps = split.samples * 5 // 4 // GLOBAL_BATCH  # beyond the epoch's end
    drawn = []
    for step in range(steps):
        prefetch.advance(step)
        prefetch.settle()
        drawn.append(reader.read(step)[:, 0])
        clock.advance(1)
    prefetch.stop()
    me = threading.current_thread().name
    assert [read for read in store.reads if read[0] == me] == []
    assert {name.rpartition("_")[0] for name, _ in store.reads} == {"stoker-shards"}
    seen = np.concatenate(drawn)
    assert sorted(seen[: split.samples].tolist()) == list(range(split.samples)), "an epoch, each sample once"
    counts = cache.counts()
    assert counts.direct_bytes == 0 and counts.bypassed == 0
    if share == 1.0:
        assert counts.store_bytes == sum(made.shard_path(n).stat().st_size for n in range(SHARDS))


def test_without_prefetching_the_reader_does_read_from_the_store(made: SealedDataset, tmp_path: Path) -> None:
    store, _, split = _opened(made, tmp_path, 1 << 30)
    order = Order(split.samples, split.chunk_samples, GLOBAL_BATCH, 1, seed=5)
    BatchReader(split, order, 0, GLOBAL_BATCH).read(0)
    assert {name for name, _ in store.reads} == {threading.current_thread().name}


def test_a_shard_that_cannot_be_had_is_the_readers_error(made: SealedDataset, tmp_path: Path) -> None:
    store, _, split = _opened(made, tmp_path, 1 << 30)
    order = Order(split.samples, split.chunk_samples, GLOBAL_BATCH, 1, seed=5)

    def missing(key: str, start: int, length: int) -> memoryview:
        raise ObjectMissing(f"{key} is away.")

    store.get_range = missing  # type: ignore[method-assign]
    prefetch = prefetch_of([split], [order], 0, GLOBAL_BATCH, 60, ManualClock())
    assert prefetch is not None
    prefetch.advance(0)
    prefetch.settle()
    prefetch.stop()
    assert prefetch.counts().failed > 0 and prefetch.counts().brought == 0
    with pytest.raises(ObjectMissing, match="is away"):
        BatchReader(split, order, 0, GLOBAL_BATCH).read(0)


def test_only_what_has_a_cache_is_prefetched_and_zero_seconds_are_none(
    made: SealedDataset, tmp_path: Path
) -> None:
    bare = made.open().split("train")
    order = Order(bare.samples, 125, GLOBAL_BATCH, 1, seed=5)
    assert prefetch_of([bare], [order], 0, 4, 60, ManualClock()) is None
    assert prefetch_of([object()], [order], 0, 4, 60, ManualClock()) is None
    _, _, split = _opened(made, tmp_path, 1 << 30)
    assert prefetch_of([split], [order], 0, 4, 0, ManualClock()) is None
    for wrong in (-1, 3601, float("nan")):
        with pytest.raises(BadFeedSetting, match="shards_ahead_s"):
            prefetch_of([split], [order], 0, 4, wrong, ManualClock())


def test_a_large_shard_is_read_while_it_is_on_its_way_only_when_somebody_brings_it(
    tmp_path: Path, keys: KeySource
) -> None:
    schema = SampleSchema.fit(vocabulary=1024, sample_tokens=4097, chunk_log2=20, samples_per_shard=1300)
    made = sealed_dataset(tmp_path / "made", keys, train=1270, heldout=1, schema=schema)
    assert made.shard_path(0).stat().st_size > DIRECT_BYTES
    for access in (True, False):
        _, cache, split = _opened(made, tmp_path / str(access), 1 << 30)
        if access:
            assert split.shard_access() is not None
        assert (split.read_chunk(1)[:, 0] == made.written["train"][127:254, 0]).all()
        assert (cache.counts().store_bytes == 0) is access
        assert (0 < cache.counts().direct_bytes < DIRECT_BYTES) is access


def test_a_feed_brings_its_shards_in_and_ends_the_threads_when_it_is_closed(
    made: SealedDataset, tmp_path: Path
) -> None:
    store = _RecordingStore(made.store)
    cache = NodeCache(tmp_path / "cache", store, 1 << 30)
    dataset = SealedDataset(store, made.folder, made.keys, made.root, made.public_key, made.written).open(
        cache=cache
    )
    with Feed(dataset, global_batch=GLOBAL_BATCH, seed=3, window_chunks=1, shards_ahead_s=60) as feed:
        batches = [feed.next_array().copy()]
        prefetch = feed._ahead._prefetch
        assert prefetch is not None
        prefetch.settle()
        batches += [feed.next_array().copy() for _ in range(feed.samples_per_epoch // GLOBAL_BATCH - 1)]
        state = feed.state_dict()
        assert prefetch.counts().brought > 0 and prefetch.counts().failed == 0
        feed.load_state_dict({**state, "consumed": 0, "epoch": 0})
        assert (feed.next_array() == batches[0]).all()
    assert _threads() == []
    seen = np.concatenate([batch[:, 0] for batch in batches])
    assert sorted(seen.tolist()) == list(range(len(made.written["train"])))
    assert any(name.startswith("stoker-shards") for name, _ in store.reads)
    with Feed(dataset, global_batch=GLOBAL_BATCH, seed=3, window_chunks=1, shards_ahead_s=0) as plain:
        assert plain._ahead._prefetch is None
        assert all((plain.next_array() == batch).all() for batch in batches)


def test_a_feed_of_records_brings_its_shards_in_too(tmp_path: Path, keys: KeySource) -> None:
    schema = RecordSchema(
        (RecordField("number", FieldKind.NUMBER, "int64"),),
        records_per_block=8,
        blocks_per_shard=2,
        chunk_log2=14,
    )
    rows = [{"number": np.int64(number)} for number in range(160)]
    records = sealed_records(tmp_path / "made", keys, schema, {"train": rows})
    store = _RecordingStore(records.store)
    cache = NodeCache(tmp_path / "cache", store, 1 << 30)
    dataset = replace(records, store=store).open(cache=cache)
    with Feed(dataset, global_batch=GLOBAL_BATCH, seed=3, window_chunks=1) as feed:
        seen = [feed.next_array().numbers.tolist()]
        prefetch = feed._ahead._prefetch
        assert prefetch is not None
        prefetch.settle()
        seen += [feed.next_array().numbers.tolist() for _ in range(39)]
    assert sorted(number for batch in seen for number in batch) == list(range(160))
    counts = prefetch.counts()
    assert counts.brought + counts.held > 0 and counts.failed == 0
    assert len(store.reads) == len({key for _, key in store.reads}), "each shard was read once"


def test_a_feed_that_nobody_closes_ends_its_threads_too(made: SealedDataset, tmp_path: Path) -> None:
    dataset = made.open(cache=NodeCache(tmp_path / "cache", made.store, 1 << 30))
    feed = Feed(dataset, global_batch=GLOBAL_BATCH, seed=3)
    feed.next_array()
    assert _threads() != []
    del feed
    gc.collect()
    assert _threads() == []


def _threads() -> list[str]:
    return [each.name for each in threading.enumerate() if each.name.startswith("stoker-shards")]
