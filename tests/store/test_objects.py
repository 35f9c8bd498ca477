"""Objects are whole or absent, created once, closed to others; names never leave the store."""

from __future__ import annotations

import os
import stat
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from obstore.store import LocalStore, MemoryStore

from stoker.core.errors import DiskFull
from stoker.store.counts import StoreCounts
from stoker.store.errors import (
    BadObjectKey,
    ObjectExists,
    ObjectMissing,
    ObjectTooLarge,
    OutOfRange,
    StoreUnreachable,
    UnsafeStore,
)
from stoker.store.objects import ObjectStore
from stoker.store.remote import RemoteStore
from stoker.store.resilient import ResilientStore


@pytest.fixture(params=["file", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    return ObjectStore.open("memory://" if request.param == "memory" else f"file://{tmp_path}/store")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with one MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=0700", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", folder], check=True)


def _tree(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_objects_are_stored_read_listed_and_deleted(store: ObjectStore) -> None:
    store.create("a/b/one", b"0123456789")
    store.create("a/b/two", memoryview(bytearray(b"two")))
    store.create("a/c", b"")
    assert store.get("a/b/one") == b"0123456789"
    assert store.get("a/c") == b"" and store.size("a/c") == 0
    assert bytes(store.get_range("a/b/one", 3, 4)) == b"3456"
    assert bytes(store.get_range("a/b/one", 10, 0)) == b""
    assert [bytes(part) for part in store.get_ranges("a/b/one", [(0, 2), (8, 2), (4, 0)])] == [
        b"01",
        b"89",
        b"",
    ]
    assert [bytes(part) for part in store.get_ranges("a/b/one", [(8, 2), (0, 2)])] == [b"89", b"01"]
    assert (store.size("a/b/one"), store.exists("a/b/one"), store.exists("a/b")) == (10, True, False)
    assert sorted(store.list()) == ["a/b/one", "a/b/two", "a/c"]
    assert sorted(store.list("a/b")) == ["a/b/one", "a/b/two"]
    store.delete("a/b/one")
    store.delete("a/b/one")
    assert store.delete_prefix("a/b") == 1
    assert list(store.list()) == ["a/c"]
    source = store.source("a/c")
    assert (source.size(), bytes(source.read(0, 0))) == (0, b"")


def test_only_remote_stores_count_their_requests(tmp_path: Path) -> None:
    assert ObjectStore.open(tmp_path.as_uri()).counts() is None
    counts = ObjectStore.open("memory://").counts()
    assert counts is not None and (counts.requests, counts.retries) == (5, 0), "the probe"
    assert counts.since(counts) == StoreCounts()


def test_an_object_is_created_once(store: ObjectStore) -> None:
    store.create("a/x", b"first")
    with pytest.raises(ObjectExists, match="a/x"):
        store.create("a/x", b"second")
    assert store.get("a/x") == b"first"


def test_of_many_creates_at_once_one_wins(store: ObjectStore) -> None:
    winners, gate = [], threading.Barrier(8)

    def create(number: int) -> None:
        gate.wait()
        try:
            store.create("race/x", b"%d" % number * 1000)
        except ObjectExists:
            return
        winners.append(number)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(winners) == 1
    assert store.get("race/x") == b"%d" % winners[0] * 1000


def test_what_is_missing_is_named(store: ObjectStore) -> None:
    for read in (store.get, store.size, lambda key: store.get_range(key, 0, 1)):
        with pytest.raises(ObjectMissing, match="no/such"):
            read("no/such")
    with pytest.raises(ObjectMissing, match="no/such"):
        store.get_ranges("no/such", [(0, 1)])
    assert list(store.list("no")) == []
    assert store.delete_prefix("no") == 0


def test_reads_past_the_end_and_past_the_cap_are_refused(store: ObjectStore) -> None:
    store.create("x", b"0123456789")
    for start, length in ((0, 11), (10, 1), (11, 0), (9, 2), (1 << 40, 5)):
        with pytest.raises(OutOfRange, match="asked of"):
            store.get_range("x", start, length)
        with pytest.raises(OutOfRange):
            store.get_ranges("x", [(0, 1), (start, length)])
    with pytest.raises(ObjectTooLarge, match="10 bytes; at most 9"):
        store.get("x", max_bytes=9)


@pytest.mark.parametrize(
    "key",
    ["", "/etc/passwd", "..", "a/../b", "a//b", "a/", "a/./b", ".hidden", "a\x00b", "a\nb", "ä", "a b", "a#1",
     "C:\\x", "x" * 201, "/".join(["x" * 100] * 6)],
)  # fmt: skip
def test_names_that_are_paths_are_refused(store: ObjectStore, key: str) -> None:
    for use in (store.get, store.size, store.delete, store.delete_prefix, lambda key: store.create(key, b"")):
        with pytest.raises(BadObjectKey):
            use(key)


def test_files_and_folders_are_closed_to_others_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        ObjectStore.open(f"file://{tmp_path}/deep/store").create("a/b/c", b"x")
    finally:
        os.umask(before)
    modes = {
        name: stat.S_IMODE((tmp_path / "deep/store" / name).stat().st_mode)
        for name in (".", "a", "a/b", "a/b/c")
    }
    assert modes == {".": 0o700, "a": 0o700, "a/b": 0o700, "a/b/c": 0o600}


def test_a_full_disk_is_named_and_leaves_nothing(small_disk: Path) -> None:
    store = ObjectStore.open(f"file://{small_disk}/store")
    store.create("kept/x", b"x" * 1000)
    with pytest.raises(DiskFull, match="No space is left"):
        store.create("data/sets/big", bytes(2 << 20))
    assert _tree(small_disk / "store") == ["kept", "kept/x"]
    store.create("data/sets/small", b"fits")
    assert store.get("data/sets/small") == b"fits"


def test_a_full_disk_leaves_nothing_without_unnamed_files_either(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel or file system without O_TMPFILE answers EISDIR, as opening the folder itself does."""
    monkeypatch.setattr(os, "O_TMPFILE", 0)
    store = ObjectStore.open(f"file://{small_disk}/store")
    with pytest.raises(DiskFull):
        store.create("a/big", bytes(2 << 20))
    assert _tree(small_disk / "store") == []
    store.create("a/x", b"first")
    with pytest.raises(ObjectExists):
        store.create("a/x", b"second")
    assert _tree(small_disk / "store") == ["a", "a/x"]
    assert stat.S_IMODE((small_disk / "store/a/x").stat().st_mode) == 0o600


def test_what_a_killed_writer_left_is_no_object_and_goes_with_its_folder(tmp_path: Path) -> None:
    store = ObjectStore.open(f"file://{tmp_path}/store")
    store.create("a/x", b"x")
    (tmp_path / "store/a/y#123456").write_bytes(b"half")
    assert list(store.list()) == ["a/x"]
    assert store.delete_prefix("a") == 1
    assert _tree(tmp_path / "store") == []


def test_the_layout_is_obstores(tmp_path: Path) -> None:
    ours, theirs = ObjectStore.open(f"file://{tmp_path}/s"), LocalStore(prefix=tmp_path / "s")
    ours.create("a/b/x-1.stk", b"ours")
    theirs.put("a/b/y", b"theirs")
    assert bytes(theirs.get("a/b/x-1.stk").bytes()) == b"ours"
    assert ours.get("a/b/y") == b"theirs"
    assert sorted(ours.list("a")) == sorted(meta["path"] for page in theirs.list("a") for meta in page)


class _Forgetful(MemoryStore):
    """Ignores the condition, as some object stores do."""

    async def put_async(self, path: str, file: Any, **options: Any) -> Any:  # type: ignore[override]
        options.pop("mode", None)
        return await super().put_async(path, file, **options)


class _Lying(MemoryStore):
    """Says that the object exists, and replaces it all the same."""

    async def put_async(self, path: str, file: Any, **options: Any) -> Any:  # type: ignore[override]
        mode = options.pop("mode", None)
        exists = path in [meta["path"] for page in self.list() for meta in page]
        await super().put_async(path, file, **options)
        if exists and mode == "create":
            return await super().put_async(path, file, mode="create")
        return None


@pytest.mark.parametrize("kind", [_Forgetful, _Lying])
def test_a_store_that_ignores_the_condition_is_refused_and_left_clean(kind: type[MemoryStore]) -> None:
    behind = kind()
    with pytest.raises(UnsafeStore, match="memory://bad does not refuse"):
        ObjectStore(ResilientStore(RemoteStore(behind, "memory://bad"))).probe()
    assert [meta for page in behind.list() for meta in page] == []


def test_a_store_is_probed_when_it_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    behind = _Forgetful()
    monkeypatch.setattr(ResilientStore, "connect", lambda url: ResilientStore(RemoteStore(behind, url)))
    with pytest.raises(UnsafeStore, match="s3://bucket"):
        ObjectStore.open("s3://bucket")
    assert [meta for page in behind.list() for meta in page] == []


def test_stores_that_cannot_be_used_are_named_without_their_credentials(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for url in (
        f"file://{tmp_path}/file",
        f"file://{tmp_path}/file/below",
        "store",
        "file://host/x",
        "ftp://u:p@h/x",
    ):
        with pytest.raises(StoreUnreachable) as caught:
            ObjectStore.open(url)
        assert "u:p" not in caught.value.message
        assert caught.value.hint


def test_a_remote_store_is_refused_after_a_fork_instead_of_hanging() -> None:
    store = ObjectStore.open("memory://")
    child = os.fork()
    if child == 0:
        try:
            store.get("x")
        except StoreUnreachable as error:
            os._exit(7 if "forked" in error.message else 8)
        finally:
            os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_a_local_store_works_after_a_fork(tmp_path: Path) -> None:
    store = ObjectStore.open(f"file://{tmp_path}")
    store.create("x", b"before")
    child = os.fork()
    if child == 0:
        try:
            store.create("y", store.get("x"))
            os._exit(0)
        finally:
            os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert store.get("y") == b"before"


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_what_is_no_plain_file_is_no_object_and_nobody_waits_for_it(tmp_path: Path, make: Any) -> None:
    store = ObjectStore.open(tmp_path.as_uri())
    make(tmp_path / "planted")
    for read in (store.get, store.size, lambda key: store.get_range(key, 0, 1)):
        with pytest.raises(ObjectMissing, match="planted"):
            read("planted")
    with pytest.raises(ObjectExists):
        store.create("planted", b"x")
