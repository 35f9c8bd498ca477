"""Shards of fixed-length token samples: the place of each sample is arithmetic. See docs/design/store.md.

Every chunk but the last holds the same number of whole samples and zeros to its end, so that one sample
never takes two chunks and a chunk of samples is opened straight into the array that is handed on.
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias

import numpy as np

from stoker.keys.partition import KeySource
from stoker.store.errors import BadLabel, OutOfRange, TruncatedStream
from stoker.store.header import StreamLabel
from stoker.store.manifest import Manifest
from stoker.store.pages import ShardEntry
from stoker.store.payload import ChunkGeometry
from stoker.store.ranges import RangeSource
from stoker.store.reader import StreamReader
from stoker.store.sealed import SealedBytes, StreamSeal
from stoker.store.superblock import SampleSchema

SHARD_SCHEMA: Final = 1
"""The schema version in the header of every shard of this form."""

Tokens: TypeAlias = "np.ndarray[Any, np.dtype[Any]]"


class ShardWriter:
    """Collects the samples of one shard in memory, then seals them. `label.schema` must be SHARD_SCHEMA."""

    def __init__(self, seal: StreamSeal, label: StreamLabel, schema: SampleSchema) -> None:
        if label.schema != SHARD_SCHEMA:
            raise BadLabel(f"A shard of samples has schema {SHARD_SCHEMA}, not {label.schema}.")
        self._seal = seal
        self._label = label
        self._schema = schema
        self._dtype = stored_dtype(schema)
        self._geometry = ChunkGeometry(1 << schema.chunk_log2)
        most = plaintext_bytes(schema, schema.samples_per_shard)
        self._plain = np.zeros(most, dtype=np.uint8)
        self._samples = 0

    @property
    def samples(self) -> int:
        """How many samples the shard has so far."""
        return self._samples

    @property
    def room(self) -> int:
        """How many samples more the shard takes."""
        return self._schema.samples_per_shard - self._samples

    def add(self, samples: Tokens) -> None:
        """Append samples, shape (count, sample_tokens), of any integer type whose values fit.

        Raises BadLabel when there are more than `room`, or the shape or a value does not fit.
        """
        schema = self._schema
        if samples.ndim != 2 or samples.shape[1] != schema.sample_tokens:
            raise BadLabel(f"Samples have the shape (count, {schema.sample_tokens}), not {samples.shape}.")
        if len(samples) > self.room:
            raise BadLabel(f"{len(samples)} samples were added to a shard that takes {self.room} more.")
        most = np.iinfo(self._dtype).max
        if not np.issubdtype(samples.dtype, np.integer) or (
            samples.size and (int(samples.min()) < 0 or int(samples.max()) > most)
        ):
            raise BadLabel(f"A token is a whole number from 0 to {most}.")
        stored = np.ascontiguousarray(samples, dtype=self._dtype).view(np.uint8)
        done = 0
        while done < len(stored):
            chunk, row = divmod(self._samples, schema.samples_per_chunk)
            taken = min(schema.samples_per_chunk - row, len(stored) - done)
            begin = self._geometry.plain_start(chunk) + row * schema.sample_bytes
            flat = stored[done : done + taken].reshape(-1)
            self._plain[begin : begin + len(flat)] = flat
            self._samples += taken
            done += taken

    def finish(self) -> tuple[SealedBytes, ShardEntry]:
        """Seal the shard; its bytes to store, and its entry for the manifest. The samples are wiped."""
        plain = self._plain[: plaintext_bytes(self._schema, self._samples)]
        sealed = self._seal.seal(self._label, plain.data, chunk_log2=self._schema.chunk_log2)
        self._plain[:] = 0
        return sealed, shard_entry(sealed, self._samples)


class ShardReader:
    """Opens chunks of one shard of samples; for any number of threads."""

    def __init__(self, reader: StreamReader, schema: SampleSchema, samples: int) -> None:
        """`reader` is the shard's stream, `samples` the recorded number. Raises TruncatedStream, BadLabel."""
        if reader.header.chunk_log2 != schema.chunk_log2:
            raise BadLabel(
                f"The shard has chunks of 2^{reader.header.chunk_log2} bytes, its schema says "
                f"2^{schema.chunk_log2}."
            )
        expected = plaintext_bytes(schema, samples)
        if reader.plaintext_bytes != expected:
            raise TruncatedStream(
                f"A shard of {samples} samples holds {expected} bytes, this one {reader.plaintext_bytes}.",
                hint="Its manifest entry belongs to another shard.",
            )
        self._reader = reader
        self._schema = schema
        self._samples = samples
        self._dtype = stored_dtype(schema)

    @classmethod
    def open(
        cls,
        manifest: Manifest,
        shard: int,
        label: StreamLabel,
        keys: KeySource,
        *,
        source: RangeSource,
    ) -> ShardReader:
        """The shard `shard` of a dataset; `label` comes from `manifest.label`."""
        schema = manifest.superblock.schema
        if not isinstance(schema, SampleSchema):
            raise BadLabel(f"{manifest.prefix} holds no samples of fixed length.")
        reader = manifest.open_stream(shard, keys, label.kind, label.schema, source=source)
        return cls(reader, schema, manifest.entry(shard).samples)

    @property
    def samples(self) -> int:
        return self._samples

    @property
    def chunks(self) -> int:
        return -(-self._samples // self._schema.samples_per_chunk)

    def rows(self, chunk: int) -> int:
        """How many samples the chunk holds. Raises OutOfRange."""
        if not 0 <= chunk < self.chunks:
            raise OutOfRange(f"Chunk {chunk} was asked of a shard that has {self.chunks}.")
        per_chunk = self._schema.samples_per_chunk
        return min(per_chunk, self._samples - chunk * per_chunk)

    def read_chunk(self, chunk: int) -> Tokens:
        """The chunk's samples, shape (rows, sample_tokens), little-endian uint16 or uint32, a fresh array."""
        rows = self.rows(chunk)
        buffer = np.empty(self._reader.geometry.capacity, dtype=np.uint8)
        self._reader.open_chunk(chunk, buffer.data)
        taken = buffer[: rows * self._schema.sample_bytes]
        return taken.view(self._dtype).reshape(rows, self._schema.sample_tokens)

    def read_chunk_into(self, chunk: int, target: memoryview) -> int:
        """The chunk's samples side by side from the beginning of `target`; says how many.

        `target` has room for any chunk's plaintext. What it held before is gone afterwards, also behind the
        samples, and on any error.
        """
        rows = self.rows(chunk)
        length = self._reader.open_chunk(chunk, target)
        target[length:] = bytes(len(target) - length)
        return rows


def plaintext_bytes(schema: SampleSchema, samples: int) -> int:
    """How much plaintext a shard of `samples` samples has: whole chunks, then what the last rows take."""
    if samples == 0:
        return 0
    last, rows = divmod(samples - 1, schema.samples_per_chunk)
    start = ChunkGeometry(1 << schema.chunk_log2).plain_start(last)
    return start + (rows + 1) * schema.sample_bytes


def shard_entry(sealed: SealedBytes, samples: int) -> ShardEntry:
    """The manifest entry of a sealed stream; `samples` is 0 for what holds none."""
    facts = sealed.facts
    return ShardEntry(facts.digest, facts.header_digest[:16], facts.object_bytes, samples)


def stored_dtype(schema: SampleSchema) -> np.dtype[Any]:
    """The type that tokens are stored in: little-endian, the smallest that holds them."""
    return np.dtype("<u2" if schema.dtype == "uint16" else "<u4")
