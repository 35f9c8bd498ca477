"""Bodies that were changed on their way: read once more, and named when the object itself is bad."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stoker.store.cache import NodeCache
from stoker.store.errors import CorruptManifest, CorruptObject, CorruptStream
from stoker.store.manifest import shard_key
from stoker.store.objects import ObjectStore
from support.sealed_dataset import NAME, TOKENIZER, VERSION, SealedDataset, sealed_dataset
from support.sealed_samples import MemoryKeys
from support.slow_store import Fault, SlowStore, pointed_at

FIRST = shard_key(f"datasets/{NAME}/{VERSION}", 0)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> SealedDataset:
    return sealed_dataset(tmp_path_factory.mktemp("store"), MemoryKeys())


@pytest.fixture
def server(written: SealedDataset) -> Iterator[SlowStore]:
    """A server that holds the dataset's objects."""
    with SlowStore() as running, pointed_at(running):
        for key in written.store.list():
            running.objects[key] = written.store.get(key)
        yield running


@pytest.fixture
def remote(server: SlowStore, written: SealedDataset) -> SealedDataset:
    found = replace(written, store=ObjectStore.open(f"{server.url}?hedge=off"))
    server.forget()
    return found


def _cache(kind: str, folder: Path, remote: SealedDataset) -> NodeCache | None:
    """No cache, one that keeps shards, and one that has no room for any."""
    if kind == "none":
        return None
    return NodeCache(folder / "cache", remote.store, 1 << 30 if kind == "cache" else 100)


def _train(dataset: SealedDataset, cache: NodeCache | None) -> np.ndarray:
    return np.concatenate(list(dataset.open(cache=cache).split("train").sequential()))


@pytest.mark.parametrize("kind", ["none", "cache", "no room"])
def test_every_changed_answer_is_asked_for_once_more(
    server: SlowStore, remote: SealedDataset, tmp_path: Path, kind: str
) -> None:
    """Signature, superblock, page, header and chunks: each is changed on its way, one after the other."""
    assert np.array_equal(_train(remote, _cache(kind, tmp_path / "good", remote)), remote.written["train"])
    needed = [one for one in server.requests("GET") if one.fault is None]
    assert len(needed) >= 5
    again = 0
    for number in range(len(needed)):
        server.forget()
        server.plan(Fault.WRONG, method="GET", skip=number)
        cache = _cache(kind, tmp_path / str(number), remote)
        assert np.array_equal(_train(remote, cache), remote.written["train"]), needed[number]
        assert sum(one.fault is Fault.WRONG for one in server.requests()) == 1
        again += server.count("GET") > len(needed)
    headers = 0 if kind == "cache" else 3
    assert again >= len(needed) - headers, "the bit changed beside a header is in bytes that nobody uses"


@pytest.mark.parametrize("kind", ["none", "cache", "no room"])
def test_a_shard_that_is_bad_in_the_store_is_named_with_its_chunk(
    server: SlowStore, remote: SealedDataset, tmp_path: Path, kind: str
) -> None:
    data = bytearray(server.objects[FIRST])
    data[-100] ^= 1
    server.objects[FIRST] = bytes(data)
    with pytest.raises(CorruptStream, match=rf"{FIRST}, chunk \d of"):
        _train(remote, _cache(kind, tmp_path, remote))
    assert not [path for path in tmp_path.rglob("partial/*") if path.is_file()]


def test_a_manifest_that_is_bad_in_the_store_is_named(server: SlowStore, remote: SealedDataset) -> None:
    (page,) = [key for key in server.objects if "/manifest/page-0" in key]
    data = bytearray(server.objects[page])
    data[40] ^= 1
    server.objects[page] = bytes(data)
    with pytest.raises(CorruptManifest, match="top page"):
        remote.open()


def test_a_changed_body_does_not_stay_in_the_cache(
    server: SlowStore, remote: SealedDataset, tmp_path: Path
) -> None:
    cache = NodeCache(tmp_path / "cache", remote.store, 1 << 30)
    entry_bytes = len(server.objects[FIRST])
    server.plan(Fault.WRONG, method="GET", times=1)
    cache.fetch(FIRST, entry_bytes)
    digest = remote.open()._manifest.entry(0).digest
    source = cache.fetch(FIRST, entry_bytes, digest=digest)
    assert bytes(source.read(0, entry_bytes)) == server.objects[FIRST]
    assert cache.counts().refetched == 1
    cache.drop(FIRST)
    server.plan(Fault.WRONG, method="GET", times=100)
    with pytest.raises(CorruptObject, match=FIRST):
        cache.fetch(FIRST, entry_bytes, digest=digest)


def test_an_artefact_is_read_again_too(server: SlowStore, remote: SealedDataset) -> None:
    opened = remote.open()
    server.plan(Fault.WRONG, method="GET")
    assert bytes(opened.artefact("tokenizer")) == TOKENIZER
