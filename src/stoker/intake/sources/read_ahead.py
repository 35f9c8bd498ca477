"""Small objects of a store are asked for before their turn, some at a time, in threads.

A request takes tens of milliseconds however small the object; one after the other, a million pictures would
take hours. Results and errors come in the order in which they are asked for. See docs/design/intake.md,
"Stores".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

from stoker.intake.sources.files import Candidate

AHEAD: Final = 16
"""So many objects are under way at once."""

SMALL_BYTES: Final = 1 << 20
"""A larger object is read in its turn."""


class ReadAhead:
    """The contents of `candidates`, fetched by `fetch`, which must be safe in threads. Close it."""

    def __init__(self, candidates: Sequence[Candidate], fetch: Callable[[Candidate], bytes]) -> None:
        self._candidates = candidates
        self._places = {candidate.path: place for place, candidate in enumerate(candidates)}
        self._fetch = fetch
        self._pool = ThreadPoolExecutor(AHEAD, thread_name_prefix="read-ahead")
        self._under_way: dict[int, Future[bytes]] = {}
        self._next = 0

    def get(self, candidate: Candidate) -> bytes:
        """The content; whatever `fetch` raised for it is raised here. What was passed over is dropped."""
        place = self._places[candidate.path]
        for skipped in [each for each in self._under_way if each < place]:
            self._under_way.pop(skipped).cancel()
        self._next = max(self._next, place)
        while self._next < min(place + AHEAD, len(self._candidates)):
            following = self._candidates[self._next]
            if following.size_bytes <= SMALL_BYTES:
                self._under_way[self._next] = self._pool.submit(self._fetch, following)
            self._next += 1
        future = self._under_way.pop(place, None)
        return self._fetch(candidate) if future is None else future.result()

    def close(self) -> None:
        """Wait for what is under way and forget it."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._under_way.clear()
