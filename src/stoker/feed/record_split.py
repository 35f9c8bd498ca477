"""One split of a dataset of records, block by block, out of sealed shards: docs/design/feed.md, "Records"."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from stoker.core.clock import Clock
from stoker.feed.open_shards import OpenShards, check_shards
from stoker.feed.order import Order
from stoker.feed.record_batch import Column, RecordBatch
from stoker.feed.record_batches import RecordBatchReader
from stoker.feed.shard_needs import CachedShards
from stoker.feed.source import ReadSettings
from stoker.keys.partition import KeySource
from stoker.store.cache import NodeCache
from stoker.store.errors import OutOfRange
from stoker.store.manifest import Manifest
from stoker.store.objects import ObjectStore
from stoker.store.ragged import Ragged
from stoker.store.record_schema import RecordSchema
from stoker.store.records import RECORD_SHARD_SCHEMA, RecordBlock, RecordShardReader
from stoker.store.superblock import Split


class RecordSplitReader:
    """Reads one split's records; for any number of threads. Several readers may share a manifest.

    How long shards and keys stay open is OpenShards' to say.
    """

    def __init__(
        self,
        manifest: Manifest,
        split: Split,
        schema: RecordSchema,
        *,
        store: ObjectStore,
        cache: NodeCache | None,
        keys: KeySource,
        clock: Clock,
    ) -> None:
        """Raises NotSamples when the split's count of shards is not what its records take."""
        check_shards(manifest, split, schema.records_per_shard, "records")
        self.schema = schema
        self._split = split
        self._manifest = manifest
        self._shards = OpenShards(
            manifest,
            RECORD_SHARD_SCHEMA,
            RecordShardReader.open,
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
        """How many records there are."""
        return self._split.samples

    @property
    def chunk_samples(self) -> int:
        """The records of each block but the last: the order's `block_samples`."""
        return self.schema.records_per_block

    @property
    def shard_chunks(self) -> int:
        """The blocks of each shard but the last."""
        return self.schema.blocks_per_shard

    @property
    def blocks(self) -> int:
        """How many blocks hold the records, counted through all shards."""
        return -(-self.samples // self.chunk_samples)

    def where(self, number: int) -> str:
        """The object that record `number` lies in, and which of its records it is: for messages."""
        shard, within = divmod(number, self.schema.records_per_shard)
        key = self._manifest.shard_key(self._split.first_shard + shard)
        return f"record {number} of split {self.name!r} ({key}, record {within} of it)"

    def read_block(
        self, block: int, *, memory: Callable[[int], npt.NDArray[np.uint8]] | None = None
    ) -> RecordBlock:
        """The records of a block, opened into what `memory` gives for a number of bytes, else a fresh array.

        Raises OutOfRange, and what opening a shard raises, which names shard and block or chunk.
        """
        if not 0 <= block < self.blocks:
            raise OutOfRange(
                f"Block {block} was asked of split {self.name!r}, which has {self.blocks}.",
                hint="Ask for a block below that.",
            )
        # Every shard of a split but its last holds the same number of full blocks.
        within, place = divmod(block, self.schema.blocks_per_shard)

        def read(opened: RecordShardReader) -> RecordBlock:
            into = None if memory is None else memory(opened.buffer_bytes(place))
            return opened.read_block(place, into=into)

        return self._shards.read(self._split.first_shard + within, read)

    def shard_access(self) -> CachedShards | None:
        """The shards for who brings them into the node's cache before they are read; None without one."""
        return self._shards.access(self._split, self.schema.blocks_per_shard)

    def batches(self, order: Order, first: int, rows: int, settings: ReadSettings) -> RecordBatchReader:
        """A reader of positions [first, first + rows) of every global batch in `order`."""
        return RecordBatchReader(self, order, first, rows, settings)

    def sequential(self, start: int = 0, stop: int | None = None) -> Iterator[RecordBatch]:
        """Records [start, stop) in stored order, in batches of at most a block, each with memory of its own.

        For evaluation, counting and export: nothing is shuffled, each block is opened once.
        """
        end = self.samples if stop is None else stop
        if not 0 <= start <= end <= self.samples:
            raise OutOfRange(
                f"Records {start} to {end} were asked of split {self.name!r}, which has {self.samples}.",
                hint="Ask for records below that.",
            )
        size = self.chunk_samples
        for block in range(start // size, -(-end // size)):
            opened = self.read_block(block)
            rows = slice(max(0, start - block * size), min(end - block * size, opened.rows))
            columns = {f.name: _cut(opened.column(f.name), rows) for f in self.schema.fields}
            numbers = np.arange(block * size + rows.start, block * size + rows.stop, dtype=np.int64)
            yield RecordBatch(numbers, columns)

    def wipe(self) -> None:
        """Close every shard and wipe the keys. Reading may go on, and then opens them anew."""
        self._shards.wipe()


def _cut(column: Column, rows: slice) -> Column:
    if isinstance(column, Ragged):
        return Ragged(column.values, column.offsets[rows.start : rows.stop + 1])
    return column[rows]
