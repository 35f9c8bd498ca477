"""One split of a dataset, chunk by chunk, out of sealed shards. See docs/design/feed.md, "Reading"."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from typing import Final

from stoker.core.clock import Clock
from stoker.core.errors import StokerError
from stoker.feed.batches import BatchReader
from stoker.feed.errors import NotSamples
from stoker.feed.order import Order
from stoker.feed.source import ReadSettings, Samples
from stoker.keys.partition import KeySource
from stoker.store.cache import NodeCache
from stoker.store.errors import (
    CommitmentMismatch,
    CorruptObject,
    CorruptStream,
    NotSealed,
    OutOfRange,
    SwappedStream,
    TruncatedStream,
    UnknownVersion,
)
from stoker.store.header import StreamKind
from stoker.store.manifest import Manifest
from stoker.store.objects import ObjectStore
from stoker.store.opened import OpenedKeys
from stoker.store.ranges import RangeSource
from stoker.store.shards import SHARD_SCHEMA, ShardReader
from stoker.store.superblock import SampleSchema, Split

MAX_OPEN_SHARDS: Final = 64
KEYS_KEPT_S: Final = 60.0
"""How long an unwrapped key is used before it is asked for again; so how late a destroyed key is noticed."""

_BAD_COPY: Final = (
    CommitmentMismatch,
    CorruptStream,
    NotSealed,
    SwappedStream,
    TruncatedStream,
    UnknownVersion,
)
"""What a changed byte of a sealed object may be told as, header or chunk."""


class SplitReader:
    """Reads one split's samples; for one thread at a time. Several readers may share a manifest and its lock.

    A shard stays open, with its key, until `MAX_OPEN_SHARDS` others were used since, `KEYS_KEPT_S` have
    passed, or `wipe` is called; then its key is asked for again, and may be refused.
    """

    def __init__(
        self,
        manifest: Manifest,
        split: Split,
        schema: SampleSchema,
        *,
        store: ObjectStore,
        cache: NodeCache | None,
        keys: KeySource,
        clock: Clock,
        lock: threading.Lock,
    ) -> None:
        """Raises NotSamples when the split's count of shards is not what its samples take."""
        needed = -(-split.samples // schema.samples_per_shard)
        if split.shards != needed or split.first_shard + split.shards > manifest.shards:
            raise NotSamples(
                f"Split {split.name!r} of {manifest.prefix} claims {split.samples} samples in {split.shards} "
                f"shards from {split.first_shard} of {manifest.shards}; they take {needed}.",
                hint="The dataset was written wrongly: prepare it again.",
            )
        self.schema = schema
        self._split = split
        self._manifest = manifest
        self._store = store
        self._cache = cache
        self._keys = OpenedKeys(keys)
        self._clock = clock
        self._lock = lock
        self._shards: OrderedDict[int, ShardReader] = OrderedDict()
        self._opened_s = clock.monotonic_s()

    @property
    def name(self) -> str:
        """The split's name."""
        return self._split.name

    @property
    def samples(self) -> int:
        """How many samples there are."""
        return self._split.samples

    @property
    def sample_tokens(self) -> int:
        """The tokens of one sample: a sequence, and one more, which also begins the next sample."""
        return self.schema.sample_tokens

    @property
    def chunk_samples(self) -> int:
        """The samples of each chunk but the last."""
        return self.schema.samples_per_chunk

    @property
    def chunks(self) -> int:
        """How many chunks hold the samples, counted through all shards."""
        return -(-self.samples // self.chunk_samples)

    def read_chunk(self, chunk: int) -> Samples:
        """The samples of a chunk, [rows, sample_tokens], in a fresh array that is the caller's.

        Raises OutOfRange, and what opening a shard raises, which names shard and chunk.
        """
        if not 0 <= chunk < self.chunks:
            raise OutOfRange(
                f"Chunk {chunk} was asked of split {self.name!r}, which has {self.chunks}.",
                hint="Ask for a chunk below that.",
            )
        now_s = self._clock.monotonic_s()
        if now_s - self._opened_s > KEYS_KEPT_S:
            self.wipe()
            self._opened_s = now_s
        # Every shard of a split but its last holds the same whole number of full chunks.
        within, place = divmod(chunk, self.schema.chunks_per_shard)
        shard = self._split.first_shard + within
        try:
            return self._opened(shard).read_chunk(place)
        except _BAD_COPY as error:
            if self._cache is None:
                raise
            return self._read_without_copy(shard, place, error)

    def batches(self, order: Order, first: int, rows: int, settings: ReadSettings) -> BatchReader:
        """A reader of positions [first, first + rows) of every global batch in `order`."""
        return BatchReader(self, order, first, rows, settings)

    def sequential(self, start: int = 0, stop: int | None = None) -> Iterator[Samples]:
        """Samples [start, stop) in stored order, as arrays [rows, sample_tokens] of at most a chunk.

        For evaluation and for counting: nothing is shuffled, each chunk is opened once.
        """
        end = self.samples if stop is None else stop
        if not 0 <= start <= end <= self.samples:
            raise OutOfRange(
                f"Samples {start} to {end} were asked of split {self.name!r}, which has {self.samples}.",
                hint="Ask for samples below that.",
            )
        size = self.chunk_samples
        for chunk in range(start // size, -(-end // size)):
            rows = self.read_chunk(chunk)
            yield rows[max(0, start - chunk * size) : end - chunk * size]

    def wipe(self) -> None:
        """Close every shard and wipe the keys. Reading may go on, and then opens them anew."""
        self._shards.clear()
        self._keys.close()

    def _opened(self, shard: int) -> ShardReader:
        reader = self._shards.get(shard)
        if reader is None:
            reader = self._shards[shard] = self._open(shard, check_copy=False)
            if len(self._shards) > MAX_OPEN_SHARDS:
                self._shards.popitem(last=False)
        self._shards.move_to_end(shard)
        return reader

    def _open(self, shard: int, *, check_copy: bool) -> ShardReader:
        manifest = self._manifest
        with self._lock:
            label = manifest.label(shard, StreamKind.SHARD, SHARD_SCHEMA)
            source = self._source(shard, check_copy=check_copy)
            return ShardReader.open(manifest, shard, label, self._keys, source=source)

    def _source(self, shard: int, *, check_copy: bool) -> RangeSource:
        key = self._manifest.shard_key(shard)
        if self._cache is None:
            return self._store.source(key)
        entry = self._manifest.entry(shard)
        return self._cache.fetch(key, entry.object_bytes, digest=entry.digest if check_copy else None)

    def _read_without_copy(self, shard: int, place: int, error: StokerError) -> Samples:
        """The chunk once more, after a bad copy in the node's cache was replaced by the store's object.

        Raises `error`, which names shard and chunk, when the store's object is bad as well.
        """
        self._shards.pop(shard, None)
        try:
            self._shards[shard] = self._open(shard, check_copy=True)
        except CorruptObject:
            raise error from None
        return self._shards[shard].read_chunk(place)
