"""One split of a dataset, chunk by chunk, out of sealed shards. See docs/design/feed.md, "Reading"."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from stoker.core.clock import Clock
from stoker.feed.batches import BatchReader
from stoker.feed.open_shards import OpenShards, check_shards
from stoker.feed.order import Order
from stoker.feed.shard_needs import CachedShards
from stoker.feed.source import ReadSettings, Samples
from stoker.keys.partition import KeySource
from stoker.store.cache import NodeCache
from stoker.store.errors import OutOfRange
from stoker.store.manifest import Manifest
from stoker.store.objects import ObjectStore
from stoker.store.payload import ChunkGeometry
from stoker.store.shards import SHARD_SCHEMA, ShardReader, stored_dtype
from stoker.store.superblock import SampleSchema, Split


class SplitReader:
    """Reads one split's samples, for many threads. Several readers may share a manifest.

    How long shards and keys stay open is OpenShards' to say.
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
    ) -> None:
        """Raises NotSamples when the split's count of shards is not what its samples take."""
        check_shards(manifest, split, schema.samples_per_shard, "samples")
        self.schema = schema
        self._split = split
        self._shards = OpenShards(
            manifest,
            SHARD_SCHEMA,
            ShardReader.open,
            store=store,
            cache=cache,
            keys=keys,
            clock=clock,
        )

    @property
    def require_lease(self) -> Callable[[], None]:
        """Raises LeaseExpired or LeaseRefused when called, unless the lease it is read under is good."""
        return self._shards.require_lease

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
    def shard_chunks(self) -> int:
        """The chunks of each shard but the last."""
        return self.schema.chunks_per_shard

    @property
    def dtype(self) -> np.dtype[np.unsignedinteger[Any]]:
        """The type that tokens are stored in."""
        return stored_dtype(self.schema)

    @property
    def chunk_bytes(self) -> int:
        """What the largest chunk decrypts to: its samples, and zeros behind them."""
        return ChunkGeometry(1 << self.schema.chunk_log2).capacity

    @property
    def chunks(self) -> int:
        """How many chunks hold the samples, counted through all shards."""
        return -(-self.samples // self.chunk_samples)

    def read_chunk(self, chunk: int) -> Samples:
        """The samples of a chunk, [rows, sample_tokens], in a fresh array that is the caller's.

        Raises OutOfRange, and what opening a shard raises, which names shard and chunk.
        """
        shard, place = self._place(chunk)
        return self._shards.read(shard, lambda opened: opened.read_chunk(place))

    def read_chunk_into(self, chunk: int, target: memoryview) -> int:
        """The samples of a chunk, side by side from the beginning of `target`; says how many.

        `target` has `chunk_bytes` or more; nothing that it held before is left. Raises as `read_chunk`.
        """
        shard, place = self._place(chunk)
        return self._shards.read(shard, lambda opened: opened.read_chunk_into(place, target))

    def shard_access(self) -> CachedShards | None:
        """The shards for who brings them into the node's cache before they are read; None without one."""
        return self._shards.access(self._split, self.schema.chunks_per_shard)

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
        self._shards.wipe()

    def _place(self, chunk: int) -> tuple[int, int]:
        """The shard that holds a chunk of the split, and the chunk's number there."""
        if not 0 <= chunk < self.chunks:
            raise OutOfRange(
                f"Chunk {chunk} was asked of split {self.name!r}, which has {self.chunks}.",
                hint="Ask for a chunk below that.",
            )
        # Every shard of a split but its last holds the same whole number of full chunks.
        within, place = divmod(chunk, self.schema.chunks_per_shard)
        return self._split.first_shard + within, place
