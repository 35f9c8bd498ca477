"""The node cache holds ciphertext, fetches once, forgets the oldest, and never makes a full disk an error."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stoker.core.clock import ManualClock
from stoker.store.cache import DIRECT_BYTES, NodeCache
from stoker.store.cache_counts import Brought, CacheCounts
from stoker.store.errors import (
    BadObjectKey,
    CorruptObject,
    ObjectMissing,
    OutOfRange,
    StoreUnreachable,
    TruncatedStream,
)
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
    for folder in ("cache", "cache/objects", "cache/objects/a", "cache/partial"):
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
    assert [path.name for path in (tmp_path / "cache").rglob("*") if path.is_file()] == ["account"]
    assert cache.size_bytes() == 0


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


def test_what_was_done_is_counted(store: _CountingStore, tmp_path: Path) -> None:
    cache = NodeCache(tmp_path / "cache", store, 250)
    for name in "abc":
        store.create(name, name.encode() * 100)
        cache.fetch(name, 100)
    cache.fetch("c", 100)
    store.create("large", bytes(251))
    assert _all(cache.fetch("large", 251)) == bytes(251)
    (tmp_path / "cache/objects/c").write_bytes(b"C" * 100)
    cache.fetch("c", 100, digest=hashlib.sha256(b"c" * 100).digest())
    assert cache.counts() == CacheCounts(
        hits=1, misses=5, store_bytes=400, direct_bytes=251, evictions=1, refetched=1, bypassed=1
    )


def test_the_account_is_what_lies_in_the_folder(store: _CountingStore, tmp_path: Path) -> None:
    cache, account = NodeCache(tmp_path / "cache", store, 10_000), tmp_path / "cache/account"
    for number in range(30):
        store.create(f"x{number}", bytes(100 + number))
        cache.fetch(f"x{number}", 100 + number)
    held = sum(100 + number for number in range(30))
    assert cache.size_bytes() == held
    for wrong in (b"", b"STKC", account.read_bytes()[:8] + bytes(16), account.read_bytes() + b"x"):
        account.write_bytes(wrong)
        assert cache.size_bytes() == held
    account.unlink()
    assert NodeCache(tmp_path / "cache", store, 10_000).size_bytes() == held
    account.write_bytes(account.read_bytes()[:-8] + (9_000).to_bytes(8, "big"))  # as after a crash
    store.create("big", bytes(5_000))
    after = NodeCache(tmp_path / "cache", store, 10_000)
    after.fetch("big", 5_000)
    assert after.size_bytes() == held + 5_000 and after.counts().evictions == 0


_FILLER = """
import sys
from pathlib import Path
from typing import Any
from stoker.store.cache import NodeCache
from stoker.store.objects import ObjectStore
folder, store, limit, which = Path(sys.argv[1]), ObjectStore.open(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
cache = NodeCache(folder, store, limit)
most = 0
for number in range(60):
    cache.fetch(f"{which}/{number}", 1000).read(0, 1000)
    with cache._room._account():
        kept = sum(each.stat().st_size for each in (folder / "objects").rglob("*") if each.is_file())
        most = max(most, kept)
print(most)
"""


def test_processes_together_stay_under_the_limit(store: _CountingStore, tmp_path: Path) -> None:
    for which in "ab":
        for number in range(60):
            store.create(f"{which}/{number}", bytes(1000))
    url = f"file://{tmp_path}/store"
    fillers = [
        subprocess.Popen(
            [sys.executable, "-c", _FILLER, tmp_path / "cache", url, "10500", which],
            stdout=subprocess.PIPE,
            text=True,
        )
        for which in "ab"
    ]
    said = [filler.communicate()[0] for filler in fillers]
    assert [filler.returncode for filler in fillers] == [0, 0]
    assert all(int(most) <= 10_500 for most in said)
    lying = [path.stat().st_size for path in (tmp_path / "cache/objects").rglob("*") if path.is_file()]
    assert NodeCache(tmp_path / "cache", store, 10_500).size_bytes() == sum(lying) == 10_000


def test_what_is_on_its_way_is_counted_before_it_is_here(tmp_path: Path) -> None:
    class Meanwhile(ObjectStore):
        def get_range(self, key: str, start: int, length: int) -> memoryview:
            if key == "first":
                found.append(cache.size_bytes())
                found.append(_all(cache.fetch("second", 600)))
            return super().get_range(key, start, length)

    store = Meanwhile(ObjectStore.open(f"file://{tmp_path}/store")._backend)
    found: list[object] = []
    cache = NodeCache(tmp_path / "cache", store, 1_000)
    for name in ("first", "second"):
        store.create(name, bytes(600))
    assert isinstance(cache.fetch("first", 600), FileSource)
    assert found == [600, bytes(600)]
    assert cache.counts().bypassed == 1 and cache.size_bytes() == 600


def test_many_evictions_take_few_walks(
    store: _CountingStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = NodeCache(tmp_path / "cache", store, 400)
    walks, walk = [], cache._room._walk

    def counted(account: Any) -> None:
        walks.append(1)
        walk(account)

    monkeypatch.setattr(cache._room, "_walk", counted)
    for number in range(1000):
        store.create(f"x{number}", b"x")
        cache.fetch(f"x{number}", 1)
    assert cache.size_bytes() == 400 and cache.counts().evictions == 600
    assert len(walks) == 6, "one for each hundred evictions, a quarter of what the cache holds"


_DYING = """
import sys, os
from pathlib import Path
from typing import Any
from stoker.store.cache import NodeCache
from stoker.store.objects import ObjectStore
class Stuck(ObjectStore):
    def get_range(self, key, start, length):
        print("bringing", flush=True)
        sys.stdin.read()
store = Stuck(ObjectStore.open(sys.argv[2])._backend)
NodeCache(Path(sys.argv[1]), store, 10_000).fetch("x", 5_000)
"""


def test_what_a_dead_process_left_is_removed_and_what_a_living_one_writes_is_not(
    store: _CountingStore, tmp_path: Path
) -> None:
    store.create("x", b"x" * 5_000)
    partial = tmp_path / "cache/partial"
    with subprocess.Popen(
        [sys.executable, "-c", _DYING, tmp_path / "cache", f"file://{tmp_path}/store"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as living:
        assert living.stdout is not None
        assert living.stdout.readline() == "bringing\n"
        beside = NodeCache(tmp_path / "cache", store, 10_000)
        assert [path.stat().st_size for path in partial.iterdir()] == [5_000]
        assert beside.size_bytes() == 5_000
        living.send_signal(signal.SIGKILL)
    assert [path.stat().st_size for path in partial.iterdir()] == [5_000]
    after = NodeCache(tmp_path / "cache", store, 10_000)
    assert list(partial.iterdir()) == [] and after.size_bytes() == 0
    assert _all(after.fetch("x", 5_000)) == b"x" * 5_000
    assert after.size_bytes() == 5_000


def test_a_dead_writers_place_is_taken_over_without_a_new_opening(
    store: _CountingStore, tmp_path: Path
) -> None:
    store.create("x", b"x" * 5_000)
    cache = NodeCache(tmp_path / "cache", store, 8_000)
    with subprocess.Popen(
        [sys.executable, "-c", _DYING, tmp_path / "cache", f"file://{tmp_path}/store"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as living:
        assert living.stdout is not None
        assert living.stdout.readline() == "bringing\n"
        living.send_signal(signal.SIGKILL)
    assert _all(cache.fetch("x", 5_000)) == b"x" * 5_000
    assert cache.size_bytes() == 5_000 and cache.counts().bypassed == 0


def test_one_object_on_its_way_keeps_no_reader_of_another_waiting(tmp_path: Path) -> None:
    started, release = threading.Event(), threading.Event()

    class Slow(ObjectStore):
        def get_range(self, key: str, start: int, length: int) -> memoryview:
            if key == "slow":
                started.set()
                release.wait()
            return super().get_range(key, start, length)

    store = Slow(ObjectStore.open(f"file://{tmp_path}/store")._backend)
    cache = NodeCache(tmp_path / "cache", store, 1 << 20)
    for number in range(600):  # more than there are first bytes of a digest
        store.create(f"x{number}", b"sealed")
    store.create("slow", b"sealed")
    thread = threading.Thread(target=cache.fetch, args=("slow", 6))
    thread.start()
    started.wait()
    try:
        assert all(_all(cache.fetch(f"x{number}", 6)) == b"sealed" for number in range(600))
    finally:
        release.set()
        thread.join()
    assert isinstance(cache.fetch("slow", 6), FileSource)


def test_a_full_disk_is_noticed_before_anything_is_fetched_and_counted(
    store: _CountingStore, small_disk: Path
) -> None:
    cache = NodeCache(small_disk / "cache", store, 1 << 30)
    store.create("x", bytes(2 << 20))
    store.create("y", b"small")
    assert _all(cache.fetch("x", 2 << 20)) == bytes(2 << 20)
    assert store.ranges == 1 and cache.size_bytes() == 0
    assert cache.counts() == CacheCounts(misses=1, direct_bytes=2 << 20, bypassed=1)
    assert isinstance(cache.fetch("y", 5), FileSource)
    assert cache.bring_in("x", 2 << 20, digest=None, keep_s=60) is Brought.UNUSABLE


def test_a_disk_that_is_full_at_the_opening_is_no_error(store: _CountingStore, small_disk: Path) -> None:
    (small_disk / "other").write_bytes(bytes((1 << 20) - 4096 * 2))
    for number in range(100_000):
        try:
            (small_disk / f"x{number}").symlink_to("y" * 200)
        except OSError:
            break
    store.create("x", b"sealed")
    with pytest.raises(OSError, match="No space"):
        (small_disk / "more").write_bytes(bytes(1 << 16))
    cache = NodeCache(small_disk / "cache", store, 1 << 30)
    assert _all(cache.fetch("x", 6)) == b"sealed"


def test_a_folder_that_becomes_read_only_still_gives_what_it_has(
    store: _CountingStore, small_disk: Path
) -> None:
    cache = NodeCache(small_disk / "cache", store, 1 << 30)
    for name in ("x", "y"):
        store.create(name, b"sealed")
    cache.fetch("x", 6)
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    assert isinstance(cache.fetch("x", 6), FileSource)
    assert _all(cache.fetch("y", 6)) == b"sealed"
    assert cache.counts() == CacheCounts(hits=1, misses=2, store_bytes=6, direct_bytes=6, bypassed=1)
    with pytest.raises(StoreUnreachable, match="cache cannot be used as a cache: Read-only"):
        NodeCache(small_disk / "cache", store, 1 << 30)


def test_a_folder_that_disappears_is_made_again(store: _CountingStore, tmp_path: Path) -> None:
    cache = NodeCache(tmp_path / "cache", store, 1 << 20)
    store.create("x", b"sealed")
    held = cache.fetch("x", 6)
    shutil.rmtree(tmp_path / "cache")
    assert _all(held) == b"sealed"
    assert isinstance(cache.fetch("x", 6), FileSource)
    assert cache.size_bytes() == 6 and cache.counts().bypassed == 0
    shutil.rmtree(tmp_path / "cache")
    (tmp_path / "cache").write_text("something else")
    assert _all(cache.fetch("x", 6)) == b"sealed"
    assert cache.counts().bypassed == 1


def test_a_copy_that_becomes_shorter_while_it_is_open_is_read_from_the_store(
    store: _CountingStore, tmp_path: Path
) -> None:
    cache = NodeCache(tmp_path / "cache", store, 1 << 20)
    store.create("x", bytes(range(200)))
    held = cache.fetch("x", 200)
    os.truncate(tmp_path / "cache/objects/x", 50)
    assert bytes(held.read(100, 20)) == bytes(range(100, 120))
    assert cache.counts().refetched == 1
    assert _all(cache.fetch("x", 200)) == bytes(range(200))
    with pytest.raises(OutOfRange):
        held.read(190, 20)


def test_a_large_object_can_be_read_while_it_is_on_its_way(store: _CountingStore, tmp_path: Path) -> None:
    cache = NodeCache(tmp_path / "cache", store, 1 << 30)
    data = bytes(range(256)) * (DIRECT_BYTES // 256)
    store.create("x", data)
    source = cache.fetch("x", len(data), wait=False)
    assert not isinstance(source, FileSource) and source.size() == len(data)
    assert bytes(source.read(1000, 100)) == data[1000:1100]
    assert cache.counts() == CacheCounts(misses=1, direct_bytes=100)
    assert cache.bring_in("x", len(data), digest=None, keep_s=60) is Brought.IN
    store.delete("x")
    assert bytes(source.read(5_000_000, 100)) == data[5_000_000:5_000_100]
    assert isinstance(cache.fetch("x", len(data), wait=False), FileSource)
    store.create("small", b"sealed")
    assert isinstance(cache.fetch("small", 6, wait=False), FileSource)


def test_what_is_wanted_goes_for_a_reader_that_waits_and_for_nobody_else(
    store: _CountingStore, tmp_path: Path
) -> None:
    clock = ManualClock()
    cache = NodeCache(tmp_path / "cache", store, 300, clock=clock)
    for name in "abcdef":
        store.create(name, name.encode() * 100)

    def kept() -> list[str]:
        return sorted(path.name for path in (tmp_path / "cache/objects").iterdir())

    for name in "abc":
        assert cache.bring_in(name, 100, digest=None, keep_s=60) is Brought.IN
        clock.advance(1)
    assert cache.bring_in("d", 100, digest=None, keep_s=60) is Brought.NO_ROOM
    assert cache.bring_in("a", 100, digest=None, keep_s=1) is Brought.HELD
    clock.advance(2)
    assert cache.bring_in("d", 100, digest=None, keep_s=60) is Brought.IN
    assert kept() == ["b", "c", "d"]
    assert _all(cache.fetch("e", 100)) == b"e" * 100
    assert kept() == ["b", "c", "e"], "of what is wanted, the latest goes first"
    clock.advance(100)
    cache.fetch("b", 100)
    assert cache.bring_in("f", 100, digest=None, keep_s=60) is Brought.IN
    assert kept() == ["b", "c", "f"], "nobody wants any of them now, and e was used longest ago"
    clock.advance(-1_000_000)
    assert cache.bring_in("a", 100, digest=None, keep_s=60) is Brought.IN, "the clock was set back"


def test_a_lock_that_a_forked_child_inherits_ends_with_the_work(
    store: _CountingStore, tmp_path: Path
) -> None:
    children = []

    class Forking(ObjectStore):
        def get_range(self, key: str, start: int, length: int) -> memoryview:
            child = os.fork()
            if child == 0:
                signal.pause()
            children.append(child)
            return super().get_range(key, start, length)

    store.create("x", b"sealed")
    cache = NodeCache(tmp_path / "cache", Forking(store._backend), 1 << 20)
    try:
        with pytest.raises(CorruptObject):
            cache.fetch("x", 6, digest=bytes(32))
        assert _all(NodeCache(tmp_path / "cache", store, 1 << 20).fetch("x", 6)) == b"sealed"
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
