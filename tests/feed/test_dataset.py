"""A sealed dataset read through its manifest: whole, in order, shuffled, and refused when it must be."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from stoker.core.clock import ManualClock
from stoker.feed.errors import FeedStopped, NotSamples, UnknownArtefact, UnknownSplit, WrongDataset
from stoker.feed.feed import Feed
from stoker.feed.open_shards import KEYS_KEPT_S, MAX_OPEN_SHARDS
from stoker.keys.agent import KeyAgent
from stoker.keys.agent_client import AgentKeySource
from stoker.keys.caller import Caller, key_sockets
from stoker.keys.errors import KeyDestroyed, LeaseExpired
from stoker.keys.lease import Lease
from stoker.keys.partition import BackendKeySource
from stoker.keys.refs import Purpose
from stoker.store.cache import NodeCache
from stoker.store.errors import CorruptStream, OutOfRange, RolledBack
from stoker.store.superblock import SampleSchema
from support.key_stores import SCOPE, open_store
from support.sealed_dataset import TOKENIZER, SealedDataset, sealed_dataset
from support.sealed_samples import KEK, MemoryKeys


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> SealedDataset:
    """One that no test changes."""
    return sealed_dataset(tmp_path_factory.mktemp("store"), MemoryKeys())


def _flip_in_chunk(path: Path, chunk: int) -> None:
    data = bytearray(path.read_bytes())
    data[chunk * 2**14 + 2**13] ^= 1
    path.chmod(0o600)
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["train", "heldout"])
def test_a_sequential_pass_gives_every_sample_in_stored_order(dataset: SealedDataset, name: str) -> None:
    split = dataset.open().split(name)
    arrays = list(split.sequential())
    assert np.array_equal(np.concatenate(arrays), dataset.written[name])
    assert [len(rows) for rows in arrays[:-1]] == [125] * (split.chunks - 1)
    assert (split.samples, split.sample_tokens) == dataset.written[name].shape


@pytest.mark.parametrize(("start", "stop"), [(0, 0), (5, 6), (124, 126), (300, 500), (799, 800), (0, 800)])
def test_a_part_of_a_sequential_pass_gives_just_that(dataset: SealedDataset, start: int, stop: int) -> None:
    found = list(dataset.open().split("train").sequential(start, stop))
    assert np.array_equal(
        np.concatenate([dataset.written["train"][:0], *found]), dataset.written["train"][start:stop]
    )


@pytest.mark.parametrize(("start", "stop"), [(-1, 5), (5, 4), (0, 801)])
def test_samples_that_are_not_there_are_refused(dataset: SealedDataset, start: int, stop: int) -> None:
    with pytest.raises(OutOfRange, match="'train', which has 800"):
        list(dataset.open().split("train").sequential(start, stop))


@pytest.mark.parametrize("chunk", [-1, 7])
def test_a_chunk_that_is_not_there_is_refused(dataset: SealedDataset, chunk: int) -> None:
    with pytest.raises(OutOfRange, match=f"Chunk {chunk} .* which has 7"):
        dataset.open().split("train").read_chunk(chunk)


@pytest.mark.parametrize("world_size", [1, 4])
def test_a_feed_gives_each_sealed_sample_once_an_epoch(dataset: SealedDataset, world_size: int) -> None:
    shares = []
    for rank in range(world_size):
        with Feed(dataset.open(), global_batch=16, seed=1, rank=rank, world_size=world_size) as feed:
            shares.append(np.stack([feed.next_array() for _ in range(50)]))
    stream = np.concatenate(shares, axis=1).reshape(-1, 65)
    assert np.array_equal(stream[np.argsort(stream[:, 0])], dataset.written["train"])
    assert not np.array_equal(stream, dataset.written["train"])


def test_an_artefact_is_read_whole(dataset: SealedDataset) -> None:
    assert dataset.open().artefact("tokenizer") == TOKENIZER


def test_a_split_or_artefact_that_is_not_there_names_those_that_are(dataset: SealedDataset) -> None:
    with pytest.raises(UnknownSplit, match="no split 'trian'; it has 'train', 'heldout'"):
        dataset.open().split("trian")
    with pytest.raises(UnknownArtefact, match="no artefact 'report'; it has 'tokenizer'"):
        dataset.open().artefact("report")


def test_another_review_or_root_than_the_recorded_one_is_refused(dataset: SealedDataset) -> None:
    with pytest.raises(WrongDataset, match="review is 0001"):
        dataset.open(review=bytes(32))
    with pytest.raises(RolledBack):
        SealedDataset(dataset.store, dataset.folder, dataset.keys, "cd" * 32, dataset.public_key, {}).open()


def test_a_manifest_that_miscounts_a_splits_shards_is_refused(tmp_path: Path) -> None:
    written = sealed_dataset(tmp_path, MemoryKeys(), claimed_shards=2)
    with pytest.raises(NotSamples, match="800 samples in 2 shards from 0 of 5; they take 3"):
        written.open().split("train")


def test_a_changed_chunk_is_named_by_the_step_that_needs_it(tmp_path: Path) -> None:
    sealed = sealed_dataset(tmp_path, MemoryKeys())
    _flip_in_chunk(sealed.shard_path(1), 2)  # samples 625 to 749 of the split
    sound = sealed.written["train"]
    with Feed(sealed.open(), global_batch=8, seed=3) as feed:
        read = 0
        with pytest.raises(CorruptStream, match=r"00000001\.stk, chunk 2 of 3"):
            while read < 100:
                batch = feed.next_array()
                read += 1
                assert np.array_equal(batch, sound[batch[:, 0]])
                assert not ((batch[:, 0] >= 625) & (batch[:, 0] < 750)).any()
        assert feed.consumed == 8 * read
        assert feed.chunks_held == 0
        with pytest.raises(FeedStopped):
            feed.next_array()


def test_a_bad_copy_in_the_nodes_cache_is_replaced_and_reading_goes_on(tmp_path: Path) -> None:
    sealed = sealed_dataset(tmp_path / "store", MemoryKeys())
    cache = NodeCache(tmp_path / "cache", sealed.store, 1 << 24)
    list(sealed.open(cache=cache).split("train").sequential())
    copies = sorted((tmp_path / "cache").rglob("00000001.stk"))
    assert len(copies) == 1
    _flip_in_chunk(copies[0], 1)
    found = np.concatenate(list(sealed.open(cache=cache).split("train").sequential()))
    assert np.array_equal(found, sealed.written["train"])
    assert copies[0].read_bytes() == sealed.shard_path(1).read_bytes()


@pytest.mark.parametrize("offset", [0, 4, 9, 14, 17, 30, 100, 250, 330])
def test_a_copy_whose_header_was_changed_is_replaced_too(tmp_path: Path, offset: int) -> None:
    sealed = sealed_dataset(tmp_path / "store", MemoryKeys())
    cache = NodeCache(tmp_path / "cache", sealed.store, 1 << 24)
    list(sealed.open(cache=cache).split("train").sequential())
    (copy,) = (tmp_path / "cache").rglob("00000001.stk")
    data = bytearray(copy.read_bytes())
    data[offset] ^= 1
    copy.write_bytes(data)
    found = np.concatenate(list(sealed.open(cache=cache).split("train").sequential()))
    assert np.array_equal(found, sealed.written["train"])
    assert copy.read_bytes() == sealed.shard_path(1).read_bytes()


def test_a_bad_object_behind_the_nodes_cache_is_still_an_error_that_names_the_chunk(tmp_path: Path) -> None:
    sealed = sealed_dataset(tmp_path / "store", MemoryKeys())
    _flip_in_chunk(sealed.shard_path(0), 1)
    cache = NodeCache(tmp_path / "cache", sealed.store, 1 << 24)
    with pytest.raises(CorruptStream, match=r"00000000\.stk, chunk 1 of 3"):
        list(sealed.open(cache=cache).split("train").sequential())


def test_a_destroyed_key_stops_a_running_feed_and_its_chunks_are_wiped(tmp_path: Path) -> None:
    keys, clock = MemoryKeys(), ManualClock()
    sealed = sealed_dataset(tmp_path, keys, train=3000)
    with Feed(sealed.open(clock=clock), global_batch=8, seed=3, window_chunks=1) as feed:
        feed.next_array()
        keys.destroy(KEK)
        clock.advance(KEYS_KEPT_S + 1)
        with pytest.raises(KeyDestroyed, match="was destroyed"):
            for _ in range(375):
                feed.next_array()
        assert feed.chunks_held == 0
        with pytest.raises(FeedStopped, match="failed"):
            feed.next_array()


def test_keys_are_asked_for_once_a_minute_and_not_for_each_chunk(tmp_path: Path) -> None:
    keys, clock = MemoryKeys(), ManualClock()
    sealed = sealed_dataset(tmp_path, keys, train=3000)
    split = sealed.open(clock=clock).split("train")
    before = keys.opened
    for chunk in range(split.chunks):
        split.read_chunk(chunk)
    assert keys.opened == before + 1
    clock.advance(KEYS_KEPT_S + 1)
    split.read_chunk(0)
    assert keys.opened == before + 2


def test_many_shards_are_not_all_kept_open(tmp_path: Path) -> None:
    schema = SampleSchema.fit(vocabulary=1024, sample_tokens=4097, chunk_log2=14, samples_per_shard=1)
    count = MAX_OPEN_SHARDS + 9
    sealed = sealed_dataset(tmp_path / "store", MemoryKeys(), train=count, heldout=1, schema=schema)
    split = sealed.open(cache=NodeCache(tmp_path / "cache", sealed.store, 1 << 24)).split("train")
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    found = np.concatenate(list(split.sequential()))
    assert np.array_equal(found, sealed.written["train"])
    assert len(list(Path("/proc/self/fd").iterdir())) <= descriptors + MAX_OPEN_SHARDS


def test_an_expired_lease_of_the_key_agent_passes_through(tmp_path: Path) -> None:
    clock = ManualClock()
    backend = open_store(tmp_path / "keys", clock=clock)
    kek = backend.create_kek(SCOPE, Purpose.DATASET, expires_s=None)
    sealed = sealed_dataset(tmp_path / "store", BackendKeySource(backend), kek=kek)
    lease = Lease("lease-1", "run/r-1", frozenset({kek}), frozenset(), "train", clock.now_s() + 100)
    agent = KeyAgent(backend, lease, clock)
    (theirs, ours), caller = key_sockets(), Caller.this_process()
    serving = threading.Thread(target=agent.serve, args=(theirs, caller))
    serving.start()
    try:
        dataset = sealed.open(keys=AgentKeySource.of(ours, caller), clock=clock)
        with Feed(dataset, global_batch=8, seed=3) as feed:
            feed.next_array()
        clock.advance(200)
        with Feed(dataset, global_batch=8, seed=3) as feed, pytest.raises(LeaseExpired):
            feed.next_array()
    finally:
        ours.close()
        serving.join()
