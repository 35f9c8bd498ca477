"""One request at a time to any store that obstore reaches (S3, GCS, Azure, memory); its errors made ours.

Nothing is repeated here: `resilient` decides that. See docs/design/store.md; the choice of obstore is
docs/decisions/0302-obstore.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import obstore
from obstore.exceptions import BaseError
from obstore.store import from_url

from stoker.core.errors import StokerError
from stoker.store.counts import Tally
from stoker.store.errors import StoreUnreachable
from stoker.store.ranges import BytesLike, check_range
from stoker.store.remote_loop import claim_process
from stoker.store.retry_rules import HINT, error_of, first_line, is_about_range, no_bucket_for, timed_out

if TYPE_CHECKING:
    from obstore.store import ObjectStore as AnyStore

PAGE_KEYS: Final = 1000


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """How long one request may take, by what it moves."""

    answer_s: float = 15.0
    """Seconds until the first byte of an answer, on top of what its bytes may take."""
    least_bytes_per_s: int = 50_000
    """A body that comes more slowly is given up."""
    stretch_bytes: int = 1 << 19
    """The stretch of a long body over which that is measured: each must come in its own time."""

    def whole_s(self, length: int) -> float:
        """The longest that a request with `length` bytes of body may take."""
        return self.answer_s + length / self.least_bytes_per_s


class RemoteStore:
    """One obstore store, whose calls are coroutines for the thread of `remote_loop`."""

    def __init__(self, store: AnyStore, place: str, limits: RequestLimits | None = None) -> None:
        claim_process(place)
        self._store = store
        self._limits = limits or RequestLimits()
        self.place = place
        self.tally = Tally()

    @classmethod
    def connect(cls, url: str, place: str, limits: RequestLimits) -> RemoteStore:
        """Build the store of `url`, which messages call `place`; nothing is sent yet."""
        claim_process(place)
        try:
            if url.startswith("memory:"):
                return cls(from_url(url), place, limits)
            return cls(
                from_url(
                    url,
                    client_options={
                        "connect_timeout": timedelta(seconds=10),
                        # Each request has its own limit here; this one bounds what escapes it.
                        "timeout": timedelta(hours=12),
                        # Options that are given here replace all that the environment says about the client.
                        "allow_http": any(
                            os.environ.get(f"{cloud}_ALLOW_HTTP", "").lower() in ("1", "true")
                            for cloud in ("AWS", "GOOGLE", "AZURE")
                        ),
                    },
                    retry_config={"max_retries": 0},
                ),
                place,
                limits,
            )
        except (BaseError, ValueError, TypeError) as error:
            # The library quotes the URL, which may hold credentials.
            reason = first_line(error).replace(url, place)
            raise StoreUnreachable(
                f"{place[:200]!a} cannot be used as a store: {reason}", hint=HINT
            ) from None

    async def create(self, key: str, data: BytesLike) -> None:
        """One put on the condition that the name is free. Raises ObjectExists."""
        view = memoryview(data).cast("B")
        try:
            async with self._asking(key, len(view)):
                await self._store.put_async(key, view, mode="create", use_multipart=False)
        except FileNotFoundError as error:
            raise self._missing(error, key, whole=True) from error

    async def size(self, key: str) -> int:
        """The length in bytes. Raises ObjectMissing."""
        try:
            async with self._asking(key, 0):
                return (await self._store.head_async(key))["size"]
        except FileNotFoundError as error:
            raise self._missing(error, key) from error

    async def read(self, key: str, start: int, length: int) -> memoryview:
        """Exactly these bytes, at least one. Raises ObjectMissing, OutOfRange; StoreFailing when short."""
        try:
            if length <= self._limits.stretch_bytes:
                async with self._asking(key, length):
                    found = memoryview(await self._store.get_range_async(key, start=start, length=length))
            else:
                found = await self._read_long(key, start, length)
        except FileNotFoundError as error:
            raise self._missing(error, key) from error
        except _RangeRefused as refused:
            # A range past the end is refused in many words, one per store: ask for the size instead.
            check_range(key, start, length, await self.size(key))
            raise refused.failure from None
        if len(found) != length:
            check_range(key, start, length, await self.size(key))
            raise timed_out(key, self.place, f"the body is short, {len(found)} of {length} bytes")
        return found

    async def list_page(self, prefix: str, after: str | None) -> list[str]:
        """The next keys under the folder `prefix`, behind the key `after`: `PAGE_KEYS`, or all the rest."""
        pages = obstore.list(self._store, prefix or None, offset=after, chunk_size=PAGE_KEYS)
        try:
            async with self._asking(prefix or "the list", 0):
                page = await anext(aiter(pages), None)
        except FileNotFoundError as error:
            raise self._missing(error, prefix, whole=True) from error
        return [str(meta["path"]) for meta in page or ()]

    async def delete(self, keys: list[str]) -> None:
        """Remove these objects, at most a thousand; those that are not there are no error."""
        with contextlib.suppress(FileNotFoundError):
            async with self._asking(keys[0], 0):
                await self._store.delete_async(keys if len(keys) > 1 else keys[0])

    async def _read_long(self, key: str, start: int, length: int) -> memoryview:
        """A body in stretches, each of which has to come in its time: one that trickles is not waited for."""
        found, done = bytearray(length), 0
        stretch = self._limits.stretch_bytes
        async with self._asking(key, stretch):
            result = await self._store.get_async(key, options={"range": (start, start + length)})
            body = aiter(result.stream(min_chunk_size=stretch))
        while done < length:
            async with self._asking(key, stretch, answered=True):
                part = await anext(body, None)
            if part is None:
                break
            found[done : done + len(part)] = part
            done += len(part)
        return memoryview(found)[:done]

    @contextlib.asynccontextmanager
    async def _asking(self, key: str, length: int, *, answered: bool = False) -> AsyncIterator[None]:
        """One wait for the store, bounded; the library's errors become ours, but for FileNotFoundError."""
        limits = self._limits
        self.tally.add(requests=not answered)
        limit_s = length / limits.least_bytes_per_s if answered else limits.whole_s(length)
        try:
            async with asyncio.timeout(limit_s):
                yield
        except FileNotFoundError:
            raise
        except TimeoutError:
            what = f"its body comes at less than {limits.least_bytes_per_s} bytes a second"
            raise timed_out(key, self.place, what if answered else f"no answer in {limit_s:.3g} s") from None
        except (BaseError, OSError, NotImplementedError) as error:
            failure = error_of(error, key, self.place)
            if is_about_range(error):
                raise _RangeRefused(failure) from error
            raise failure from error

    def _missing(self, error: FileNotFoundError, key: str, *, whole: bool = False) -> StokerError:
        """ObjectMissing, or that the bucket is; with `whole` always that, as no object was asked for."""
        found = no_bucket_for(error, self.place) if whole else None
        return found or error_of(error, key, self.place)


class _RangeRefused(Exception):
    """The store does not give the range that was asked for; `failure` is what to say if it should have."""

    def __init__(self, failure: StokerError) -> None:
        self.failure = failure
