"""Ciphertext kept on the node, so that an object crosses the network once. See docs/design/store.md.

Only sealed objects come here, byte for byte as in the store; what is wrong with a copy is noticed by whoever
opens it, as with the store itself. A cache that cannot be used costs time and never an answer.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from stoker.core.clock import Clock, SystemClock
from stoker.store.cache_counts import Brought, CacheCounts
from stoker.store.cache_room import CacheRoom, same_file
from stoker.store.errors import CorruptObject, OutOfRange, StoreUnreachable, TruncatedStream
from stoker.store.objects import ObjectStore, check_key
from stoker.store.ranges import BytesLike, FileSource, RangeSource, check_range

DIRECT_BYTES: Final = 8 << 20
"""An object of at least this length is worth reading in ranges while it is still on its way."""

_COPY_BYTES: Final = 1 << 23
_DISK_FULL: Final = (errno.ENOSPC, errno.EDQUOT)


class ObjectPeers(Protocol):
    """Other nodes of the run that may have an object. See stoker.store.peers."""

    def fetch(
        self, key: str, expected_bytes: int, digest: bytes, write: Callable[[BytesLike, int], None]
    ) -> bool:
        """Hand the object to `write(part, offset)`; False: ask the store, whatever was written.

        On True the bytes have the SHA-256 `digest`.
        """
        ...


class NodeCache:
    """Whole objects as files under `folder`, shared by all processes of the node, at most `limit_bytes`."""

    def __init__(
        self,
        folder: Path,
        store: ObjectStore,
        limit_bytes: int,
        peers: ObjectPeers | None = None,
        *,
        clock: Clock | None = None,
    ) -> None:
        """Removes what processes that died have left half written.

        Raises StoreUnreachable when the folder cannot be made or written; a full disk is no error.
        """
        self._store = store
        self._peers = peers
        self._room = CacheRoom(folder, limit_bytes, clock or SystemClock())
        self._counts = dict.fromkeys(CacheCounts.__dataclass_fields__, 0)
        self._counting = threading.Lock()
        try:
            self._room.make_folders()
            self._room.sweep()
        except OSError as error:
            if error.errno not in _DISK_FULL:
                raise StoreUnreachable(
                    f"{folder} cannot be used as a cache: {error.strerror}.",
                    hint="Name a folder that you own.",
                ) from error

    @property
    def limit_bytes(self) -> int:
        """How much the cache holds at most."""
        return self._room.limit_bytes

    @property
    def kept_objects(self) -> Path:
        """The folder of what is kept, laid out like a store in a folder; for whoever proves a key's death."""
        return self._room.objects

    @property
    def has_peers(self) -> bool:
        """Are other nodes asked before the store?"""
        return self._peers is not None

    def fetch(
        self,
        key: str,
        expected_bytes: int,
        *,
        digest: bytes | None = None,
        check: bool = True,
        wait: bool = True,
    ) -> RangeSource:
        """The object, from the cache or brought in now by one process while others wait.

        `digest` is the recorded SHA-256. With `check`, a kept copy that does not have it is brought in again,
        once, and so is what the store gives compared with it; without, only what peers give is. Without
        `wait`, an object of `DIRECT_BYTES` or more that is not here is read from the store, range by range,
        until somebody has brought it in. When the cache cannot take it, the object is read from the store.
        Raises TruncatedStream when the stored object has not `expected_bytes`, CorruptObject when it has
        another digest, and what the store raises.
        """
        path = self._room.objects / check_key(key)
        kept = self._kept(key, path, expected_bytes, digest if check else None)
        if kept is not None:
            self._count(hits=1)
            return kept
        self._count(misses=1)
        if not wait and DIRECT_BYTES <= expected_bytes <= self.limit_bytes:
            return _OnItsWay(self, key, expected_bytes)
        found = self._bring(key, path, expected_bytes, digest, check=check, ahead=None)
        return found if isinstance(found, FileSource) else self._bypass(key)

    def bring_in(
        self,
        key: str,
        expected_bytes: int,
        *,
        digest: bytes | None,
        keep_s: float,
        stopped: Callable[[], bool] | None = None,
    ) -> Brought:
        """Have the object here before it is needed, and keep it for `keep_s` seconds (an hour at most).

        Nothing that others want is evicted for it. Given up between two parts once `stopped` says so. Raises
        as `fetch`.
        """
        path = self._room.objects / check_key(key)
        held = self._kept(key, path, expected_bytes, None, keep_s=keep_s)
        if held is not None:
            held.close()
            return Brought.HELD
        ahead = _Ahead(keep_s, stopped or (lambda: False))
        found = self._bring(key, path, expected_bytes, digest, check=False, ahead=ahead)
        if isinstance(found, Brought):
            return found
        found.close()
        return Brought.IN

    def drop(self, prefix: str) -> None:
        """Forget every object under the folder `prefix`; what is open stays readable until closed."""
        self._room.forget_tree(self._room.objects / check_key(prefix))

    def size_bytes(self) -> int:
        """How much the cache holds now, with what is promised to objects on their way."""
        return self._room.held_bytes()

    def counts(self) -> CacheCounts:
        """What this process has done with the cache since it opened it."""
        with self._counting:
            return CacheCounts(**self._counts | {"evictions": self._room.evictions})

    def _kept(
        self, key: str, path: Path, expected_bytes: int, digest: bytes | None, *, keep_s: float = 0.0
    ) -> CachedCopy | None:
        """The copy, when there is one that holds; one that does not is forgotten."""
        try:
            source = CachedCopy(self, key, path)
        except OSError:
            return None
        try:
            holds = source.size() == expected_bytes and (digest is None or _digest_of(source) == digest)
        except OSError:
            holds = False
        if holds:
            with contextlib.suppress(OSError):
                self._room.stamp(path, keep_s)
            return source
        self._count(refetched=1)
        with contextlib.suppress(OSError):
            self._room.forget(path, source.descriptor)
        source.close()
        return None

    def _bring(
        self,
        key: str,
        path: Path,
        expected_bytes: int,
        digest: bytes | None,
        *,
        check: bool,
        ahead: _Ahead | None,
    ) -> FileSource | Brought:
        """The object as a file, brought in by this thread unless another has done so meanwhile."""
        if expected_bytes > self.limit_bytes:
            return Brought.UNUSABLE
        keep_s = 0.0 if ahead is None else ahead.keep_s
        try:
            with self._flight(key, wait=ahead is None) as (partial, descriptor):
                kept = self._kept(key, path, expected_bytes, digest if check else None, keep_s=keep_s)
                if kept is not None:
                    return kept
                if not self._room.reserve(descriptor, expected_bytes, spare_wanted=ahead is not None):
                    return Brought.NO_ROOM
                _allocate(descriptor, expected_bytes)
                self._fill(key, descriptor, expected_bytes, digest, check=check, ahead=ahead)
                self._room.stamp(descriptor, keep_s)
                self._room.keep(partial, path)
                return CachedCopy(self, key, path)
        except BlockingIOError:
            return Brought.UNDER_WAY
        except _GivenUp:
            return Brought.STOPPED
        except OSError:
            # No space, a read-only or broken disk, a folder that somebody removed or put other things into.
            return Brought.UNUSABLE

    def _fill(
        self,
        key: str,
        descriptor: int,
        expected_bytes: int,
        digest: bytes | None,
        *,
        check: bool,
        ahead: _Ahead | None,
    ) -> None:
        """Write the object into the partial file: from a peer, or else from the store."""

        def write(part: BytesLike, offset: int) -> None:
            if ahead is not None and ahead.stopped():
                raise _GivenUp
            _write_at(descriptor, part, offset)

        if (
            self._peers is not None
            and digest is not None
            and self._peers.fetch(key, expected_bytes, digest, write)
        ):
            self._count(peer_bytes=expected_bytes)
            return
        found_bytes = self._store.size(key)
        if found_bytes != expected_bytes:
            raise TruncatedStream(
                f"{key} has {found_bytes} bytes, where {expected_bytes} were recorded.",
                hint="The object was changed or damaged. Restore it from a copy.",
            )
        hasher = hashlib.sha256()
        for start in range(0, expected_bytes, _COPY_BYTES):
            part = self._store.get_range(key, start, min(_COPY_BYTES, expected_bytes - start))
            self._count(store_bytes=len(part))
            write(part, start)
            if digest is not None and check:
                hasher.update(part)
        if digest is not None and check and hasher.digest() != digest:
            raise CorruptObject(
                f"{key} was changed: its SHA-256 is not the recorded one.",
                hint="Restore the object from a copy.",
            )

    @contextlib.contextmanager
    def _flight(self, key: str, *, wait: bool) -> Iterator[tuple[Path, int]]:
        """The one partial file of an object, locked: whoever holds it brings the object in.

        The kernel drops the lock when its process dies. What is still partial at the end is removed. Without
        `wait`, raises BlockingIOError when another holds it.
        """
        partial = self._room.partial / hashlib.sha256(key.encode()).hexdigest()
        while True:
            try:
                descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            except FileNotFoundError:
                self._room.make_folders()  # somebody removed the cache
                continue
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                raise
            if same_file(partial, descriptor):
                break
            os.close(descriptor)  # the one before has finished: the file is an object now, or removed
        try:
            yield partial, descriptor
        finally:
            with contextlib.suppress(OSError):
                self._room.abandon(partial, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # a forked child may still have it open
            os.close(descriptor)

    def _bypass(self, key: str) -> RangeSource:
        self._count(bypassed=1)
        return _Direct(self, key)

    def _count(self, **more: int) -> None:
        with self._counting:
            for name, count in more.items():
                self._counts[name] += count


@dataclass(frozen=True, slots=True)
class _Ahead:
    """An object is brought in before it is needed."""

    keep_s: float
    stopped: Callable[[], bool]


class _GivenUp(Exception):
    """Bringing an object in ahead was given up; it does not leave this module."""


class _Direct:
    """An object that the cache cannot take, read from the store."""

    def __init__(self, cache: NodeCache, key: str) -> None:
        self._cache = cache
        self._source = cache._store.source(key)

    def size(self) -> int:
        return self._source.size()

    def read(self, start: int, length: int) -> memoryview:
        found = self._source.read(start, length)
        self._cache._count(direct_bytes=len(found))
        return found


class _OnItsWay:
    """An object that is read from the store until its copy is here."""

    def __init__(self, cache: NodeCache, key: str, expected_bytes: int) -> None:
        self._cache = cache
        self._key = key
        self._expected_bytes = expected_bytes
        self._direct = _Direct(cache, key)
        self._kept: CachedCopy | None = None

    def size(self) -> int:
        return self._direct.size() if self._kept is None else self._kept.size()

    def read(self, start: int, length: int) -> memoryview:
        if self._kept is None:
            path = self._cache._room.objects / self._key
            self._kept = self._cache._kept(self._key, path, self._expected_bytes, None)
        return (self._kept or self._direct).read(start, length)


class CachedCopy(FileSource):
    """A copy in the cache; the store stands in for it when it cannot be read or has become shorter."""

    def __init__(self, cache: NodeCache, key: str, path: Path) -> None:
        self._instead: _Direct | None = None
        super().__init__(path)
        self._cache = cache
        self._key = key

    @property
    def descriptor(self) -> int:
        """The open file."""
        return self._descriptor

    @property
    def inode(self) -> int:
        """Which file it is: another copy of the same object has another."""
        return os.fstat(self._descriptor).st_ino

    def read(self, start: int, length: int) -> memoryview:
        if self._instead is None:
            try:
                return super().read(start, length)
            except (OSError, OutOfRange):
                check_range(self._key, start, length, self._size)
                self._cache._count(refetched=1)
                with contextlib.suppress(OSError):
                    self._cache._room.forget(self._path, self._descriptor)
                self._instead = _Direct(self._cache, self._key)
        return self._instead.read(start, length)


def _allocate(descriptor: int, length: int) -> None:
    """Take the disk's blocks now, so that a full disk is noticed before anything is fetched."""
    if length == 0 or not hasattr(os, "posix_fallocate"):
        return
    try:
        os.posix_fallocate(descriptor, 0, length)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
            raise


def _write_at(descriptor: int, data: BytesLike, offset: int) -> None:
    view = memoryview(data)
    while len(view):
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def _digest_of(source: FileSource) -> bytes:
    digest, size = hashlib.sha256(), source.size()
    for start in range(0, size, _COPY_BYTES):
        digest.update(source.read(start, min(_COPY_BYTES, size - start)))
    return digest.digest()
