"""Shards of fixed-length samples: what is written is read, and no sample takes two chunks."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from stoker.core.signing import Ed25519Signer
from stoker.keys.refs import Purpose
from stoker.store.errors import BadLabel, CorruptStream, OutOfRange, TruncatedStream
from stoker.store.header import StreamKind
from stoker.store.manifest import Manifest, ManifestWriter, shard_key
from stoker.store.objects import ObjectStore
from stoker.store.ranges import BytesSource, FileSource, RangeSource
from stoker.store.reader import StreamReader
from stoker.store.sealed import PartitionSeal
from stoker.store.shards import SHARD_SCHEMA, ShardReader, ShardWriter
from stoker.store.superblock import SampleSchema, Split, Superblock
from support.sealed_samples import KEK, LABEL, MemoryKeys, relabel

SCHEMA = SampleSchema.fit(vocabulary=1024, sample_tokens=65, chunk_log2=14, samples_per_shard=400)


def _tokens(count: int, schema: SampleSchema = SCHEMA, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 1024, (count, schema.sample_tokens))


@pytest.mark.parametrize("count", [0, 1, 124, 125, 126, 300, 375])
def test_a_shard_reads_back_chunk_by_chunk(count: int) -> None:
    assert SCHEMA.samples_per_chunk == 125 and SCHEMA.samples_per_shard == 375
    keys, tokens = MemoryKeys(), _tokens(count)
    with PartitionSeal(keys, KEK, Purpose.DATASET) as seal:
        writer = ShardWriter(seal, LABEL, SCHEMA)
        for start in range(0, count, 70):
            writer.add(tokens[start : start + 70])
        assert (writer.samples, writer.room) == (count, 375 - count)
        sealed, entry = writer.finish()
    assert (entry.samples, entry.object_bytes) == (count, len(sealed.data))
    stream = StreamReader.open(BytesSource(sealed.data), keys, LABEL, place="shard")
    reader = ShardReader(stream, SCHEMA, count)
    chunks = [reader.read_chunk(chunk) for chunk in range(reader.chunks)]
    assert [len(chunk) for chunk in chunks[:-1]] == [125] * (len(chunks) - 1)
    assert np.array_equal(np.concatenate([*chunks, _tokens(0)]), tokens)
    with pytest.raises(OutOfRange, match=f"Chunk {reader.chunks}"):
        reader.read_chunk(reader.chunks)


def test_no_sample_lies_across_two_chunks() -> None:
    """Each chunk alone, opened from the stream, holds its samples whole."""
    keys, tokens = MemoryKeys(), _tokens(375)
    with PartitionSeal(keys, KEK, Purpose.DATASET) as seal:
        writer = ShardWriter(seal, LABEL, SCHEMA)
        writer.add(tokens)
        sealed, _ = writer.finish()
    stream = StreamReader.open(BytesSource(sealed.data), keys, LABEL, place="shard")
    for chunk in range(3):
        start = stream.geometry.plain_start(chunk)
        rows = np.frombuffer(stream.read(start, 125 * SCHEMA.sample_bytes), "<u2").reshape(125, 65)
        assert np.array_equal(rows, tokens[chunk * 125 : (chunk + 1) * 125])


def _opened(count: int, source_of: Callable[[bytes], RangeSource] = BytesSource) -> ShardReader:
    keys = MemoryKeys()
    with PartitionSeal(keys, KEK, Purpose.DATASET) as seal:
        writer = ShardWriter(seal, LABEL, SCHEMA)
        writer.add(_tokens(count))
        sealed, _ = writer.finish()
    stream = StreamReader.open(source_of(bytes(sealed.data)), keys, LABEL, place="shard")
    return ShardReader(stream, SCHEMA, count)


@pytest.mark.parametrize("chunk", [0, 1, 2])
def test_a_chunk_read_into_used_room_leaves_nothing_of_what_was_there(chunk: int) -> None:
    room = np.full(SCHEMA.sample_bytes * 140, 0xEE, dtype=np.uint8)
    rows = _opened(253).read_chunk_into(chunk, room.data)
    samples = room[: rows * SCHEMA.sample_bytes].view("<u2").reshape(rows, 65)
    assert np.array_equal(samples, _tokens(253)[chunk * 125 : chunk * 125 + 125])
    assert rows == (125, 125, 3)[chunk]
    assert not room[rows * SCHEMA.sample_bytes :].any()


def test_a_changed_chunk_leaves_nothing_in_the_room_it_was_read_into() -> None:
    def changed(data: bytes) -> BytesSource:
        return BytesSource(data[:20_000] + bytes([data[20_000] ^ 1]) + data[20_001:])

    reader = _opened(375, changed)
    room = np.full(20_000, 0xEE, dtype=np.uint8)
    with pytest.raises(CorruptStream, match="chunk 1 of 3"):
        reader.read_chunk_into(1, room.data)
    assert not room.any()


def test_many_threads_may_read_one_shard_of_a_file(tmp_path: Path) -> None:
    def file_of(data: bytes) -> FileSource:
        (tmp_path / "shard").write_bytes(data)
        return FileSource(tmp_path / "shard")

    reader, expected = _opened(375, file_of), _tokens(375)

    def read(number: int) -> bool:
        chunk = number % 3
        return np.array_equal(reader.read_chunk(chunk), expected[chunk * 125 : chunk * 125 + 125])

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(read, range(300)))


def test_large_vocabularies_take_four_bytes() -> None:
    schema = SampleSchema.fit(vocabulary=65_537, sample_tokens=9, chunk_log2=14, samples_per_shard=1)
    assert (schema.dtype, schema.samples_per_shard) == ("uint32", schema.samples_per_chunk)
    keys, tokens = MemoryKeys(), np.full((3, 9), 65_536, dtype=np.int64)
    with PartitionSeal(keys, KEK, Purpose.DATASET) as seal:
        writer = ShardWriter(seal, LABEL, schema)
        writer.add(tokens)
        sealed, _ = writer.finish()
    stream = StreamReader.open(BytesSource(sealed.data), keys, LABEL, place="shard")
    found = ShardReader(stream, schema, 3).read_chunk(0)
    assert found.dtype == np.dtype("<u4") and np.array_equal(found, tokens)


def test_samples_that_do_not_fit_are_refused_and_named() -> None:
    with PartitionSeal(MemoryKeys(), KEK, Purpose.DATASET) as seal:
        writer = ShardWriter(seal, LABEL, SCHEMA)
        with pytest.raises(BadLabel, match=r"\(count, 65\), not \(2, 64\)"):
            writer.add(np.zeros((2, 64), dtype=np.int64))
        with pytest.raises(BadLabel, match="0 to 65535"):
            writer.add(np.full((1, 65), 65_536))
        with pytest.raises(BadLabel, match="0 to 65535"):
            writer.add(np.full((1, 65), -1))
        with pytest.raises(BadLabel, match="0 to 65535"):
            writer.add(np.full((1, 65), 0.5))
        with pytest.raises(BadLabel, match="376 samples"):
            writer.add(np.zeros((376, 65), dtype=np.uint16))
        with pytest.raises(BadLabel, match="schema 1"):
            ShardWriter(seal, relabel(schema=2), SCHEMA)
    with pytest.raises(BadLabel, match="No sample of 10000 tokens"):
        SampleSchema.fit(vocabulary=10, sample_tokens=10_000, chunk_log2=14, samples_per_shard=1)
    with pytest.raises(BadLabel, match="do not fit"):
        SampleSchema("uint16", 65, 126, 126, 14)
    with pytest.raises(BadLabel, match="whole number of chunks"):
        SampleSchema("uint16", 65, 125, 126, 14)
    with pytest.raises(BadLabel, match="float32"):
        SampleSchema("float32", 65, 125, 125, 14)


def test_a_shard_with_another_number_of_samples_than_recorded_is_refused() -> None:
    keys = MemoryKeys()
    with PartitionSeal(keys, KEK, Purpose.DATASET) as seal:
        writer = ShardWriter(seal, LABEL, SCHEMA)
        writer.add(_tokens(126))
        sealed, _ = writer.finish()
    stream = StreamReader.open(BytesSource(sealed.data), keys, LABEL, place="shard")
    with pytest.raises(TruncatedStream, match="125 samples"):
        ShardReader(stream, SCHEMA, 125)


def test_a_dataset_of_shards_opens_through_its_manifest() -> None:
    store, keys, signer = ObjectStore.open("memory://"), MemoryKeys(), Ed25519Signer.from_seed(bytes(32))
    prefix, manifest_writer, written = f"datasets/own-text/{LABEL.version}", ManifestWriter(), []
    with PartitionSeal(keys, KEK, Purpose.DATASET) as seal:
        for shard, count in enumerate((375, 375, 11)):
            writer = ShardWriter(seal, relabel(shard=shard), SCHEMA)
            tokens = _tokens(count, seed=shard)
            written.append(tokens)
            writer.add(tokens)
            sealed, entry = writer.finish()
            store.create(shard_key(prefix, shard), sealed.data)
            assert manifest_writer.add(entry) == shard
    superblock = Superblock(
        subject=LABEL.subject,
        version=LABEL.version,
        kek=str(KEK),
        review_digest=LABEL.review_digest,
        chunk_log2=14,
        schema=SCHEMA,
        splits=(Split("train", 0, 3, 761),),
    )
    root = manifest_writer.finish(superblock, signer, store, prefix)
    manifest = Manifest.open(store, prefix, root, signer.public_key)
    assert manifest.superblock.samples == 761
    for shard, tokens in enumerate(written):
        label = manifest.label(shard, StreamKind.SHARD, SHARD_SCHEMA)
        reader = ShardReader.open(
            manifest, shard, label, keys, source=store.source(manifest.shard_key(shard))
        )
        found = np.concatenate([reader.read_chunk(chunk) for chunk in range(reader.chunks)])
        assert np.array_equal(found, tokens)
