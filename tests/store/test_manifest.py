"""One root names every byte: pages, superblock, signature, and through them each object."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from stoker.core.errors import BadSignature
from stoker.core.progress import SILENT
from stoker.core.signing import Ed25519Signer
from stoker.keys.refs import Purpose
from stoker.store.errors import (
    BadLabel,
    CorruptManifest,
    ObjectExists,
    ObjectMissing,
    OutOfRange,
    RolledBack,
    SaltReused,
    SwappedStream,
    UnknownVersion,
)
from stoker.store.header import StreamKind
from stoker.store.local import LocalFolder
from stoker.store.manifest import Manifest, ManifestWriter, shard_key
from stoker.store.objects import ObjectStore
from stoker.store.pages import PageShape, ShardEntry
from stoker.store.ranges import BytesLike
from stoker.store.sealed import PartitionSeal
from stoker.store.shards import shard_entry
from stoker.store.superblock import Artefact, Split, Superblock
from support.sealed_samples import KEK, LABEL, MemoryKeys, relabel

SIGNER = Ed25519Signer.from_seed(bytes(32))
PREFIX = "datasets/own-text/v"
SUPERBLOCK = Superblock(LABEL.subject, LABEL.version, str(KEK), LABEL.review_digest, 14)


class _Counting:
    """A folder that counts the objects read from it."""

    def __init__(self, root: Path) -> None:
        self._folder = LocalFolder(root)
        self.place = str(root)
        self.reads: list[str] = []

    def create(self, key: str, data: BytesLike) -> None:
        self._folder.create(key, data)

    def size(self, key: str) -> int:
        return self._folder.size(key)

    def read(self, key: str, start: int, length: int) -> memoryview:
        self.reads.append(key)
        return self._folder.read(key, start, length)

    def read_many(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[memoryview]:
        return self._folder.read_many(key, ranges)

    def list(self, prefix: str) -> Iterator[str]:
        return self._folder.list(prefix)

    def delete(self, key: str) -> None:
        self._folder.delete(key)

    def delete_prefix(self, prefix: str) -> int:
        return self._folder.delete_prefix(prefix)


def _entry(number: int) -> ShardEntry:
    digest = hashlib.sha256(b"%d" % number).digest()
    return ShardEntry(digest, digest[16:], 1000 + number, number)


def _write(store: ObjectStore, count: int, fan_out: int = 4096, prefix: str = PREFIX, first: int = 0) -> str:
    writer = ManifestWriter(fan_out=fan_out)
    for number in range(first, first + count):
        assert writer.add(_entry(number)) == number - first
    return writer.finish(SUPERBLOCK, SIGNER, store, prefix)


def _open(store: ObjectStore, root: str, prefix: str = PREFIX) -> Manifest:
    return Manifest.open(store, prefix, root, SIGNER.public_key)


@pytest.mark.parametrize(("count", "pages"), [(1, 1), (4096, 1), (4097, 3), (10_000, 4)])
def test_opening_reads_three_objects_whatever_the_size(tmp_path: Path, count: int, pages: int) -> None:
    backend = _Counting(tmp_path)
    store = ObjectStore(backend)
    root = _write(store, count)
    assert len([key for key in store.list() if "page" in key]) == pages
    manifest = _open(store, root)
    assert len(backend.reads) == 3
    for number in (0, count // 2, count - 1):
        before = len(backend.reads)
        assert manifest.entry(number) == _entry(number)
        assert len(backend.reads) - before <= 1
    before = len(backend.reads)
    assert manifest.entry(count - 1) == _entry(count - 1)
    assert len(backend.reads) == before
    for outside in (-1, count):
        with pytest.raises(OutOfRange, match=f"which has {count}"):
            manifest.entry(outside)
    block = manifest.superblock
    assert (block.shards, block.samples) == (count, count * (count - 1) // 2)
    assert block.object_bytes == 1000 * count + count * (count - 1) // 2


@pytest.mark.parametrize("count", [1, 3, 4, 5, 16, 17, 63, 64])
def test_three_levels_find_every_entry(tmp_path: Path, count: int) -> None:
    store = ObjectStore.open(f"file://{tmp_path}")
    manifest = _open(store, _write(store, count, fan_out=4))
    assert manifest.superblock.levels == (1 if count <= 4 else 2 if count <= 16 else 3)
    assert list(manifest.entries()) == [_entry(number) for number in range(count)]
    assert list(manifest.entries(count - 1, 1)) == [_entry(count - 1)]


def test_three_levels_of_full_pages_hold_69_thousand_million_shards() -> None:
    shape = PageShape(4096**3, 4096)
    assert (shape.levels, shape.pages(0), shape.pages(1), shape.pages(2)) == (3, 4096**2, 4096, 1)
    with pytest.raises(BadLabel, match="1 to 68719476736 shards"):
        PageShape(4096**3 + 1, 4096)
    with pytest.raises(BadLabel, match="not 0"):
        ManifestWriter().finish(SUPERBLOCK, SIGNER, ObjectStore.open("memory://"), PREFIX)
    with pytest.raises(BadLabel, match="not 65"):
        _write(ObjectStore.open("memory://"), 65, fan_out=4)


def test_every_changed_byte_of_a_manifest_is_refused(tmp_path: Path) -> None:
    store, choose = ObjectStore.open(f"file://{tmp_path}"), random.Random(4)
    root = _write(store, 20, fan_out=4)
    keys = sorted(store.list(PREFIX))
    assert len(keys) == 5 + 2 + 1 + 2
    for key in keys:
        path = tmp_path / key
        data = path.read_bytes()
        positions = range(len(data)) if len(data) < 200 else choose.sample(range(len(data)), 60)
        for position in positions:
            broken = bytearray(data)
            broken[position] ^= 1 << choose.randrange(8)
            path.write_bytes(broken)
            with pytest.raises((CorruptManifest, UnknownVersion, RolledBack, BadSignature)):
                list(_open(store, root).entries())
        for cut in (data[:-1], data + b"\x00", b""):
            path.write_bytes(cut)
            with pytest.raises((CorruptManifest, RolledBack, BadSignature), match=PREFIX):
                list(_open(store, root).entries())
        path.write_bytes(data)
    assert len(list(_open(store, root).entries())) == 20


def test_swapped_pages_are_refused_and_named(tmp_path: Path) -> None:
    store = ObjectStore.open(f"file://{tmp_path}")
    root = _write(store, 16, fan_out=4)
    one, other = (tmp_path / PREFIX / f"manifest/page-0-0000000{index}" for index in (1, 2))
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)
    manifest = _open(store, root)
    assert manifest.entry(0) == _entry(0)
    with pytest.raises(CorruptManifest, match="page-0-00000001"):
        manifest.entry(4)
    one.unlink()
    with pytest.raises(ObjectMissing, match="page-0-00000001"):
        manifest.entry(4)


def test_an_older_manifest_in_the_place_of_the_recorded_one_is_a_rollback(tmp_path: Path) -> None:
    store = ObjectStore.open(f"file://{tmp_path}")
    recorded = _write(store, 3)
    older = _write(store, 2, prefix="older")
    store.delete_prefix(PREFIX)
    (tmp_path / PREFIX).parent.mkdir(parents=True)
    (tmp_path / "older").rename(tmp_path / PREFIX)
    with pytest.raises(RolledBack, match=f"has the root {older}; {recorded} was recorded"):
        _open(store, recorded)


def test_a_manifest_signed_by_another_is_refused() -> None:
    store = ObjectStore.open("memory://")
    root = _write(store, 3)
    with pytest.raises(BadSignature, match=PREFIX):
        Manifest.open(store, PREFIX, root, Ed25519Signer.from_seed(b"x" * 32).public_key)
    with pytest.raises(CorruptManifest, match="no manifest root"):
        Manifest.open(store, PREFIX, root.upper(), SIGNER.public_key)


def test_the_signature_comes_last_and_only_once(tmp_path: Path) -> None:
    store = ObjectStore.open(f"file://{tmp_path}")
    root = _write(store, 3)
    with pytest.raises(ObjectExists):
        _write(store, 3)
    store.delete(f"{PREFIX}/manifest/signature")
    with pytest.raises(ObjectMissing, match="manifest/signature"):
        _open(store, root)


def test_atk_016_a_header_that_comes_twice_is_refused() -> None:
    writer = ManifestWriter()
    writer.add(_entry(0))
    writer.add(_entry(1))
    with pytest.raises(SaltReused, match="Shards 0 and 2 have the same header"):
        writer.add(dataclasses.replace(_entry(2), header_check=_entry(0).header_check))
    assert writer.shards == 2


def test_the_superblock_comes_back_as_it_was() -> None:
    store, writer = ObjectStore.open("memory://"), ManifestWriter()
    for number in range(4):
        writer.add(_entry(number))
    superblock = dataclasses.replace(
        SUPERBLOCK,
        splits=(Split("train", 0, 2, 1), Split("heldout", 2, 1, 2)),
        artefacts=(Artefact("tokenizer", 3),),
        source_root="ab" * 32,
        recipe_digest="cd" * 32,
    )
    manifest = _open(store, writer.finish(superblock, SIGNER, store, PREFIX))
    filled = dataclasses.replace(superblock, shards=4, samples=6, object_bytes=4006, fan_out=4096, levels=1)
    assert manifest.superblock == filled
    assert filled.split("heldout") == Split("heldout", 2, 1, 2) and filled.split("x") is None
    assert filled.artefact("tokenizer") == Artefact("tokenizer", 3) and filled.artefact("x") is None


@pytest.mark.parametrize(
    "changes",
    [
        {"splits": (Split("train", 0, 5, 1),)},
        {"splits": (Split("Train", 0, 1, 1),)},
        {"splits": (Split("a", 0, 1, 1), Split("a", 1, 1, 1))},
        {"artefacts": (Artefact("tokenizer", 4),)},
        {"review_digest": b""},
        {"source_root": "x"},
        {"recipe_digest": "AB" * 32},
        {"kek": ""},
        {"chunk_log2": -1},
    ],
)
def test_superblocks_that_do_not_follow_the_format_are_not_written(changes: dict[str, object]) -> None:
    store, writer = ObjectStore.open("memory://"), ManifestWriter()
    for number in range(4):
        writer.add(_entry(number))
    with pytest.raises(BadLabel):
        writer.finish(dataclasses.replace(SUPERBLOCK, **changes), SIGNER, store, PREFIX)  # type: ignore[arg-type]
    assert list(store.list()) == []


def test_superblocks_of_another_shape_are_refused() -> None:
    good = dataclasses.replace(SUPERBLOCK, shards=1, fan_out=4, levels=1).encode()
    assert Superblock.decode(good, "place").encode() == good
    for edit, expected in (
        ({"format": 2}, UnknownVersion),
        ({"extra": 1}, CorruptManifest),
        ({"shards": "1"}, CorruptManifest),
        ({"shards": True}, CorruptManifest),
        ({"shards": 1.0}, CorruptManifest),
        ({"splits": [{"name": "a"}]}, CorruptManifest),
        ({"splits": None}, CorruptManifest),
        ({"schema": {"dtype": "uint16"}}, CorruptManifest),
        ({"review_digest": "zz"}, CorruptManifest),
        ({"source_root": 5}, CorruptManifest),
    ):
        changed = json.dumps({**json.loads(good), **edit}, sort_keys=True, separators=(",", ":")).encode()
        with pytest.raises(expected, match="place"):
            Superblock.decode(changed, "place")
    for data in (
        b"[]",
        b"",
        b"{",
        b"\xff",
        good + b" ",
        b"[" * 100_000,
        json.dumps(json.loads(good)).encode(),
    ):
        with pytest.raises(CorruptManifest, match="place"):
            Superblock.decode(data, "place")


def test_an_auditor_finds_changed_missing_and_cut_objects_without_a_key(tmp_path: Path) -> None:
    store, keys, writer = ObjectStore.open(f"file://{tmp_path}"), MemoryKeys(), ManifestWriter()
    with PartitionSeal(keys, KEK, Purpose.DATASET) as seal:
        for shard in range(5):
            sealed = seal.seal(relabel(shard=shard), bytes(1000), chunk_log2=14)
            store.create(shard_key(PREFIX, shard), sealed.data)
            writer.add(shard_entry(sealed, 0))
    manifest = _open(store, writer.finish(SUPERBLOCK, SIGNER, store, PREFIX))
    report = manifest.verify_objects(SILENT)
    assert (report.objects, report.findings) == (5, ())

    changed, missing, cut = (tmp_path / manifest.shard_key(shard) for shard in (1, 2, 3))
    whole = changed.read_bytes()
    changed.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    missing.unlink()
    cut.write_bytes(cut.read_bytes()[:-1])
    found = [
        (finding.shard, finding.problem.split(":")[0]) for finding in manifest.verify_objects(SILENT).findings
    ]
    size = manifest.entry(3).object_bytes
    assert found == [
        (1, "was changed"),
        (2, "is missing"),
        (3, f"has {size - 1} bytes, where {size} were recorded"),
    ]


def test_a_stream_opens_only_as_the_shard_that_its_entry_names(tmp_path: Path) -> None:
    store, keys, writer = ObjectStore.open(f"file://{tmp_path}"), MemoryKeys(), ManifestWriter()
    with PartitionSeal(keys, KEK, Purpose.DATASET) as seal:
        for shard in range(2):
            sealed = seal.seal(relabel(shard=shard), b"shard %d" % shard, chunk_log2=14)
            store.create(shard_key(PREFIX, shard), sealed.data)
            writer.add(shard_entry(sealed, 0))
        other = seal.seal(relabel(shard=1), b"shard 1", chunk_log2=14)
    manifest = _open(store, writer.finish(SUPERBLOCK, SIGNER, store, PREFIX))
    assert manifest.open_stream(1, keys, StreamKind.SHARD, 1).read_all(100) == b"shard 1"
    with pytest.raises(SwappedStream, match="kind"):
        manifest.open_stream(1, keys, StreamKind.ARTEFACT, 1)
    one, two = (tmp_path / manifest.shard_key(shard) for shard in (0, 1))
    two.write_bytes(other.data)
    with pytest.raises(SwappedStream, match="not the recorded one"):
        manifest.open_stream(1, keys, StreamKind.SHARD, 1)
    two.write_bytes(one.read_bytes())
    with pytest.raises(SwappedStream, match="its shard is 0, not 1"):
        manifest.open_stream(1, keys, StreamKind.SHARD, 1)
