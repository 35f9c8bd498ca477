"""Reading a dataset back, row by row: for looking at it and for exporting it, never for training.

Straight from the store and never through the node's cache; a shard's key is asked for when the shard is
opened, so that an expiry or a destruction in the middle is noticed at the next shard.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from stoker.intake.dataset_writer import ARTEFACT_SCHEMA, dataset_prefix
from stoker.intake.errors import BrokenRecord, NoSuchSplit
from stoker.intake.review_request import review_digest
from stoker.keys.backend import KeyBackend
from stoker.keys.partition import BackendKeySource
from stoker.ledger.ledger import Ledger
from stoker.ledger.records import DatasetRecord
from stoker.store.header import StreamKind
from stoker.store.manifest import Manifest
from stoker.store.objects import ObjectStore
from stoker.store.ragged import Ragged
from stoker.store.record_schema import FieldKind, RecordField, RecordSchema
from stoker.store.records import RECORD_SHARD_SCHEMA, RecordShardReader
from stoker.store.shards import SHARD_SCHEMA, ShardReader
from stoker.store.superblock import SampleSchema, Split, Superblock

TOKENIZER_ARTEFACT: Final = "tokenizer"
"""What `building` calls the tokenizer that it keeps beside the samples."""

MAX_TOKENIZER_BYTES: Final = 256 * 1024 * 1024
TOKENS_FIELD: Final = "tokens"
"""What the only field of a dataset of token samples is called here."""

Column: TypeAlias = "npt.NDArray[Any] | Ragged"


class Rows:
    """Some rows that lie together: `first` is the number of the first in its split."""

    def __init__(self, first: int, count: int, columns: dict[str, Column]) -> None:
        self.first = first
        self.count = count
        self.columns = columns

    @property
    def nbytes(self) -> int:
        """How many bytes their values have."""
        return sum(
            each.values.nbytes if isinstance(each, Ragged) else each.nbytes for each in self.columns.values()
        )

    def wipe(self) -> None:
        """Overwrite them."""
        for column in self.columns.values():
            if isinstance(column, Ragged):
                column.values.fill(0)
            else:
                column.fill(0)


class DatasetRows:
    """One version of a dataset under its verified manifest; every field as a column."""

    def __init__(self, manifest: Manifest, store: ObjectStore, keys: BackendKeySource) -> None:
        """Use `open`."""
        self._manifest = manifest
        self._store = store
        self._keys = keys

    @classmethod
    def open(
        cls, record: DatasetRecord, *, ledger: Ledger, backend: KeyBackend, store: ObjectStore
    ) -> DatasetRows:
        """Verify the manifest against the record; no key is asked for yet.

        Raises BrokenRecord when the manifest is another dataset's, and what Manifest.open raises.
        """
        prefix = dataset_prefix(record.name, record.version)
        manifest = Manifest.open(store, prefix, record.root, backend.signer("manifest").public_key)
        block = manifest.superblock
        found = (block.subject, block.version, block.kek, block.review_digest)
        own = review_digest(ledger.catalogue.review(record.review))
        if found != (f"dataset/{record.name}", record.version, record.kek, own):
            raise BrokenRecord(
                f"{prefix} holds the manifest of another dataset, version or review.",
                hint="Restore the right one from a copy, or prepare the dataset again.",
            )
        if block.schema is None:
            raise BrokenRecord(f"{prefix} has no schema of samples.", hint="Prepare the dataset again.")
        return cls(manifest, store, BackendKeySource(backend))

    @property
    def superblock(self) -> Superblock:
        """What the manifest says of the whole."""
        return self._manifest.superblock

    @property
    def schema(self) -> SampleSchema | RecordSchema:
        """How its rows are laid out."""
        schema = self.superblock.schema
        assert schema is not None, "open has refused a manifest without one"
        return schema

    @property
    def fields(self) -> tuple[RecordField, ...]:
        """The fields of every row; token samples have one, of a fixed length."""
        schema = self.schema
        if isinstance(schema, RecordSchema):
            return schema.fields
        return (RecordField(TOKENS_FIELD, FieldKind.TOKENS, schema.dtype),)

    def split(self, name: str) -> Split:
        """The split of that name. Raises NoSuchSplit."""
        found = self.superblock.split(name)
        if found is None:
            names = ", ".join(each.name for each in self.superblock.splits) or "none"
            raise NoSuchSplit(
                f"{self.superblock.subject} has no split {name[:80]!a}; it has {names}.",
                hint="Choose one of these.",
            )
        return found

    def row(self, split: Split, index: int) -> Rows:
        """One row, with only the chunks opened that hold it."""
        schema = self.schema
        per_shard = schema.samples_per_shard if isinstance(schema, SampleSchema) else schema.records_per_shard
        shard, within = divmod(index, per_shard)
        per_block = schema.samples_per_chunk if isinstance(schema, SampleSchema) else schema.records_per_block
        block, place = divmod(within, per_block)
        rows = self._block(split.first_shard + shard, block, index - place)
        one = {name: _taken(column, place) for name, column in rows.columns.items()}
        rows.wipe()
        return Rows(index, 1, one)

    def blocks(self, split: Split) -> Iterator[Rows]:
        """Every row of the split in stored order, a block at a time; the caller wipes what it was given."""
        first = 0
        for shard in range(split.first_shard, split.first_shard + split.shards):
            reader = self._shard(shard)
            count = reader.chunks if isinstance(reader, ShardReader) else reader.blocks
            for block in range(count):
                rows = self._read(reader, block, first)
                first += rows.count
                yield rows

    def tokenizer_json(self) -> str | None:
        """The tokenizer that is kept beside the samples, or None."""
        found = self.artefact(TOKENIZER_ARTEFACT)
        return None if found is None else found.decode()

    def artefact(self, name: str) -> bytearray | None:
        """What is kept beside the rows under that name, opened whole, or None."""
        artefact = self.superblock.artefact(name)
        if artefact is None:
            return None
        stream = self._manifest.open_stream(artefact.shard, self._keys, StreamKind.ARTEFACT, ARTEFACT_SCHEMA)
        return stream.read_all(MAX_TOKENIZER_BYTES)

    def _block(self, shard: int, block: int, first: int) -> Rows:
        return self._read(self._shard(shard), block, first)

    def _shard(self, shard: int) -> ShardReader | RecordShardReader:
        manifest = self._manifest
        source = self._store.source(manifest.shard_key(shard))
        if isinstance(self.schema, RecordSchema):
            label = manifest.label(shard, StreamKind.SHARD, RECORD_SHARD_SCHEMA)
            return RecordShardReader.open(manifest, shard, label, self._keys, source=source)
        label = manifest.label(shard, StreamKind.SHARD, SHARD_SCHEMA)
        return ShardReader.open(manifest, shard, label, self._keys, source=source)

    def _read(self, reader: ShardReader | RecordShardReader, block: int, first: int) -> Rows:
        if isinstance(reader, ShardReader):
            samples = reader.read_chunk(block)
            return Rows(first, len(samples), {TOKENS_FIELD: samples})
        records = reader.read_block(block)
        columns = {field.name: records.column(field.name) for field in self.fields}
        return Rows(first, records.rows, columns)


def _taken(column: Column, place: int) -> Column:
    """A copy of one row of a column, as a column of one row."""
    if isinstance(column, Ragged):
        row = column.row(place).copy()
        return Ragged(row, np.array([0, len(row)], dtype=np.int64))
    return column[place : place + 1].copy()
