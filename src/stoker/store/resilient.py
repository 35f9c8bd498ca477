"""A remote store that is asked again: retries, hedged and parallel range reads, creates that know their own.

Every request to an object store goes through here. See docs/design/store.md, "Retries and hedging".
"""

from __future__ import annotations

import asyncio
import bisect
import random
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, NoReturn, TypeAlias, TypeVar

from stoker.core.clock import Clock, SystemClock
from stoker.store.counts import StoreCounts
from stoker.store.errors import ObjectExists, ObjectMissing, StoreFailing
from stoker.store.hedge import RecentLatencies, first_good
from stoker.store.ranges import BytesLike, check_range
from stoker.store.remote import PAGE_KEYS, RemoteStore
from stoker.store.remote_loop import run
from stoker.store.resilient_settings import ResilienceSettings, split_url
from stoker.store.retry import Budget, Uniform, pause_s

T = TypeVar("T")

_COALESCE_BYTES: Final = 1 << 20
"""Ranges nearer to each other than this are fetched as one."""
_COMPARED_BYTES: Final = 1 << 23

Span: TypeAlias = "tuple[int, int]"
"""Start and length of a range, in bytes."""
Views: TypeAlias = "list[memoryview]"
Failures: TypeAlias = "list[BaseException | None]"


class ResilientStore:
    """The back end of every remote store. For any number of threads; not after a fork."""

    def __init__(
        self,
        remote: RemoteStore,
        settings: ResilienceSettings | None = None,
        *,
        clock: Clock | None = None,
        source: Uniform | None = None,
    ) -> None:
        """`clock` measures and makes the pauses between tries, `source` draws their lengths."""
        self._remote = remote
        self._settings = settings or ResilienceSettings()
        self._clock = clock or SystemClock()
        # Pauses are no secret; this source is seeded by the system, so processes do not draw alike.
        self._random: Uniform = source or random.Random()  # noqa: S311
        retry, hedge = self._settings.retry, self._settings.hedge
        self._retries = Budget(retry.budget_share, retry.budget_burst)
        self._hedges = Budget(hedge.share, hedge.burst)
        self._latencies = RecentLatencies(hedge)
        self._tally = remote.tally

    @classmethod
    def connect(cls, url: str) -> ResilientStore:
        """The store of `url`, with the settings in its query; nothing is sent. Raises StoreUnreachable."""
        bare, place, settings = split_url(url)
        return cls(RemoteStore.connect(bare, place, settings.limits), settings)

    @property
    def place(self) -> str:
        return self._remote.place

    def counts(self) -> StoreCounts:
        """What was asked of this store so far."""
        return self._tally.read()

    def create(self, key: str, data: BytesLike) -> None:
        """One conditional put, sent again when its answer fails to come.

        When a put that was sent again finds the name taken, what lies there is compared with `data`: if it is
        the same, the lost put was carried out, and this is no error.
        """
        tries, view = _Tries(self), memoryview(data).cast("B")
        while True:
            try:
                self._ask(partial(self._remote.create, key, view))
                break
            except StoreFailing as failure:
                tries.again(failure)
            except ObjectExists:
                if not tries.failed or not self._holds(key, view):
                    raise
                self._tally.add(found_own=1)
                break
        self._tally.add(bytes_written=len(view))

    def size(self, key: str) -> int:
        return self._persist(partial(self._remote.size, key))

    def read(self, key: str, start: int, length: int) -> memoryview:
        return self.read_many(key, [(start, length)])[0]

    def read_many(self, key: str, ranges: Sequence[Span]) -> Views:
        """Ranges that lie near each other are fetched as one; long ones in parts, side by side."""
        if any(length <= 0 or start < 0 for start, length in ranges):
            size = self.size(key)
            for start, length in ranges:
                check_range(key, start, length, size)
        spans = _coalesced([span for span in ranges if span[1]])
        views = self._read_spans(key, spans)
        found = []
        for start, length in ranges:
            if length == 0:
                found.append(memoryview(b""))
                continue
            index = bisect.bisect_right(spans, start, key=lambda span: span[0]) - 1
            begin = start - spans[index][0]
            found.append(views[index][begin : begin + length])
        self._tally.add(bytes_read=sum(length for _, length in ranges))
        return found

    def list(self, prefix: str) -> Iterator[str]:
        """In the order of names, as stores list them; a list that breaks off goes on behind its last key."""
        last: str | None = None
        while True:
            tries = _Tries(self)
            while True:
                try:
                    page = self._ask(partial(self._remote.list_page, prefix, last))
                    break
                except StoreFailing as failure:
                    tries.again(failure)
            yield from page
            if len(page) < PAGE_KEYS:
                return
            last = page[-1]

    def delete(self, key: str) -> None:
        self._persist(partial(self._remote.delete, [key]))

    def delete_prefix(self, prefix: str) -> int:
        keys = list(self.list(prefix))
        for start in range(0, len(keys), PAGE_KEYS):
            self._persist(partial(self._remote.delete, keys[start : start + PAGE_KEYS]))
        return len(keys)

    def _ask(self, start: Callable[[], Coroutine[Any, Any, T]]) -> T:
        return run(self.place, start)

    def _persist(self, start: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Ask until there is an answer, or no more may be asked."""
        tries = _Tries(self)
        while True:
            try:
                return self._ask(start)
            except StoreFailing as failure:
                tries.again(failure)

    def _holds(self, key: str, data: memoryview) -> bool:
        """Is `data`, byte for byte, what lies under `key`?"""
        try:
            if self.size(key) != len(data):
                return False
            return all(
                self.read(key, start, len(part := data[start : start + _COMPARED_BYTES])) == part
                for start in range(0, len(data), _COMPARED_BYTES)
            )
        except ObjectMissing:
            return False

    def _read_spans(self, key: str, spans: Sequence[Span]) -> Views:
        """Each span whole; one in parts is put together as they come, so little more than it is in memory."""
        whole: dict[int, memoryview] = {}
        parts: list[_Part] = []
        for number, span in enumerate(spans):
            cut = self._parts_of(span)
            if len(cut) > 1:
                whole[number] = memoryview(bytearray(span[1]))
            parts += [_Part(number, start, length, start - span[0]) for start, length in cut]
        tries = _Tries(self, requests=len(parts))
        while parts:
            outcomes = self._ask(partial(self._fetch, key, parts, whole))
            failures = [outcome for outcome in outcomes if outcome is not None]
            for failure in failures:
                if not isinstance(failure, StoreFailing):
                    raise failure
            parts = [part for part, outcome in zip(parts, outcomes, strict=True) if outcome is not None]
            if failures:
                assert isinstance(failures[0], StoreFailing)
                tries.again(failures[0], requests=len(failures))
        return [whole[number] for number in range(len(spans))]

    def _parts_of(self, span: Span) -> Sequence[Span]:
        """A long span as parts of equal length."""
        start, length = span
        most = self._settings.part_bytes
        if length < 2 * most:
            return [span]
        step = -(-length // -(-length // most))
        return [(start + at, min(step, length - at)) for at in range(0, length, step)]

    async def _fetch(self, key: str, parts: Sequence[_Part], whole: dict[int, memoryview]) -> Failures:
        """Read these parts into `whole`, which has room for spans of several; what went wrong with each."""
        gate = asyncio.Semaphore(self._settings.parts_at_once)

        async def fetch(part: _Part) -> None:
            async with gate:
                found = await self._read_part(key, part.start, part.length)
                if part.span in whole:
                    whole[part.span][part.offset : part.offset + part.length] = found
                else:
                    whole[part.span] = found

        return await asyncio.gather(*map(fetch, parts), return_exceptions=True)

    async def _read_part(self, key: str, start: int, length: int) -> memoryview:
        """One range, by the first good answer of one request or two."""

        async def send() -> memoryview:
            began_s = self._clock.monotonic_s()
            found = await self._remote.read(key, start, length)
            self._latencies.add(length, self._clock.monotonic_s() - began_s)
            return found

        def may_hedge() -> bool:
            allowed = self._hedges.spend()
            self._tally.add(hedges=allowed)
            return allowed

        self._hedges.earn()
        found, second_won = await first_good(send, self._latencies.patience_s(length), may_hedge)
        self._tally.add(hedges_won=second_won)
        return found

    def _pause(self, failure: StoreFailing, tries: int, requests: int, began_s: float) -> None:
        """Wait before `requests` requests are sent again, or raise that there will be no other try."""
        retry, clock = self._settings.retry, self._clock
        wait_s = pause_s(retry, tries, self._random)
        if tries >= retry.attempts:
            self._give_up(failure, f"Given up after {tries} tries.")
        if clock.monotonic_s() - began_s + wait_s > retry.deadline_s:
            self._give_up(failure, f"Given up after {tries} tries: they may take {retry.deadline_s:g} s.")
        if not self._retries.spend(requests):
            self._tally.add(short_of_budget=1)
            self._give_up(
                failure, f"Given up after {tries} tries: too many requests to this store are failing."
            )
        clock.sleep(wait_s)
        self._tally.add(retries=requests)

    def _give_up(self, failure: StoreFailing, why: str) -> NoReturn:
        self._tally.add(given_up=1)
        raise StoreFailing(f"{failure.message.rstrip('.')}. {why}", hint=failure.hint) from failure


@dataclass(frozen=True, slots=True)
class _Part:
    """`length` bytes from `start` of the object, which begin at `offset` of the span of this number."""

    span: int
    start: int
    length: int
    offset: int


class _Tries:
    """The tries of one operation; each of its `requests` earns for the budget."""

    def __init__(self, store: ResilientStore, requests: int = 1) -> None:
        self.failed = 0
        self._store = store
        self._began_s = store._clock.monotonic_s()
        store._retries.earn(requests)

    def again(self, failure: StoreFailing, requests: int = 1) -> None:
        """A try has failed, of which `requests` are to be sent again. Raises StoreFailing when not again."""
        self.failed += 1
        self._store._pause(failure, self.failed, requests, self._began_s)


def _coalesced(ranges: Sequence[Span]) -> list[Span]:
    """As few spans as hold all `ranges` without more than `_COALESCE_BYTES` of anything else between."""
    spans: list[Span] = []
    for start, length in sorted(ranges):
        if spans and start - sum(spans[-1]) <= _COALESCE_BYTES:
            begin, held = spans[-1]
            spans[-1] = (begin, max(held, start + length - begin))
        else:
            spans.append((start, length))
    return spans
