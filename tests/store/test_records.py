"""Shards of records: what is written is read, block by block, and what contradicts itself is refused."""

from __future__ import annotations

import dataclasses
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stoker.core.errors import StokerError
from stoker.keys.refs import Purpose
from stoker.store.errors import (
    BadLabel,
    BadRecord,
    CorruptManifest,
    CorruptShard,
    CorruptStream,
    OutOfRange,
    TruncatedStream,
    UnknownVersion,
)
from stoker.store.ragged import Ragged
from stoker.store.ranges import BytesSource
from stoker.store.reader import StreamReader
from stoker.store.record_schema import FieldKind, RecordField, RecordSchema
from stoker.store.records import RECORD_SHARD_SCHEMA, RecordBlock, RecordShardReader, RecordShardWriter
from stoker.store.sealed import PartitionSeal
from stoker.store.superblock import SampleSchema, Split, Superblock
from support.sealed_samples import KEK, MemoryKeys, relabel

FIELDS = (
    RecordField("image", FieldKind.BYTES, "uint8", media="image/jpeg"),
    RecordField("text", FieldKind.TOKENS, "uint16"),
    RecordField("label", FieldKind.NUMBER, "int64"),
    RecordField("box", FieldKind.NUMBER, "float32", (2, 3)),
    RecordField("flag", FieldKind.NUMBER, "uint8"),
)
SCHEMA = RecordSchema(FIELDS, records_per_block=5, blocks_per_shard=4, chunk_log2=14)
LABEL = relabel(schema=RECORD_SHARD_SCHEMA)


def _rows(count: int, *, longest: int = 9000) -> list[dict[str, Any]]:
    random = np.random.default_rng(count)
    return [
        {
            "image": random.bytes(int(random.integers(0, longest))),
            "text": random.integers(0, 1 << 16, int(random.integers(0, 40))),
            "label": number - 7,
            "box": random.random((2, 3)),
            "flag": number % 256,
        }
        for number in range(count)
    ]


def _sealed(rows: list[dict[str, Any]], keys: MemoryKeys, schema: RecordSchema = SCHEMA) -> bytes:
    with PartitionSeal(keys, KEK, Purpose.DATASET) as seal:
        writer = RecordShardWriter(seal, LABEL, schema)
        writer.extend(rows)
        assert (writer.records, writer.room) == (len(rows), schema.records_per_shard - len(rows))
        sealed, entry = writer.finish()
    assert (entry.samples, entry.object_bytes) == (len(rows), len(sealed.data))
    return bytes(sealed.data)


def _reader(data: bytes, keys: MemoryKeys, records: int, schema: RecordSchema = SCHEMA) -> RecordShardReader:
    stream = StreamReader.open(BytesSource(data), keys, LABEL, place="shard")
    return RecordShardReader(stream, schema, records)


def _same(block: RecordBlock, rows: list[dict[str, Any]]) -> None:
    assert block.rows == len(rows)
    image, text = block.column("image"), block.column("text")
    assert isinstance(image, Ragged) and isinstance(text, Ragged)
    assert [bytes(image.row(i)) for i in range(len(rows))] == [row["image"] for row in rows]
    assert [text.row(i).tolist() for i in range(len(rows))] == [row["text"].tolist() for row in rows]
    label, box, flag = (block.column(name) for name in ("label", "box", "flag"))
    assert label.dtype == np.int64 and label.tolist() == [row["label"] for row in rows]
    assert np.array_equal(box, np.array([row["box"] for row in rows], dtype=np.float32).reshape(-1, 2, 3))
    assert flag.tolist() == [row["flag"] for row in rows]


@pytest.mark.parametrize("count", [0, 1, 4, 5, 6, 19, 20])
def test_a_shard_of_records_reads_back_block_by_block(count: int) -> None:
    keys, rows = MemoryKeys(), _rows(count)
    reader = _reader(_sealed(rows, keys), keys, count)
    assert (reader.records, reader.blocks) == (count, -(-count // 5))
    buffer = np.empty(0, dtype=np.uint8)
    for block in range(reader.blocks):
        if reader.buffer_bytes(block) > len(buffer):
            buffer = np.full(2 * reader.buffer_bytes(block), 9, dtype=np.uint8)
        found = reader.read_block(block, into=buffer)
        assert found.buffer is buffer
        _same(found, rows[5 * block : 5 * block + 5])
        _same(reader.read_block(block), rows[5 * block : 5 * block + 5])
        found.wipe()
        assert not buffer.any()
    for wrong in (-1, reader.blocks):
        with pytest.raises(OutOfRange, match=f"Block {wrong}"):
            reader.read_block(wrong)


def test_a_block_begins_on_a_chunk_and_opens_no_chunk_of_its_neighbours() -> None:
    """Every chunk outside of block 2 is destroyed, and block 2 still opens."""
    keys, rows = MemoryKeys(), _rows(20, longest=30_000)
    data = bytearray(_sealed(rows, keys))
    stream = StreamReader.open(BytesSource(data), keys, LABEL, place="shard")
    reader = RecordShardReader(stream, SCHEMA, 20)
    first, last = (int(reader._table["first_chunk"][block]) for block in (2, 3))
    assert first < last - 1
    start = len(stream.header.encoded)
    for chunk in (*range(1, first), *range(last, stream.chunks)):
        data[start + chunk * 2**14 + 5] ^= 1
    _same(RecordShardReader(stream, SCHEMA, 20).read_block(2), rows[10:15])
    for block in (1, 3):
        with pytest.raises(CorruptStream, match="chunk"):
            reader.read_block(block)


def test_what_does_not_fit_the_schema_is_refused_and_named() -> None:
    good = _rows(1)[0]
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"image": "text"}, "'image' holds bytes, not str"),
        ({"image": np.zeros(3, dtype=np.int64)}, "'image' holds bytes"),
        ({"text": [[1]]}, "'text' holds tokens in one row"),
        ({"text": [65_536]}, "'text' has a value that uint16 does not hold"),
        ({"text": [-1]}, "uint16"),
        ({"text": [0.5]}, "uint16"),
        ({"label": [1]}, r"'label' has the shape \(\), not \(1,\)"),
        ({"label": 2**63}, "int64"),
        ({"label": "7"}, "int64"),
        ({"box": np.zeros((3, 2))}, r"shape \(2, 3\), not \(3, 2\)"),
        ({"box": [[1, 2, 3], [1, 2]]}, "'box' holds numbers of one shape"),
        ({"box": [[np.nan, 1e300, 0], [0, 0, 0]]}, "float32"),
        ({"flag": 256}, "uint8"),
        ({"other": 1}, "'other' is unknown"),
    ]
    with PartitionSeal(MemoryKeys(), KEK, Purpose.DATASET) as seal:
        writer = RecordShardWriter(seal, LABEL, SCHEMA)
        for change, message in wrong:
            with pytest.raises(BadRecord, match=message) as caught:
                writer.add({**good, **change})
            assert caught.value.message.startswith("Record 0 of shard 7 of dataset/own-text")
        with pytest.raises(BadRecord, match="'box' is missing"):
            writer.add({name: value for name, value in good.items() if name != "box"})
        assert writer.records == 0
        writer.extend(_rows(20))
        with pytest.raises(BadLabel, match="full with 20"):
            writer.add(good)
        with pytest.raises(BadLabel, match="schema 2"):
            RecordShardWriter(seal, relabel(schema=1), SCHEMA)


def test_float_specials_are_kept() -> None:
    keys = MemoryKeys()
    schema = RecordSchema((RecordField("x", FieldKind.NUMBER, "float32", (3,)),), 2, 1, 14)
    row = {"x": [np.nan, -np.inf, 0.1]}
    found = _reader(_sealed([row], keys, schema), keys, 1, schema).read_block(0).column("x")
    assert np.array_equal(found, np.array([row["x"]], dtype=np.float32), equal_nan=True)


@given(
    count=st.integers(0, 23),
    per_block=st.integers(1, 7),
    longest=st.sampled_from([1, 50, 20_000]),
    chunk_log2=st.sampled_from([14, 15]),
)
@settings(max_examples=25, deadline=None)
def test_any_sizes_read_back(count: int, per_block: int, longest: int, chunk_log2: int) -> None:
    schema = RecordSchema(FIELDS, per_block, -(-max(1, count) // per_block), chunk_log2)
    keys, rows = MemoryKeys(), _rows(count, longest=longest)
    reader = _reader(_sealed(rows, keys, schema), keys, count, schema)
    for block in range(reader.blocks):
        _same(reader.read_block(block), rows[block * per_block : (block + 1) * per_block])


@pytest.mark.parametrize("records", [0, 14, 16, 20, 21])
def test_a_shard_with_another_number_of_records_than_recorded_is_refused(records: int) -> None:
    keys = MemoryKeys()
    data = _sealed(_rows(15), keys)
    with pytest.raises((TruncatedStream, CorruptShard), match="shard 7 of dataset/own-text"):
        _reader(data, keys, records)


def test_a_changed_chunk_is_named_and_nothing_of_it_is_left() -> None:
    keys = MemoryKeys()
    data = bytearray(_sealed(_rows(20), keys))
    data[len(data) // 2] ^= 1
    reader = _reader(bytes(data), keys, 20)
    buffers = [np.full(reader.buffer_bytes(block), 9, dtype=np.uint8) for block in range(4)]
    outcomes = []
    for block, buffer in enumerate(buffers):
        try:
            reader.read_block(block, into=buffer)
            outcomes.append(True)
        except CorruptStream as error:
            assert "chunk" in error.message
            assert not buffer.any()
            outcomes.append(False)
    assert outcomes.count(False) == 1


@pytest.mark.parametrize("cut", [1, 17, 2**14, 2**15 + 3])
def test_a_truncated_shard_is_refused(cut: int) -> None:
    keys = MemoryKeys()
    data = _sealed(_rows(20), keys)
    with pytest.raises((TruncatedStream, CorruptStream)):
        _reader(data[:-cut], keys, 20)


def _resealed(plain: bytes, keys: MemoryKeys, records: int) -> RecordShardReader:
    """A shard with valid tags around any plaintext: what a wrong writer would have made."""
    with PartitionSeal(keys, KEK, Purpose.DATASET) as seal:
        sealed = seal.seal(LABEL, plain, chunk_log2=14)
    return _reader(bytes(sealed.data), keys, records)


def _plain(count: int) -> bytearray:
    keys = MemoryKeys()
    stream = StreamReader.open(BytesSource(_sealed(_rows(count), keys)), keys, LABEL, place="shard")
    return stream.read_all(1 << 24)


@pytest.mark.parametrize(
    ("offset", "value", "message"),
    [
        (0, b"STKX", "magic"),
        (4, b"\x02", "version"),
        (5, b"\x01", "reserved"),
        (6, struct.pack("<H", 4), "fields"),
        (8, struct.pack("<I", 3), "blocks"),
        (8, struct.pack("<I", 2**32 - 1), "blocks"),
        (12, struct.pack("<I", 1), "reserved"),
        (16, struct.pack("<Q", 2**63), "records"),
        (24, struct.pack("<Q", 1), "reserved"),
        (32, struct.pack("<Q", 0), "block 0 of 4: it does not begin"),
        (32 + 24, struct.pack("<Q", 2**40), "block 1 of 4: it does not begin"),
        (32 + 8, struct.pack("<Q", 2**62), "block 0 of 4: it has 4611686018427387904 bytes"),
        (32 + 8, struct.pack("<Q", 8), "block 0 of 4: it has 8 bytes"),
        (32 + 8, struct.pack("<Q", 1001), "block 0 of 4: it has 1001 bytes"),
        (32 + 16, struct.pack("<I", 6), "block 0 of 4: it has 6 records"),
        (32 + 20, struct.pack("<I", 1), "block 0 of 4"),
    ],
)
def test_a_head_that_contradicts_itself_is_refused(offset: int, value: bytes, message: str) -> None:
    plain = _plain(20)
    plain[offset : offset + len(value)] = value
    with pytest.raises(CorruptShard, match=message) as caught:
        _resealed(bytes(plain), MemoryKeys(), 20)
    assert caught.value.message.startswith("shard 7 of dataset/own-text")


def test_an_offset_that_goes_back_or_leaves_the_block_is_refused_and_the_buffer_wiped() -> None:
    plain, keys = _plain(20), MemoryKeys()
    good = _resealed(bytes(plain), keys, 20)
    begin = good._reader.geometry.plain_start(int(good._table["first_chunk"][1]))
    for place, value in ((0, 1), (2, -1), (2, 2**50), (5, -8), (5, 2**62), (1, 2**40)):
        changed = bytearray(plain)
        changed[begin + 8 * place : begin + 8 * place + 8] = struct.pack("<q", value)
        reader = _resealed(bytes(changed), keys, 20)
        assert reader.read_block(0).rows == 5
        buffer = np.full(reader.buffer_bytes(1), 9, dtype=np.uint8)
        with pytest.raises(CorruptShard, match=r"block 1 of 4: .*'image'"):
            reader.read_block(1, into=buffer)
        assert not buffer.any()
    changed = bytearray(plain)
    images = struct.unpack_from("<q", plain, begin + 40)[0]
    changed[begin + 40 : begin + 48] = struct.pack(
        "<q", images - 64
    )  # a row shorter: what follows is elsewhere
    with pytest.raises(CorruptShard, match="block 1 of 4"):
        _resealed(bytes(changed), keys, 20).read_block(1)


@given(
    changes=st.lists(st.tuples(st.integers(0, 32 + 24 * 4 - 1), st.integers(0, 255)), min_size=1, max_size=6)
)
@settings(max_examples=60, deadline=None)
def test_a_fuzzed_head_is_refused_or_reads_the_same(changes: list[tuple[int, int]]) -> None:
    rows = _rows(20, longest=50)
    keys = MemoryKeys()
    stream = StreamReader.open(BytesSource(_sealed(rows, keys)), keys, LABEL, place="shard")
    plain = stream.read_all(1 << 24)
    for place, value in changes:
        plain[place] = value
    try:
        reader = _resealed(bytes(plain), keys, 20)
        blocks = [reader.read_block(block) for block in range(4)]
    except CorruptShard:
        return
    for block, found in enumerate(blocks):
        _same(found, rows[5 * block : 5 * block + 5])


@given(
    changes=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=6),
)
@settings(max_examples=60, deadline=None)
def test_a_fuzzed_block_is_refused_or_stays_inside_itself(changes: list[tuple[int, int]]) -> None:
    plain, keys = _FUZZED[:], MemoryKeys()
    begin = 2**14 - 56
    for place, value in changes:
        plain[begin + place % (len(plain) - begin)] = value
    reader = _resealed(bytes(plain), keys, 5)
    try:
        block = reader.read_block(0)
    except CorruptShard:
        return
    image = block.column("image")
    assert isinstance(image, Ragged)
    assert sum(len(image.row(i)) for i in range(5)) == len(image.values) <= len(block.buffer)


_FUZZED = bytearray(_plain(5))


def _superblock(schema: RecordSchema | SampleSchema) -> Superblock:
    return Superblock(
        subject=LABEL.subject,
        version=LABEL.version,
        kek=str(KEK),
        review_digest=bytes(32),
        chunk_log2=14,
        schema=schema,
        splits=(Split("train", 0, 1, 20),),
        shards=1,
    )


def test_a_superblock_keeps_a_schema_of_records_exactly() -> None:
    data = _superblock(SCHEMA).encode()
    assert Superblock.decode(data, "here").schema == SCHEMA
    assert b'"form":"records"' in data


def test_a_superblock_of_samples_has_the_bytes_that_it_had_before_there_were_records() -> None:
    schema = SampleSchema("uint16", 65, 125, 375, 14)
    data = _superblock(schema).encode()
    assert (
        b'"schema":{"chunk_log2":14,"dtype":"uint16","sample_tokens":65,"samples_per_chunk":125,'
        b'"samples_per_shard":375},' in data
    )
    assert Superblock.decode(data, "here").schema == schema


def test_an_unknown_form_is_refused_as_another_version() -> None:
    data = _superblock(SCHEMA).encode().replace(b'"form":"records"', b'"form":"tables"')
    with pytest.raises(UnknownVersion, match="here: a schema of form 'tables'"):
        Superblock.decode(data, "here")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"kind":"bytes"', b'"kind":"blobs"'),
        (b'"dtype":"uint8"', b'"dtype":"object"'),
        (b'"records_per_block":5', b'"records_per_block":0'),
        (b'"records_per_block":5', b'"records_per_block":5.0'),
        (b'"records_per_block":5', b'"records_per_block":99999999999'),
        (b'"blocks_per_shard":4', b'"blocks_per_shard":-1'),
        (b'"chunk_log2":14,"fields"', b'"chunk_log2":40,"fields"'),
        (b'"shape":[2,3]', b'"shape":[2,-3]'),
        (b'"shape":[2,3]', b'"shape":[4294967296,4294967296]'),
        (b'"shape":[2,3]', b'"shape":"23"'),
        (b'"name":"box"', b'"name":"label"'),
        (b'"name":"box"', b'"name":"../box"'),
        (b'"media":"image/jpeg"', b'"media":"jpeg"'),
        (b'"media":"image/jpeg"', b'"media":1'),
        (b'"form":"records"', b'"form":"records","more":1'),
        (b'"shape":[2,3]', b'"shape":[2,3],"more":1'),
    ],
)
def test_a_malformed_schema_of_records_is_refused(old: bytes, new: bytes) -> None:
    data = _superblock(SCHEMA).encode()
    assert old in data
    with pytest.raises(CorruptManifest, match="here"):
        Superblock.decode(data.replace(old, new, 1), "here")


def test_fit_fills_blocks_and_shards_by_the_mean_record() -> None:
    schema = RecordSchema.fit(FIELDS, record_bytes=8192, block_bytes=1 << 20, shard_bytes=1 << 24)
    assert (schema.records_per_block, schema.blocks_per_shard) == (128, 16)
    huge = RecordSchema.fit(FIELDS, record_bytes=1e9)
    assert (huge.records_per_block, huge.blocks_per_shard) == (1, 1)
    with pytest.raises(BadLabel, match="do not fit into a block"):
        dataclasses.replace(SCHEMA, fields=(RecordField("x", FieldKind.NUMBER, "uint8", (1 << 29,)),))


def test_ragged_rows_are_padded_cut_and_counted() -> None:
    ragged = Ragged(np.arange(1, 7, dtype=np.uint16), np.array([0, 2, 2, 6]))
    array, mask = ragged.padded(3, fill=9)
    assert array.tolist() == [[1, 2, 9], [9, 9, 9], [3, 4, 5]]
    assert mask.tolist() == [[True, True, False], [False] * 3, [True] * 3]
    assert array.dtype == np.uint16
    assert (len(ragged), ragged.lengths.tolist()) == (3, [2, 0, 4])
    assert ragged.cu_seqlens().tolist() == [0, 2, 2, 6]
    assert ragged.cu_seqlens().dtype == np.int32
    with pytest.raises(IndexError):
        ragged.row(3)
    with pytest.raises(OverflowError):
        Ragged(np.zeros(0, np.uint8), np.array([0, 2**31])).cu_seqlens()
    ragged.wipe()
    assert not ragged.values.any()


@pytest.mark.parametrize("error", [CorruptShard, BadRecord])
def test_the_errors_say_what_to_do(error: type[StokerError]) -> None:
    keys = MemoryKeys()
    with pytest.raises(StokerError) as caught:
        if error is BadRecord:
            with PartitionSeal(keys, KEK, Purpose.DATASET) as seal:
                RecordShardWriter(seal, LABEL, SCHEMA).add({})
        else:
            _resealed(bytes(_plain(20)).replace(b"STKR", b"STKS"), keys, 20)
    assert isinstance(caught.value, error)
    assert caught.value.hint
