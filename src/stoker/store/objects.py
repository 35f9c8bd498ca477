"""Immutable objects by name, in a local folder or any store that obstore reaches. See docs/design/store.md.

An object is created once, whole, and only when its name is free; it is never changed, only deleted.
"""

from __future__ import annotations

import contextlib
import io
import re
import secrets
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Protocol, runtime_checkable
from urllib.parse import unquote, urlsplit

from stoker.store.counts import CountsRequests, StoreCounts
from stoker.store.errors import (
    BadObjectKey,
    ObjectExists,
    ObjectMissing,
    ObjectTooLarge,
    StoreUnreachable,
    UnsafeStore,
)
from stoker.store.local import LocalFolder
from stoker.store.ranges import BytesLike, RangeSource, ReadAhead
from stoker.store.streams import ObjectSink

MAX_KEY_BYTES = 512
DEFAULT_MAX_BYTES = 1 << 30

_SEGMENT = re.compile(r"[A-Za-z0-9_=-][A-Za-z0-9._=-]{0,199}")


class ObjectBackend(Protocol):
    """What a kind of store must do; keys are checked before they come here."""

    @property
    def place(self) -> str:
        """Where the store is, for messages."""
        ...

    def create(self, key: str, data: BytesLike) -> None:
        """Store the object whole and durably, or raise ObjectExists and leave the other one alone."""
        ...

    def size(self, key: str) -> int:
        """The length in bytes; raises ObjectMissing."""
        ...

    def read(self, key: str, start: int, length: int) -> memoryview:
        """Exactly these bytes; raises ObjectMissing, OutOfRange."""
        ...

    def read_many(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[memoryview]:
        """Several ranges of one object, coalesced where that pays."""
        ...

    def list(self, prefix: str) -> Iterator[str]:
        """The keys under the folder `prefix` ("" for all), in no promised order."""
        ...

    def delete(self, key: str) -> None:
        """Remove one object; one that is not there is no error."""
        ...

    def delete_prefix(self, prefix: str) -> int:
        """Remove every object under the folder `prefix`; says how many."""
        ...


@runtime_checkable
class Streams(Protocol):
    """A back end that writes and reads objects bit by bit."""

    def writing(self, key: str) -> ObjectSink:
        """A new object, there at the end of the block."""
        ...

    def reading(self, key: str) -> AbstractContextManager[RangeSource]:
        """An object, open for the block."""
        ...


class ObjectStore:
    """Checked names over one back end. A key is a relative name: `datasets/NAME/VERSION/00000000.stk`."""

    def __init__(self, backend: ObjectBackend) -> None:
        self._backend = backend

    @classmethod
    def open(cls, url: str) -> ObjectStore:
        """Open `file:///folder` (made when absent), `memory://` or any URL that obstore takes.

        What follows '?' are settings of a remote store, such as `attempts=3` (docs/design/store.md).
        Raises StoreUnreachable, and UnsafeStore when a second create of one name is not refused.
        """
        parts = urlsplit(url)
        if not parts.scheme:
            raise StoreUnreachable(
                f"{url[:200]!a} is no store URL.", hint="Write a folder as file:///data/stoker."
            )
        if parts.scheme == "file":
            if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
                raise StoreUnreachable(
                    f"{url[:200]!a} does not name a folder of this machine.",
                    hint="Write it with three slashes, as in file:///data/stoker.",
                )
            return cls(LocalFolder(Path(unquote(parts.path))))
        from stoker.store.resilient import ResilientStore

        store = cls(ResilientStore.connect(url))
        store.probe()
        return store

    @property
    def place(self) -> str:
        """Where the store is, for messages; holds no credentials."""
        return self._backend.place

    def counts(self) -> StoreCounts | None:
        """What this store was asked so far, and how often again; None of a folder, which nobody counts."""
        return self._backend.counts() if isinstance(self._backend, CountsRequests) else None

    def probe(self) -> None:
        """Create one name twice; raises UnsafeStore when the second create is not refused."""
        key = f"probe/{secrets.token_hex(16)}"
        self._backend.create(key, b"first")
        try:
            try:
                self._backend.create(key, b"second")
            except ObjectExists:
                kept = bytes(self._backend.read(key, 0, self._backend.size(key)))
                if kept == b"first":
                    return
            raise UnsafeStore(
                f"The store {self.place} does not refuse to create an object twice.",
                hint="Commits would overwrite each other. Use a store that honours If-None-Match on put.",
            )
        finally:
            self._backend.delete(key)

    def create(self, key: str, data: BytesLike) -> None:
        """Store `data` under the free name `key`, whole and durable on return.

        Raises ObjectExists when the name is taken, DiskFull (nothing is left behind), StoreUnreachable.
        """
        self._backend.create(check_key(key), data)

    def get(self, key: str, *, max_bytes: int = DEFAULT_MAX_BYTES) -> bytes:
        """The whole object; raises ObjectTooLarge before reading when it is longer than `max_bytes`."""
        size = self._backend.size(check_key(key))
        if size > max_bytes:
            raise ObjectTooLarge(
                f"{key} has {size} bytes; at most {max_bytes} were expected.",
                hint="The object was changed. Restore it from a copy.",
            )
        return bytes(self._backend.read(key, 0, size)) if size else b""

    def get_range(self, key: str, start: int, length: int) -> memoryview:
        """Exactly `length` bytes from `start`; raises OutOfRange when the object ends before."""
        return self._backend.read(check_key(key), start, length)

    def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[memoryview]:
        """Several ranges `(start, length)` of one object in as few requests as pays."""
        return self._backend.read_many(check_key(key), ranges)

    def size(self, key: str) -> int:
        """Length in bytes; raises ObjectMissing."""
        return self._backend.size(check_key(key))

    def exists(self, key: str) -> bool:
        """Is there an object of this name now?"""
        try:
            self.size(key)
        except ObjectMissing:
            return False
        return True

    def list(self, prefix: str = "") -> Iterator[str]:
        """Keys under the folder `prefix`, in no promised order."""
        return self._backend.list(check_key(prefix) if prefix else "")

    def delete(self, key: str) -> None:
        """Remove an object; one that is not there is no error."""
        self._backend.delete(check_key(key))

    def delete_prefix(self, prefix: str) -> int:
        """Remove every object under the folder `prefix`, which may not be empty; says how many."""
        return self._backend.delete_prefix(check_key(prefix))

    def writing(self, key: str) -> ObjectSink:
        """The object of this free name, to be written bit by bit; durable at the end of the block.

        Raises as `create` does, and what is left of it after an error is nothing. A folder has it on disk as
        it comes; any other store gets it whole, in one request, at the end.
        """
        check_key(key)
        return self._backend.writing(key) if isinstance(self._backend, Streams) else _WholeSink(self, key)

    @contextlib.contextmanager
    def reading(self, key: str) -> Iterator[RangeSource]:
        """The object as a RangeSource that stays open meanwhile: for one who reads much of it in order."""
        if isinstance(self._backend, Streams):
            with self._backend.reading(check_key(key)) as opened:
                yield opened
        else:
            yield ReadAhead(self.source(key))

    def source(self, key: str) -> StoredObject:
        """The object as a RangeSource."""
        return StoredObject(self, key)


class StoredObject:
    """One object of a store as a RangeSource; its size is asked once."""

    def __init__(self, store: ObjectStore, key: str) -> None:
        self._store = store
        self._key = key
        self._size: int | None = None

    def size(self) -> int:
        if self._size is None:
            self._size = self._store.size(self._key)
        return self._size

    def read(self, start: int, length: int) -> memoryview:
        return self._store.get_range(self._key, start, length)


class _WholeSink:
    """Collects an object in memory and creates it at the end."""

    def __init__(self, store: ObjectStore, key: str) -> None:
        self._store = store
        self._key = key
        self._file = io.BytesIO()

    def write(self, data: BytesLike) -> int:
        return self._file.write(data)

    def __enter__(self) -> _WholeSink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._store.create(self._key, self._file.getbuffer())


def check_key(key: str) -> str:
    """Return `key` when it is a relative name of plain segments; raises BadObjectKey."""
    if len(key) <= MAX_KEY_BYTES and all(_SEGMENT.fullmatch(segment) for segment in key.split("/")):
        return key
    raise BadObjectKey(
        f"{key[:80]!a} is no object name.",
        hint="A name is segments of letters, digits and . _ = - joined by '/', not beginning with a dot, "
        f"at most {MAX_KEY_BYTES} bytes in all.",
    )
