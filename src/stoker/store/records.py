"""Shards of records: several fields each, of any length, in blocks that open alone. See docs/design/store.md.

A block holds the same number of records as every other and begins on a chunk's border, so that the place of
each record is arithmetic and one block is opened without a byte of its neighbours. Inside a block each field
lies together: numbers as one array, bytes and tokens as offsets and values.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from stoker.keys.partition import KeySource
from stoker.store.errors import BadLabel, BadRecord, CorruptShard, OutOfRange, TruncatedStream
from stoker.store.header import StreamLabel
from stoker.store.manifest import Manifest
from stoker.store.pages import ShardEntry
from stoker.store.payload import ChunkGeometry
from stoker.store.ragged import Ragged
from stoker.store.ranges import RangeSource
from stoker.store.reader import StreamReader
from stoker.store.record_schema import MAX_BLOCK_BYTES, FieldKind, RecordField, RecordSchema
from stoker.store.sealed import SealedBytes, StreamSeal
from stoker.store.shards import shard_entry

RECORD_SHARD_SCHEMA: Final = 2
"""The schema version in the header of every shard of this form."""

HEAD_MAGIC: Final = b"STKR"
HEAD_VERSION: Final = 1

RecordRow: TypeAlias = Mapping[str, Any]
"""One record, a value for each field of the schema by its name, and no others.

BYTES: bytes, bytearray or memoryview, or an array of uint8. TOKENS: an array or sequence of whole numbers, of
any length. NUMBER: a number, or an array or nested sequence of the field's shape.
"""

Column: TypeAlias = "npt.NDArray[Any] | Ragged"
"""NUMBER: an array [rows, *shape]. BYTES and TOKENS: a Ragged of `rows` rows."""

_HEAD: Final = struct.Struct("<4sBBHIIQQ")  # magic, version, 0, fields, blocks, 0, records, 0
_ENTRY: Final = np.dtype([("first_chunk", "<u8"), ("bytes", "<u8"), ("rows", "<u4"), ("zero", "<u4")])
_ALIGN: Final = 8


class RecordBlock:
    """The opened records of one block; its columns are views into `buffer`, which `wipe` overwrites."""

    __slots__ = ("_columns", "buffer", "rows")

    def __init__(self, rows: int, columns: Mapping[str, Column], buffer: npt.NDArray[np.uint8]) -> None:
        self.rows = rows
        self.buffer = buffer
        self._columns = columns

    def column(self, name: str) -> Column:
        """The column of this field. Raises KeyError."""
        return self._columns[name]

    def wipe(self) -> None:
        """Overwrite every record of the block."""
        self.buffer.fill(0)


class RecordShardWriter:
    """Collects the records of one shard in memory, then seals them. `label.schema` is RECORD_SHARD_SCHEMA."""

    def __init__(self, seal: StreamSeal, label: StreamLabel, schema: RecordSchema) -> None:
        if label.schema != RECORD_SHARD_SCHEMA:
            raise BadLabel(f"A shard of records has schema {RECORD_SHARD_SCHEMA}, not {label.schema}.")
        self._seal = seal
        self._label = label
        self._schema = schema
        self._fields = {field.name: field for field in schema.fields}
        self._blocks: list[tuple[int, bytearray]] = []
        self._rows: list[dict[str, npt.NDArray[Any]]] = []
        self._row_bytes = 0
        self._done = 0
        self._records = 0

    @property
    def records(self) -> int:
        """How many records the shard has so far."""
        return self._records

    @property
    def room(self) -> int:
        """How many records more the shard takes."""
        return self._schema.records_per_shard - self._records

    @property
    def plain_bytes(self) -> int:
        """About how much plaintext the shard has so far, without what fills its chunks."""
        return self._done + self._row_bytes

    def add(self, row: RecordRow) -> None:
        """Append one record, whose values are copied.

        Raises BadRecord, naming record and field, when a field is missing, unknown, of another kind or shape,
        does not hold the value, or when its block becomes larger than a block may be; BadLabel when full.
        """
        if self.room < 1:
            raise BadLabel(f"A record was added to a shard that is full with {self._records}.")
        if set(row) != set(self._fields):
            missing, unknown = sorted(set(self._fields) - set(row)), sorted(set(row) - set(self._fields))
            wrong = [f"{name!r} is missing" for name in missing]
            wrong += [f"{str(name)[:80]!r} is unknown" for name in unknown]
            raise self._refused("; ".join(wrong))
        taken = {name: self._value(field, row[name]) for name, field in self._fields.items()}
        size = sum(value.nbytes for value in taken.values()) + _ALIGN * len(taken)
        if self._row_bytes + size + 2 * _ALIGN * len(taken) > MAX_BLOCK_BYTES:
            raise self._refused(
                f"its block would hold {self._row_bytes + size} bytes, where {MAX_BLOCK_BYTES} are the most"
            )
        self._rows.append(taken)
        self._row_bytes += size
        self._records += 1
        if len(self._rows) == self._schema.records_per_block:
            self._end_block()

    def extend(self, rows: Iterable[RecordRow]) -> None:
        """Append records one after the other, as `add` does."""
        for row in rows:
            self.add(row)

    def finish(self) -> tuple[SealedBytes, ShardEntry]:
        """Seal the shard; its bytes to store, and its entry for the manifest. The records are wiped."""
        self._end_block()
        geometry = ChunkGeometry(1 << self._schema.chunk_log2)
        table = np.zeros(len(self._blocks), dtype=_ENTRY)
        end = _HEAD.size + table.nbytes
        for number, (rows, block) in enumerate(self._blocks):
            chunk = geometry.chunk_of(end - 1) + 1
            table[number] = (chunk, len(block), rows, 0)
            end = geometry.plain_start(chunk) + len(block)
        plain = bytearray(end)
        fields, blocks = len(self._schema.fields), len(self._blocks)
        head = _HEAD.pack(HEAD_MAGIC, HEAD_VERSION, 0, fields, blocks, 0, self._records, 0)
        plain[: _HEAD.size + table.nbytes] = head + table.tobytes()
        for entry, (_, block) in zip(table, self._blocks, strict=True):
            begin = geometry.plain_start(int(entry["first_chunk"]))
            plain[begin : begin + len(block)] = block
            block[:] = bytes(len(block))
        self._blocks = []
        try:
            sealed = self._seal.seal(self._label, plain, chunk_log2=self._schema.chunk_log2)
        finally:
            plain[:] = bytes(len(plain))
        return sealed, shard_entry(sealed, self._records)

    def _end_block(self) -> None:
        if not self._rows:
            return
        block = bytearray()
        for field in self._schema.fields:
            values = [row[field.name] for row in self._rows]
            if field.ragged:
                offsets = np.zeros(len(values) + 1, dtype="<i8")
                np.cumsum([len(value) for value in values], out=offsets[1:])
                block += offsets.data.cast("B")
            for value in values:
                block += value.data.cast("B") if value.nbytes else b""
            block += bytes(-len(block) % _ALIGN)
        for row in self._rows:
            for value in row.values():
                value.fill(0)
        self._blocks.append((len(self._rows), block))
        self._rows, self._row_bytes = [], 0
        self._done += len(block)

    def _value(self, field: RecordField, value: Any) -> npt.NDArray[Any]:
        """A copy of the value as stored: [count] for bytes and tokens, of the field's shape for numbers."""
        if field.kind is FieldKind.BYTES:
            if isinstance(value, bytes | bytearray | memoryview):
                return np.frombuffer(value, dtype=np.uint8).copy()
            if isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.ndim == 1:
                return value.copy()
            raise self._refused(f"field {field.name!r} holds bytes, not {type(value).__name__}")
        try:
            found = np.asarray(value)
        except (ValueError, TypeError, OverflowError) as error:
            raise self._refused(f"field {field.name!r} holds numbers of one shape") from error
        if field.kind is FieldKind.TOKENS:
            if found.ndim != 1:
                raise self._refused(
                    f"field {field.name!r} holds tokens in one row, not {found.ndim} dimensions"
                )
        elif found.shape != field.shape:
            raise self._refused(f"field {field.name!r} has the shape {field.shape}, not {found.shape}")
        if found.size and not _fits(found, field.stored):
            raise self._refused(f"field {field.name!r} has a value that {field.dtype} does not hold")
        return np.ascontiguousarray(found.astype(field.stored, copy=True)).reshape(found.shape)

    def _refused(self, what: str) -> BadRecord:
        return BadRecord(
            f"Record {self._records} of shard {self._label.shard} of {self._label.subject}: {what}.",
            hint="Correct the record, or leave it out.",
        )


class RecordShardReader:
    """Opens blocks of one shard of records; for any number of threads."""

    def __init__(self, reader: StreamReader, schema: RecordSchema, records: int, place: str = "") -> None:
        """`reader` is the shard's stream, `records` the recorded number; the head is read and checked now.

        Raises BadLabel, TruncatedStream and CorruptShard.
        """
        self._reader = reader
        self._schema = schema
        self._records = records
        self._place = place or f"shard {reader.header.label.shard} of {reader.header.label.subject}"
        if reader.header.chunk_log2 != schema.chunk_log2:
            raise BadLabel(
                f"{self._place} has chunks of 2^{reader.header.chunk_log2} bytes, its schema says "
                f"2^{schema.chunk_log2}."
            )
        if not 0 <= records <= schema.records_per_shard:
            raise TruncatedStream(
                f"{self._place} is recorded with {records} records; {schema.records_per_shard} are the most.",
                hint="Its manifest entry belongs to another shard.",
            )
        self._table = self._read_head()

    @classmethod
    def open(
        cls, manifest: Manifest, shard: int, label: StreamLabel, keys: KeySource, *, source: RangeSource
    ) -> RecordShardReader:
        """The shard `shard` of a dataset of records; `label` comes from `manifest.label`."""
        schema = manifest.superblock.schema
        if not isinstance(schema, RecordSchema):
            raise BadLabel(f"{manifest.prefix} holds no records.")
        reader = manifest.open_stream(shard, keys, label.kind, label.schema, source=source)
        return cls(reader, schema, manifest.entry(shard).samples, manifest.shard_key(shard))

    @property
    def records(self) -> int:
        return self._records

    @property
    def blocks(self) -> int:
        return len(self._table)

    def rows(self, block: int) -> int:
        """How many records the block holds. Raises OutOfRange."""
        self._check_block(block)
        return int(self._table["rows"][block])

    def buffer_bytes(self, block: int) -> int:
        """What `read_block` needs: the block, and what fills its last chunk. Raises OutOfRange."""
        self._check_block(block)
        geometry, plain = self._reader.geometry, self._reader.plaintext_bytes
        first, size = (int(self._table[name][block]) for name in ("first_chunk", "bytes"))
        begin = geometry.plain_start(first)
        last = geometry.chunk_of(begin + max(0, size - 1))
        return geometry.plain_start(last) + geometry.plain_length(last, plain) - begin

    def read_block(self, block: int, *, into: npt.NDArray[np.uint8] | None = None) -> RecordBlock:
        """The block's records, verified; only its own chunks are opened.

        They are opened into `into`, uint8 [at least `buffer_bytes(block)`], whose memory the block then owns
        until it is wiped; without it, or when it is too small, into a fresh array. Raises OutOfRange, what
        opening chunks raises, and CorruptShard, naming shard and block, when an offset contradicts the block.
        """
        needed = self.buffer_bytes(block)
        if into is None or len(into) < needed:
            into = np.empty(needed, dtype=np.uint8)
        begin = self._reader.geometry.plain_start(int(self._table["first_chunk"][block]))
        self._reader.read_into(begin, into[:needed].data)
        rows, size = self.rows(block), int(self._table["bytes"][block])
        try:
            return RecordBlock(rows, self._columns(block, rows, into[:size]), into)
        except CorruptShard:
            into.fill(0)
            raise

    def _columns(self, block: int, rows: int, data: npt.NDArray[np.uint8]) -> dict[str, Column]:
        columns: dict[str, Column] = {}
        begin = 0
        for field in self._schema.fields:
            if field.ragged:
                column, begin = self._ragged(block, field, rows, data, begin)
                columns[field.name] = column
            else:
                end = begin + rows * field.row_bytes
                if end > len(data):
                    raise self._corrupt(block, f"field {field.name!r} ends behind it")
                columns[field.name] = data[begin:end].view(field.stored).reshape(rows, *field.shape)
                begin = end
            begin += -begin % _ALIGN
        if begin != len(data):
            raise self._corrupt(block, f"its fields take {begin} of its {len(data)} bytes")
        return columns

    def _ragged(
        self, block: int, field: RecordField, rows: int, data: npt.NDArray[np.uint8], begin: int
    ) -> tuple[Ragged, int]:
        start = begin + 8 * (rows + 1)
        if start > len(data):
            raise self._corrupt(block, f"the offsets of field {field.name!r} end behind it")
        offsets = data[begin:start].view("<i8")
        most = (len(data) - start) // field.itemsize
        if int(offsets[0]) != 0 or not 0 <= int(offsets[-1]) <= most or (offsets[1:] < offsets[:-1]).any():
            raise self._corrupt(block, f"an offset of field {field.name!r} does not follow the one before it")
        end = start + int(offsets[-1]) * field.itemsize
        return Ragged(data[start:end].view(field.stored), offsets), end

    def _read_head(self) -> npt.NDArray[Any]:
        """The table of blocks. Its size follows from the recorded number of records, not from the head."""
        schema, plain = self._schema, self._reader.plaintext_bytes
        blocks = schema.blocks(self._records)
        size = _HEAD.size + blocks * _ENTRY.itemsize
        if plain < size:
            raise TruncatedStream(
                f"{self._place} holds {plain} bytes; {self._records} records take more.",
                hint="Its manifest entry belongs to another shard.",
            )
        data = bytes(self._reader.read(0, size))
        head = _HEAD.unpack_from(data)
        expected = (HEAD_MAGIC, HEAD_VERSION, 0, len(schema.fields), blocks, 0, self._records, 0)
        names = ("magic", "version", "reserved", "fields", "blocks", "reserved", "records", "reserved")
        for name, found, right in zip(names, head, expected, strict=True):
            if found != right:
                raise self._corrupt(None, f"its head says {found!r} where its {name} is {right!r}")
        table = np.frombuffer(data, dtype=_ENTRY, offset=_HEAD.size)
        self._check_table(table, size)
        return table

    def _check_table(self, table: npt.NDArray[Any], head_bytes: int) -> None:
        """Each block begins on the chunk behind the block before it, and the last ends with the stream."""
        geometry, schema = self._reader.geometry, self._schema
        end = head_bytes
        for block, (first, size, rows, zero) in enumerate(table.tolist()):
            if rows != schema.rows(block, self._records) or zero:
                raise self._corrupt(block, f"it has {rows} records")
            if first != geometry.chunk_of(end - 1) + 1:
                raise self._corrupt(
                    block, f"it does not begin behind what is before it, but on chunk {first}"
                )
            if not rows * schema.least_record_bytes <= size <= MAX_BLOCK_BYTES or size % _ALIGN:
                raise self._corrupt(block, f"it has {size} bytes")
            end = geometry.plain_start(first) + size
            if end > self._reader.plaintext_bytes:
                raise self._corrupt(block, "it ends behind the shard")
        if end != self._reader.plaintext_bytes:
            raise self._corrupt(None, f"its blocks end at {end} of {self._reader.plaintext_bytes} bytes")

    def _check_block(self, block: int) -> None:
        if not 0 <= block < self.blocks:
            raise OutOfRange(f"Block {block} was asked of {self._place}, which has {self.blocks}.")

    def _corrupt(self, block: int | None, what: str) -> CorruptShard:
        blocks = self._schema.blocks(self._records)
        where = self._place if block is None else f"{self._place}, block {block} of {blocks}"
        return CorruptShard(
            f"{where}: {what}.", hint="Its writer did not follow the format: prepare the dataset again."
        )


def _fits(found: npt.NDArray[Any], stored: np.dtype[Any]) -> bool:
    """Whether every value is one that the stored type holds; a float that is rounded to float32 is."""
    if stored.kind == "f":
        if found.dtype.kind not in "iuf":
            return False
        with np.errstate(over="ignore"):
            return bool((np.isfinite(found.astype(stored)) == np.isfinite(found)).all())
    if found.dtype.kind not in "iub":
        return False
    return int(found.min()) >= np.iinfo(stored).min and int(found.max()) <= np.iinfo(stored).max
