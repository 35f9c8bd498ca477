"""Records whose images and sound are decoded on their way to the feed: docs/design/feed.md, "Decoding".

    with decoded(dataset, DecodeSpec(image=ImageSpec(224, 224))) as images:
        with Feed(images, global_batch=256, seed=0) as feed: ...

It stands between the dataset and the feed, so order, state and reading ahead are the feed's own, unchanged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from stoker.feed.decode_pool import DecodeJob, DecodePool
from stoker.feed.decode_spec import AudioSpec, DecodeSpec, ImageSpec, OnFault
from stoker.feed.errors import NotDecodable, Undecodable
from stoker.feed.media import (
    IMAGE_FORMATS,
    SOUND_FORMATS,
    AudioDecoder,
    Decoder,
    ImageDecoder,
    formats_of,
)
from stoker.feed.order import Order
from stoker.feed.record_batch import Column, DecodeFault, Fault, RecordBatch, batch_tensors
from stoker.feed.record_batches import Ring, batch_memory
from stoker.feed.record_split import RecordSplitReader
from stoker.feed.shard_needs import ShardAccess
from stoker.feed.source import BatchSource, FeedSplit, ReadSettings
from stoker.store.record_schema import FieldKind, RecordField, RecordSchema
from stoker.store.superblock import Superblock


class RecordDataset(Protocol):
    """What is needed of a dataset: Dataset, when it holds records."""

    @property
    def root(self) -> str: ...

    @property
    def superblock(self) -> Superblock: ...

    def split(self, name: str) -> FeedSplit: ...


class DecodedDataset:
    """A dataset of records for a feed, decoded by worker processes. Close it after the feeds that use it."""

    def __init__(self, dataset: RecordDataset, spec: DecodeSpec) -> None:
        """Forks the nursery of the workers now: make it before keys are opened.

        Raises NotDecodable when a field is not there or holds other things, MissingExtra without the packages
        that decode.
        """
        self._dataset = dataset
        self.spec = spec
        self.fault_counts: Counter[Fault] = Counter()
        """How many fields were blank so far and why, in all batches that were read, ahead or not."""
        schema = dataset.superblock.schema
        if not isinstance(schema, RecordSchema):
            raise NotDecodable(
                f"{dataset.superblock.subject} holds no records, so there is nothing to decode.",
                hint="Feed it as it is.",
            )
        decoders = tuple(_decoder(each, _field(dataset.superblock, each)) for each in spec.specs)
        self._pool = DecodePool(
            decoders,
            processes=spec.processes,
            max_encoded_bytes=spec.max_encoded_bytes,
            memory_bytes=spec.memory_bytes,
            time_limit_s=spec.time_limit_s,
        )

    @property
    def root(self) -> str:
        """The manifest root that names this version, 64 hexadecimal digits."""
        return self._dataset.root

    @property
    def worker_pids(self) -> tuple[int, ...]:
        """The process ids of the workers that live now."""
        return self._pool.pids

    def split(self, name: str) -> DecodedSplit:
        """A reader of its own of one split. Raises UnknownSplit, NotSamples."""
        split = self._dataset.split(name)
        assert isinstance(split, RecordSplitReader)  # its schema is one of records
        return DecodedSplit(split, self._pool, self.spec, self.fault_counts)

    def close(self) -> None:
        """End the workers and wipe what they share with this process. May be called again."""
        self._pool.close()

    def __enter__(self) -> DecodedDataset:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class DecodedSplit:
    """A split whose batches are decoded."""

    def __init__(
        self, split: RecordSplitReader, pool: DecodePool, spec: DecodeSpec, counts: Counter[Fault]
    ) -> None:
        """Use `DecodedDataset.split`."""
        self._split = split
        self._pool = pool
        self._spec = spec
        self._counts = counts

    @property
    def samples(self) -> int:
        """How many records there are."""
        return self._split.samples

    @property
    def chunk_samples(self) -> int:
        """The records of each block but the last."""
        return self._split.chunk_samples

    @property
    def shard_chunks(self) -> int:
        """The blocks of each shard but the last."""
        return self._split.shard_chunks

    @property
    def require_lease(self) -> Callable[[], None]:
        """Raises LeaseExpired or LeaseRefused when called, unless the lease it is read under is good."""
        return self._split.require_lease

    def shard_access(self) -> ShardAccess | None:
        """The shards for who brings them into the node's cache before they are read; None without one."""
        return self._split.shard_access()

    def batches(
        self, order: Order, first: int, rows: int, settings: ReadSettings
    ) -> BatchSource[RecordBatch]:
        """A reader of positions [first, first + rows) of every global batch in `order`, decoded."""
        # What is encoded is needed no longer than decoding takes, so one batch's memory is enough.
        encoded = self._split.batches(
            order, first, rows, ReadSettings(buffers=1, read_threads=settings.read_threads)
        )
        return DecodedBatchReader(encoded, self._split, self._pool, self._spec, self._counts, rows, settings)


class DecodedBatchReader:
    """Reads batches and decodes their files, all workers at one batch. Used by one thread at a time.

    An image column is uint8 [rows, 3, height, width]. An audio column `clip` is float32 [rows, samples], and
    `clip.length`, int64 [rows], says how many samples of each row are meant.
    """

    def __init__(
        self,
        encoded: BatchSource[RecordBatch],
        split: RecordSplitReader,
        pool: DecodePool,
        spec: DecodeSpec,
        counts: Counter[Fault],
        rows: int,
        settings: ReadSettings,
    ) -> None:
        self._encoded = encoded
        self._split = split
        self._pool = pool
        self._spec = spec
        self._counts = counts
        self._arrays = Ring(lambda: _arrays(spec, rows, pinned=settings.pin_memory), settings.buffers)

    @property
    def chunks_opened(self) -> int:
        """Blocks opened since the beginning."""
        return self._encoded.chunks_opened

    @property
    def chunks_held(self) -> int:
        """Blocks in memory now."""
        return self._encoded.chunks_held

    def read(self, step: int) -> RecordBatch:
        """The share of step `step`, decoded. Raises Undecodable, DecodersLost, and what opening raises."""
        batch = self._encoded.read(step)
        arrays = self._arrays.following()
        try:
            found = self._decode(batch, arrays)
        except BaseException:
            for array in arrays.values():
                array.fill(0)
            raise
        finally:
            batch.wipe()
        if found.faults:
            self._tell(found)
        return found

    def _decode(self, batch: RecordBatch, arrays: Mapping[str, npt.NDArray[Any]]) -> RecordBatch:
        rows = len(batch)
        jobs: list[DecodeJob] = []
        for which, spec in enumerate(self._spec.specs):
            files, flat = batch.ragged(spec.field), arrays[spec.field].reshape(rows, -1).view(np.uint8)
            jobs.extend(DecodeJob(which, files.row(row).data, flat[row]) for row in range(rows))
        outcomes = self._pool.run(jobs)
        columns = {name: _copy(column) for name, column in batch.columns.items() if name not in arrays}
        numbers = batch.numbers.copy()
        faults: list[DecodeFault] = []
        for which, spec in enumerate(self._spec.specs):
            of_field = outcomes[which * rows : (which + 1) * rows]
            columns[spec.field] = arrays[spec.field]
            if isinstance(spec, AudioSpec):
                lengths = [min(outcome.length, spec.samples) for outcome in of_field]
                columns[f"{spec.field}.length"] = np.array(lengths, dtype=np.int64)
            faults.extend(
                DecodeFault(row, int(numbers[row]), spec.field, outcome.fault)
                for row, outcome in enumerate(of_field)
                if outcome.fault is not None
            )
        return RecordBatch(numbers, columns, tuple(faults))

    def wipe(self) -> None:
        """Overwrite every record that is not the caller's and forget every key. Reading may go on."""
        self._encoded.wipe()
        for arrays in self._arrays.all():
            for array in arrays.values():
                array.fill(0)

    def wipe_batch(self, batch: RecordBatch) -> None:
        """Overwrite a batch that nobody took."""
        batch.wipe()

    def as_tensors(self, batch: RecordBatch) -> dict[str, Any]:
        """The batch as torch tensors by field; see `batch_tensors`. Raises MissingExtra without torch."""
        return batch_tensors(batch)

    def _tell(self, batch: RecordBatch) -> None:
        """Count the faults, and refuse the first when that is the policy."""
        self._counts.update(fault.fault for fault in batch.faults)
        if self._spec.on_fault is OnFault.REFUSE:
            first = batch.faults[0]
            batch.wipe()
            raise Undecodable(
                f"Field {first.field!r} of {self._split.where(first.number)} cannot be decoded: "
                f"{first.fault.value}.",
                hint="Leave the record out when the dataset is prepared, raise the limit that it is over, or "
                "decode with on_fault = blank, which counts such records.",
            )


def decoded(dataset: RecordDataset, spec: DecodeSpec) -> DecodedDataset:
    """The dataset with its images or sound decoded; a context that ends the workers."""
    return DecodedDataset(dataset, spec)


def _arrays(spec: DecodeSpec, rows: int, *, pinned: bool) -> Mapping[str, npt.NDArray[Any]]:
    """The memory of one decoded batch."""
    arrays: dict[str, npt.NDArray[Any]] = {}
    for each in spec.specs:
        if isinstance(each, ImageSpec):
            shape: tuple[int, ...] = (rows, 3, each.height, each.width)
            arrays[each.field] = batch_memory(shape, np.dtype(np.uint8), pinned=pinned)
        else:
            arrays[each.field] = batch_memory((rows, each.samples), np.dtype(np.float32), pinned=pinned)
    return arrays


def _copy(column: Column) -> Column:
    """The same values in memory of their own: the encoded batch's is used again."""
    if isinstance(column, np.ndarray):
        return column.copy()
    return type(column)(column.values.copy(), column.offsets.copy())


def _field(superblock: Superblock, spec: ImageSpec | AudioSpec) -> RecordField:
    schema = superblock.schema
    assert isinstance(schema, RecordSchema)
    field = schema.field(spec.field)
    known, what = (IMAGE_FORMATS, "image") if isinstance(spec, ImageSpec) else (SOUND_FORMATS, "audio")
    allowed = {"", f"{what}/*", *known}
    if field is not None and field.kind is FieldKind.BYTES and field.media in allowed:
        return field
    names = ", ".join(f"{each.name!r} ({each.media or each.kind.value})" for each in schema.fields)
    raise NotDecodable(
        f"{superblock.subject} has no field {spec.field!r} of {what} files; it has {names}.",
        hint=f"Decode a field of bytes whose media type is one of {', '.join(sorted(allowed - {''}))}.",
    )


def _decoder(spec: ImageSpec | AudioSpec, field: RecordField) -> Decoder:
    if isinstance(spec, ImageSpec):
        return ImageDecoder(spec, formats_of(field.media, IMAGE_FORMATS))
    return AudioDecoder(spec, formats_of(field.media, SOUND_FORMATS))
