"""The shards of one split that are open now, with their keys. See docs/design/feed.md, "Reading"."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Generic, Protocol, TypeVar

from stoker.core.clock import Clock
from stoker.core.errors import StokerError
from stoker.feed.errors import NotSamples
from stoker.feed.lease import LEASE_OVER
from stoker.feed.shard_needs import CachedShards
from stoker.keys.partition import KeySource, lease_of
from stoker.store.cache import NodeCache
from stoker.store.errors import (
    CommitmentMismatch,
    CorruptObject,
    CorruptStream,
    NotSealed,
    SwappedStream,
    TruncatedStream,
    UnknownVersion,
)
from stoker.store.header import StreamKind, StreamLabel
from stoker.store.manifest import Manifest
from stoker.store.objects import ObjectStore
from stoker.store.opened import OpenedKeys
from stoker.store.ranges import RangeSource
from stoker.store.superblock import Split

S = TypeVar("S")
S_co = TypeVar("S_co", covariant=True)
T = TypeVar("T")

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


def check_shards(manifest: Manifest, split: Split, per_shard: int, what: str) -> None:
    """Raise NotSamples unless the split has as many shards as its samples (or records: `what`) take."""
    needed = -(-split.samples // per_shard)
    if split.shards != needed or split.first_shard + split.shards > manifest.shards:
        raise NotSamples(
            f"Split {split.name!r} of {manifest.prefix} claims {split.samples} {what} in {split.shards} "
            f"shards from {split.first_shard} of {manifest.shards}; they take {needed}.",
            hint="The dataset was written wrongly: prepare it again.",
        )


class OpenShard(Protocol[S_co]):
    """Opens one shard of a dataset: ShardReader.open or RecordShardReader.open."""

    def __call__(
        self, manifest: Manifest, shard: int, label: StreamLabel, keys: KeySource, *, source: RangeSource
    ) -> S_co: ...


class OpenShards(Generic[S]):
    """Opens shards when they are first read, through the node's cache; for any number of threads.

    A shard stays open, with its key, until `MAX_OPEN_SHARDS` others were used since, `KEYS_KEPT_S` have
    passed, or `wipe` is called; then its key is asked for again, and may be refused. Several of these may
    share a manifest.
    """

    def __init__(
        self,
        manifest: Manifest,
        schema: int,
        open_shard: OpenShard[S],
        *,
        store: ObjectStore,
        cache: NodeCache | None,
        keys: KeySource,
        clock: Clock,
    ) -> None:
        """`schema` is the schema version that every shard's header must have."""
        self._manifest = manifest
        self._schema = schema
        self._open_shard = open_shard
        self._store = store
        self._cache = cache
        self._keys = OpenedKeys(keys)
        self.require_lease: Final = lease_of(keys)
        """Raises LeaseExpired or LeaseRefused unless the lease that the keys are under is good now."""
        self._clock = clock
        self._wait = True
        self._shards: OrderedDict[int, S] = OrderedDict()
        self._using = threading.Lock()  # of the table of shards; held for no longer than a look-up
        self._opening = threading.Lock()  # one shard is opened at a time, and by one thread
        self._opened_s = clock.monotonic_s()

    def read(self, shard: int, read: Callable[[S], T]) -> T:
        """What `read` makes of the open shard. Raises what opening and reading it raises.

        First it is asked whether the lease is good: when it is over every shard is closed and the keys are
        wiped, and LeaseExpired or LeaseRefused is raised.
        A copy in the node's cache that turns out bad is replaced once by the store's object; when that is bad
        as well, the first error, which names shard and chunk, is raised.
        """
        try:
            self.require_lease()
        except LEASE_OVER:
            self.wipe()
            raise
        now_s = self._clock.monotonic_s()
        if now_s - self._opened_s > KEYS_KEPT_S:
            self.wipe()
            self._opened_s = now_s
        opened = None
        try:
            opened = self._opened(shard)
            return read(opened)
        except _BAD_COPY as error:
            if self._cache is None:
                raise
            return read(self._opened_again(shard, opened, error))

    def access(self, split: Split, blocks_per_shard: int) -> CachedShards | None:
        """The shards for who brings them in before they are read; None without a cache.

        From then on, without peers, a large shard is read while it comes in: nobody waits for all of it. With
        peers it is waited for, since what is read meanwhile would cross from the store a second time.
        """
        if self._cache is None:
            return None
        self._wait = self._cache.has_peers
        return CachedShards(self._manifest, self._cache, split, blocks_per_shard)

    def wipe(self) -> None:
        """Close every shard and wipe the keys. Reading may go on, and then opens them anew."""
        with self._opening:
            with self._using:
                self._shards.clear()
            self._keys.close()

    def _opened(self, shard: int) -> S:
        reader = self._held(shard)
        if reader is not None:
            return reader
        with self._opening:
            reader = self._held(shard)  # another thread may have opened it meanwhile
            return self._hold(shard, self._open(shard, check_copy=False)) if reader is None else reader

    def _opened_again(self, shard: int, bad: S | None, error: StokerError) -> S:
        """The shard from a copy that was compared with its digest; `bad` is what failed with `error`."""
        with self._opening:
            reader = self._held(shard)
            if reader is not None and reader is not bad:
                return reader
            try:
                return self._hold(shard, self._open(shard, check_copy=True))
            except CorruptObject:
                raise error from None

    def _held(self, shard: int) -> S | None:
        with self._using:
            reader = self._shards.get(shard)
            if reader is not None:
                self._shards.move_to_end(shard)
            return reader

    def _hold(self, shard: int, reader: S) -> S:
        with self._using:
            self._shards[shard] = reader
            self._shards.move_to_end(shard)
            if len(self._shards) > MAX_OPEN_SHARDS:
                self._shards.popitem(last=False)
        return reader

    def _open(self, shard: int, *, check_copy: bool) -> S:
        manifest = self._manifest
        label, key = manifest.label(shard, StreamKind.SHARD, self._schema), manifest.shard_key(shard)
        entry = manifest.entry(shard)
        source: RangeSource
        if self._cache is None:
            source = self._store.source(key)
        else:
            source = self._cache.fetch(
                key, entry.object_bytes, digest=entry.digest, check=check_copy, wait=self._wait or check_copy
            )
        return self._open_shard(manifest, shard, label, self._keys, source=source)
