"""Where shards are many, each lane goes through them one by one: a small cache holds all that is needed."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from stoker.feed.feed import Feed
from stoker.store.cache import NodeCache
from stoker.store.superblock import SampleSchema
from support.sealed_dataset import SealedDataset, sealed_dataset
from support.sealed_samples import MemoryKeys

LANES = 2
SHARDS = 150
SCHEMA = SampleSchema.fit(vocabulary=1024, sample_tokens=1025, chunk_log2=14, samples_per_shard=21)
"""7 samples a chunk, 3 chunks a shard."""


def written(folder: Path) -> SealedDataset:
    keys = MemoryKeys()
    return sealed_dataset(folder, keys, train=SHARDS * 21 - 9, heldout=21, schema=SCHEMA)


def test_an_epoch_fetches_each_shard_once_into_a_cache_of_few(tmp_path: Path) -> None:
    dataset = written(tmp_path / "store")
    shard_bytes = dataset.shard_path(0).stat().st_size
    cache = NodeCache(tmp_path / "cache", dataset.store, limit_bytes=5 * shard_bytes)
    samples = SHARDS * 21 - 9
    with Feed(
        dataset.open(cache=cache), global_batch=LANES, seed=5, window_chunks=2, shards_ahead_s=0
    ) as feed:
        taken = [feed.next_array()[:, 0] for _ in range(samples // LANES)]
    assert len(np.unique(np.concatenate(taken))) == samples // LANES * LANES
    # Two lanes meet inside one shard, and what is read ahead begins the next epoch: dealt chunk by chunk,
    # it would be twice as many.
    fetched = cache.counts().store_bytes / shard_bytes
    assert SHARDS - 1 <= fetched <= 1.15 * SHARDS
    assert cache.counts().direct_bytes == 0
