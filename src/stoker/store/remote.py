"""Any store that obstore reaches (S3, GCS, Azure, memory), with its errors made ours.

See docs/design/store.md; the choice of obstore is docs/decisions/0302-obstore.md.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError
from obstore.store import from_url

from stoker.store.errors import StoreUnreachable
from stoker.store.local import object_exists, object_missing
from stoker.store.ranges import BytesLike, check_range

if TYPE_CHECKING:
    from obstore.store import ObjectStore as AnyStore

_PAGE = 1000
_HINT = "Check the URL, the network and the credentials in the environment, then run it again."


class RemoteStore:
    """One obstore store. It must not be used after a fork: its threads stay in the parent."""

    def __init__(self, store: AnyStore, place: str) -> None:
        self._store = store
        self._place = place
        self._process = os.getpid()

    @classmethod
    def connect(cls, url: str) -> RemoteStore:
        """Build the store of `url`; retries are bounded, so an unreachable store is an error, not a wait."""
        parts = urlsplit(url)
        place = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        try:
            if url.startswith("memory:"):
                return cls(from_url(url), place)
            return cls(
                from_url(
                    url,
                    client_options={
                        "connect_timeout": timedelta(seconds=10),
                        # Options that are given here replace all that the environment says about the client.
                        "allow_http": os.environ.get("AWS_ALLOW_HTTP", "").lower() in ("1", "true"),
                    },
                    retry_config={"max_retries": 4, "retry_timeout": timedelta(seconds=60)},
                ),
                place,
            )
        except (BaseError, ValueError, TypeError) as error:
            # The library quotes the URL, which may hold credentials.
            reason = _first_line(error).replace(url, place)
            raise StoreUnreachable(
                f"{place[:200]!a} cannot be used as a store: {reason}", hint=_HINT
            ) from None

    @property
    def place(self) -> str:
        return self._place

    def create(self, key: str, data: BytesLike) -> None:
        with self._naming(key):
            self._store.put(key, memoryview(data).cast("B"), mode="create", use_multipart=False)

    def size(self, key: str) -> int:
        with self._naming(key):
            return self._store.head(key)["size"]

    def read(self, key: str, start: int, length: int) -> memoryview:
        if length == 0:
            check_range(key, start, length, self.size(key))
            return memoryview(b"")
        with self._naming(key):
            try:
                found = memoryview(self._store.get_range(key, start=start, length=length))
            except BaseError:
                # A range past the end is refused in many words, one per store: ask for the size instead.
                check_range(key, start, length, self.size(key))
                raise
        check_range(key, start, length, start + len(found))
        return found

    def read_many(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[memoryview]:
        if not ranges or any(length == 0 for _, length in ranges):
            return [self.read(key, start, length) for start, length in ranges]
        with self._naming(key):
            try:
                found = self._store.get_ranges(
                    key, starts=[start for start, _ in ranges], lengths=[length for _, length in ranges]
                )
            except BaseError:
                size = self.size(key)
                for start, length in ranges:
                    check_range(key, start, length, size)
                raise
        views = [memoryview(part) for part in found]
        for view, (start, length) in zip(views, ranges, strict=True):
            check_range(key, start, length, start + len(view))
        return views

    def list(self, prefix: str) -> Iterator[str]:
        with self._naming(prefix):
            for page in obstore.list(self._store, prefix or None, chunk_size=_PAGE):
                for meta in page:
                    yield str(meta["path"])

    def delete(self, key: str) -> None:
        with self._naming(key), contextlib.suppress(FileNotFoundError):
            self._store.delete(key)

    def delete_prefix(self, prefix: str) -> int:
        keys = list(self.list(prefix))
        with self._naming(prefix):
            for start in range(0, len(keys), _PAGE):
                self._store.delete(keys[start : start + _PAGE])
        return len(keys)

    @contextlib.contextmanager
    def _naming(self, key: str) -> Iterator[None]:
        if os.getpid() != self._process:
            raise StoreUnreachable(
                f"The store {self._place} was opened before this process was forked from its parent.",
                hint="Open the store again in the new process.",
            )
        try:
            yield
        except (AlreadyExistsError, PreconditionError) as error:
            raise object_exists(key, self._place) from error
        except FileNotFoundError as error:
            raise object_missing(key, self._place) from error
        except (BaseError, OSError, NotImplementedError) as error:
            raise StoreUnreachable(f"{key} in {self._place}: {_first_line(error)}", hint=_HINT) from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
