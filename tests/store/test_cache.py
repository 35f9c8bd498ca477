"""The node cache holds ciphertext, fetches once, forgets the oldest, and never makes a full disk an error."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from stoker.store.cache import NodeCache
from stoker.store.errors import BadObjectKey, CorruptObject, ObjectMissing, StoreUnreachable, TruncatedStream
from stoker.store.objects import ObjectStore
from stoker.store.ranges import FileSource, RangeSource


class _CountingStore(ObjectStore):
    """Counts the ranges that were read."""

    ranges = 0

    def get_range(self, key: str, start: int, length: int) -> memoryview:
        self.ranges += 1
        return super().get_range(key, start, length)


@pytest.fixture
def store(tmp_path: Path) -> _CountingStore:
    made = ObjectStore.open(f"file://{tmp_path}/store")
    return _CountingStore(made._backend)


def _all(source: RangeSource) -> bytes:
    return bytes(source.read(0, source.size()))


def test_an_object_is_fetched_once_and_kept_closed_to_others(store: _CountingStore, tmp_path: Path) -> None:
    cache = NodeCache(tmp_path / "cache", store, 1 << 20)
    store.create("a/x", b"sealed")
    before = os.umask(0)
    try:
        assert _all(cache.fetch("a/x", 6)) == b"sealed"
    finally:
        os.umask(before)
    assert isinstance(cache.fetch("a/x", 6), FileSource)
    assert _all(cache.fetch("a/x", 6)) == b"sealed" and store.ranges == 1
    assert stat.S_IMODE((tmp_path / "cache/objects/a/x").stat().st_mode) == 0o600
    for folder in ("cache", "cache/objects", "cache/objects/a", "cache/partial", "cache/locks"):
        assert stat.S_IMODE((tmp_path / folder).stat().st_mode) == 0o700
    assert cache.size_bytes() == 6


def test_what_was_used_longest_ago_goes_first(store: _CountingStore, tmp_path: Path) -> None:
    cache = NodeCache(tmp_path / "cache", store, 250)
    for name in "abc":
        store.create(name, name.encode() * 100)
    cache.fetch("a", 100)
    cache.fetch("b", 100)
    for age, name in ((3, "a"), (2, "b")):
        os.utime(tmp_path / "cache/objects" / name, (1_000_000 - age, 1_000_000 - age))
    held = cache.fetch("a", 100)
    cache.fetch("c", 100)
    assert sorted(path.name for path in (tmp_path / "cache/objects").iterdir()) == ["a", "c"]
    os.utime(tmp_path / "cache/objects/a", (1, 1))
    cache.fetch("b", 100)
    assert sorted(path.name for path in (tmp_path / "cache/objects").iterdir()) == ["b", "c"]
    assert _all(held) == b"a" * 100


def test_objects_larger_than_the_cache_are_read_from_the_store(store: _CountingStore, tmp_path: Path) -> None:
    cache = NodeCache(tmp_path / "cache", store, 5)
    store.create("x", b"sealed")
    assert _all(cache.fetch("x", 6)) == b"sealed"
    assert cache.size_bytes() == 0


def test_a_copy_that_does_not_hold_is_fetched_again(store: _CountingStore, tmp_path: Path) -> None:
    cache = NodeCache(tmp_path / "cache", store, 1 << 20)
    store.create("x", b"sealed")
    digest = hashlib.sha256(b"sealed").digest()
    cache.fetch("x", 6, digest=digest)
    path = tmp_path / "cache/objects/x"
    for broken in (b"Sealed", b"seal", b""):
        path.write_bytes(broken)
        assert _all(cache.fetch("x", 6, digest=digest)) == b"sealed"
    path.write_bytes(b"seal")
    assert _all(cache.fetch("x", 6)) == b"sealed"


def test_a_stored_object_that_is_not_the_recorded_one_is_named_and_not_kept(
    store: _CountingStore, tmp_path: Path
) -> None:
    cache = NodeCache(tmp_path / "cache", store, 1 << 20)
    store.create("x", b"sealed")
    with pytest.raises(TruncatedStream, match="x has 6 bytes, where 7 were recorded"):
        cache.fetch("x", 7)
    with pytest.raises(CorruptObject, match="x was changed"):
        cache.fetch("x", 6, digest=bytes(32))
    with pytest.raises(ObjectMissing, match="no/such"):
        cache.fetch("no/such", 6)
    with pytest.raises(BadObjectKey):
        cache.fetch("../x", 6)
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.stat().st_size] == []


def test_what_is_dropped_is_gone_but_open_readers_finish(store: _CountingStore, tmp_path: Path) -> None:
    cache = NodeCache(tmp_path / "cache", store, 1 << 20)
    for key in ("a/v/x", "a/v/y", "a/w"):
        store.create(key, b"sealed")
    held = [cache.fetch(key, 6) for key in ("a/v/x", "a/v/y", "a/w")]
    cache.drop("a/v")
    assert cache.size_bytes() == 6
    cache.drop("a/w")
    cache.drop("never/there")
    assert cache.size_bytes() == 0
    assert [_all(source) for source in held] == [b"sealed"] * 3


def test_many_at_once_fetch_once(store: _CountingStore, tmp_path: Path) -> None:
    caches = [NodeCache(tmp_path / "cache", store, 1 << 20) for _ in range(6)]
    store.create("x", b"sealed")
    gate, found = threading.Barrier(len(caches)), []

    def fetch(cache: NodeCache) -> None:
        gate.wait()
        found.append(_all(cache.fetch("x", 6)))

    threads = [threading.Thread(target=fetch, args=(cache,)) for cache in caches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [b"sealed"] * 6 and store.ranges == 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=0700", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_on_a_full_disk_the_store_is_read_instead(store: _CountingStore, small_disk: Path) -> None:
    cache = NodeCache(small_disk / "cache", store, 1 << 30)
    store.create("x", bytes(2 << 20))
    source = cache.fetch("x", 2 << 20)
    assert source.size() == 2 << 20 and not isinstance(source, FileSource)
    assert cache.size_bytes() == 0
    assert list((small_disk / "cache/partial").iterdir()) == []


def test_a_cache_folder_that_cannot_be_made_is_named(store: _CountingStore, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreUnreachable, match="file/cache cannot be used as a cache"):
        NodeCache(tmp_path / "file/cache", store, 1)


def test_what_is_no_plain_file_is_no_copy_and_is_fetched_anew(store: _CountingStore, tmp_path: Path) -> None:
    cache = NodeCache(tmp_path / "cache", store, 1000)
    store.create("a/b", b"sealed bytes")
    (tmp_path / "cache" / "objects" / "a").mkdir()
    os.mkfifo(tmp_path / "cache" / "objects" / "a" / "b")
    assert bytes(cache.fetch("a/b", 12).read(0, 12)) == b"sealed bytes"
