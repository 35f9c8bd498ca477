"""Objects that are written and read bit by bit: whole or absent, in order, errors where the caller is."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from stoker.core.errors import DiskFull
from stoker.keys.refs import Purpose
from stoker.store import local_sink
from stoker.store.errors import ObjectExists, ObjectMissing, OutOfRange
from stoker.store.local_sink import Together
from stoker.store.objects import ObjectStore
from stoker.store.ranges import ReadAhead
from stoker.store.sealed import PartitionSeal
from support.sealed_samples import KEK, LABEL, MemoryKeys

MIB = 1 << 20


@pytest.fixture(params=["file", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    return ObjectStore.open("memory://" if request.param == "memory" else f"file://{tmp_path}/store")


def test_an_object_is_there_when_its_block_ends_and_not_before(store: ObjectStore) -> None:
    with store.writing("a/b/one") as sink:
        sink.write(b"0123")
        assert list(store.list()) == []
        sink.write(memoryview(b"456789"))
    assert store.get("a/b/one") == b"0123456789"
    with store.reading("a/b/one") as source:
        assert (source.size(), bytes(source.read(3, 4))) == (10, b"3456")


def test_an_object_whose_writer_fails_is_never_there_nor_its_folders(tmp_path: Path) -> None:
    store = ObjectStore.open(tmp_path.as_uri())
    with pytest.raises(ZeroDivisionError), store.writing("a/b/one") as sink:
        sink.write(bytes(100_000))
        raise ZeroDivisionError
    assert list(tmp_path.rglob("*")) == []


def test_a_name_that_is_taken_is_refused_at_the_beginning_or_at_the_end(store: ObjectStore) -> None:
    store.create("a/one", b"first")
    with pytest.raises(ObjectExists, match="a/one"), store.writing("a/one") as sink:
        sink.write(b"second")
    with pytest.raises(ObjectExists, match="a/two"), store.writing("a/two") as sink:
        store.create("a/two", b"first")
        sink.write(b"second")
    assert store.get("a/one") == store.get("a/two") == b"first"


def test_a_folder_that_is_deleted_meanwhile_is_made_again(tmp_path: Path) -> None:
    store = ObjectStore.open(tmp_path.as_uri())
    with store.writing("a/b/one") as sink:
        sink.write(b"one")
        store.delete_prefix("a")
    assert store.get("a/b/one") == b"one"


def test_files_without_anonymous_ones_get_a_name_only_when_they_are_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_file = os.open

    def refusing(path: str, flags: int, *rest: int, **named: int) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(95, "Operation not supported")
        return open_file(path, flags, *rest, **named)

    monkeypatch.setattr(os, "open", refusing)
    store = ObjectStore.open(tmp_path.as_uri())
    with store.writing("a/one") as sink:
        sink.write(b"one")
        assert list(store.list()) == []
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["one"]
    with pytest.raises(ZeroDivisionError), store.writing("b/two") as sink:
        sink.write(b"two")
        raise ZeroDivisionError
    assert not (tmp_path / "b").exists()


def test_an_object_that_is_not_there_cannot_be_opened(tmp_path: Path) -> None:
    store = ObjectStore.open(tmp_path.as_uri())
    with pytest.raises(ObjectMissing, match="a/one"), store.reading("a/one"):
        pass


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with one MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=0700", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_is_named_and_nothing_stays(small_disk: Path) -> None:
    store = ObjectStore.open(small_disk.as_uri())
    with pytest.raises(DiskFull, match=str(small_disk)), store.writing("a/one") as sink:
        for _ in range(100):
            sink.write(bytes(100_000))
    assert list(small_disk.rglob("*")) == []
    store.create("a/two", bytes(900_000))


def test_what_is_written_comes_in_order_whatever_the_pieces(store: ObjectStore) -> None:
    chance = random.Random(1)
    pieces = [chance.randbytes(chance.choice([0, 1, 7, 1000, 70_000])) for _ in range(200)]
    pieces.insert(100, bytes(9 << 20))
    with store.writing("one") as sink:
        for piece in pieces:
            assert sink.write(piece) == len(piece)
    assert store.get("one") == b"".join(pieces)


def test_a_stream_sealed_without_its_digest_is_the_same_otherwise(tmp_path: Path) -> None:
    store = ObjectStore.open(tmp_path.as_uri())
    with PartitionSeal(MemoryKeys(), KEK, Purpose.DATASET) as seal, store.writing("one") as sink:
        writer = seal.writer(LABEL, sink, digest=False)
        writer.write(bytes(3_000_000))
        facts = writer.finish()
    assert (facts.digest, facts.plaintext_bytes) == (b"", 3_000_000)
    assert (len(facts.header_digest), facts.object_bytes) == (32, store.size("one"))


class Counted:
    """A far object that remembers what it was asked."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.asked: list[tuple[int, int]] = []

    def size(self) -> int:
        return len(self.data)

    def read(self, start: int, length: int) -> bytes:
        self.asked.append((start, length))
        return self.data[start : start + length]


def test_a_far_object_read_in_order_is_asked_for_in_large_ranges() -> None:
    chance = random.Random(2)
    data = chance.randbytes(20 * MIB + 5)
    far = Counted(data)
    source = ReadAhead(far)
    position = 0
    while position < len(data):
        length = min(chance.choice([1, 100, MIB]), len(data) - position)
        assert source.read(position, length) == data[position : position + length]
        position += length
    assert far.asked == [(0, 8 * MIB), (8 * MIB, 8 * MIB), (16 * MIB, 4 * MIB + 5)]


def test_a_far_object_read_in_another_order_gives_the_same_bytes() -> None:
    chance = random.Random(3)
    data = chance.randbytes(20 * MIB)
    source = ReadAhead(Counted(data))
    for _ in range(200):
        start = chance.randrange(len(data))
        length = chance.randrange(min(len(data) - start, 9 * MIB) + 1)
        assert source.read(start, length) == data[start : start + length]
    with pytest.raises(OutOfRange):
        source.read(len(data) - 1, 2)


def test_objects_written_together_are_there_when_the_block_ends(store: ObjectStore) -> None:
    with Together() as together:
        for name in ("a/one", "a/two", "b/three"):
            with store.writing(name) as sink:
                together.take(sink)
                sink.write(name.encode() * 1000)
        if not store.place.startswith("memory"):
            assert list(store.list()) == []
    assert sorted(store.list()) == ["a/one", "a/two", "b/three"]
    assert store.get("b/three") == b"b/three" * 1000


def test_of_objects_written_together_nothing_stays_after_an_error(tmp_path: Path) -> None:
    store = ObjectStore.open(tmp_path.as_uri())
    with pytest.raises(ZeroDivisionError), Together() as together:
        for name in ("a/one", "a/b/two"):
            with store.writing(name) as sink:
                together.take(sink)
                sink.write(bytes(100_000))
        raise ZeroDivisionError
    assert list(tmp_path.rglob("*")) == []


def test_each_object_is_synced_before_it_has_a_name_and_its_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ObjectStore.open(tmp_path.as_uri())
    done: list[tuple[str, str]] = []
    sync, link = os.fsync, os.link

    def synced(descriptor: int) -> None:
        sync(descriptor)
        where = Path(f"/proc/self/fd/{descriptor}").readlink()
        done.append(("folder" if where.is_dir() else "file", where.name))

    def linked(source: str, name: str, **named: int | bool) -> None:
        link(source, name, **named)
        done.append(("name", name))

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "link", linked)
    with Together() as together:
        for name in ("a/one", "a/two"):
            with store.writing(name) as sink:
                together.take(sink)
                sink.write(b"bytes")
        assert done == []
    kinds = [kind for kind, _ in done]
    assert kinds == ["file", "file", "name", "name", "folder", "folder"]
    assert done[2:4] == [("name", "one"), ("name", "two")]
    assert {name for kind, name in done if kind == "folder"} == {tmp_path.name, "a"}


def open_files() -> int:
    """How many descriptors this process has."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_more_objects_than_may_be_open_are_made_durable_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_sink, "_MOST_OPEN", 3)
    store = ObjectStore.open(tmp_path.as_uri())
    before = open_files()
    with Together() as together:
        for number in range(10):
            with store.writing(f"a/{number}") as sink:
                together.take(sink)
                sink.write(bytes([number]))
            assert open_files() <= before + 3
        assert len(list(store.list())) == 9
    assert [store.get(f"a/{number}") for number in range(10)] == [bytes([number]) for number in range(10)]
    assert open_files() == before


def test_a_name_taken_meanwhile_is_refused_and_the_other_object_stays(tmp_path: Path) -> None:
    store = ObjectStore.open(tmp_path.as_uri())
    with pytest.raises(ObjectExists, match="a/two"), Together() as together:
        for name in ("a/one", "a/two"):
            with store.writing(name) as sink:
                together.take(sink)
                sink.write(b"mine")
        store.create("a/two", b"another's")
    assert store.get("a/two") == b"another's"


def test_a_writer_killed_before_the_end_of_the_block_leaves_no_object(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        store = ObjectStore.open(tmp_path.as_uri())
        with Together() as together:
            with store.writing("a/one") as sink:
                together.take(sink)
                sink.write(bytes(3_000_000))
            os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_disk_that_fills_while_objects_are_written_together_keeps_none(small_disk: Path) -> None:
    store = ObjectStore.open(small_disk.as_uri())
    with pytest.raises(DiskFull, match="two"), Together() as together:
        for name in ("one", "two"):
            with store.writing(name) as sink:
                together.take(sink)
                sink.write(bytes(700_000))
    assert list(small_disk.rglob("*")) == []
