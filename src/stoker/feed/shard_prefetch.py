"""Brings the shards of the next minutes into the node's cache before a batch needs them.

See docs/design/feed.md, "Prefetching shards".
"""

from __future__ import annotations

import math
import threading
from collections import Counter, deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from stoker.core.clock import Clock
from stoker.core.errors import StokerError
from stoker.feed.errors import BadFeedSetting
from stoker.feed.order import Order
from stoker.feed.shard_needs import PrefetchedSplit, ShardNeed, ShardNeeds
from stoker.store.cache_counts import Brought

DEFAULT_SHARDS_AHEAD_S: Final = 120.0
MAX_SHARDS_AHEAD_S: Final = 3600.0
PREFETCH_THREADS: Final = 4

_PLANNED_SAMPLES: Final = 16_384
_STRETCHES_A_LOOK: Final = 8
"""So that a look takes some 20 ms at most, however fast steps seem to be; later looks go on from there."""
_FIRST_STEPS: Final = 64
"""How far to look as long as nobody knows how long a step takes."""
_PAUSES_S: Final = (1.0, 30.0)
"""How long to wait after there was no room: twice as long each time, up to the second."""
_REST_S: Final = 10.0
"""How long to wait after every shard was found in the cache: others may make it let go of some."""
_NAME: Final = "stoker-shards"

_Shard: TypeAlias = tuple[int, int]
"""The part of the mixture, and the shard of its dataset."""


@dataclass(frozen=True, slots=True)
class PrefetchCounts:
    """What prefetching has done for this rank."""

    brought: int = 0
    """Shards that were brought in."""
    held: int = 0
    """Shards that were there already, or that somebody else was bringing in."""
    declined: int = 0
    """Times that there was no room, or that the cache could not be used."""
    failed: int = 0
    """Shards, or manifest pages, that could not be had: the reader that needs them meets the error."""


class ShardPrefetch:
    """Brings in what `needs` says of the next `ahead_s` seconds, in a few threads, soonest first.

    What finds no room is tried again, before anything that is needed later. The threads begin with a step
    and end with `stop`.
    """

    def __init__(
        self, needs: ShardNeeds, ahead_s: float, clock: Clock, threads: int = PREFETCH_THREADS
    ) -> None:
        self._needs = needs
        self._ahead_s = ahead_s
        self._clock = clock
        self._limit_bytes = min(each.limit_bytes for each in needs.shards if each is not None)
        self._shards = sum(each.shards for each in needs.shards if each is not None)
        self._threads = threads
        self._idle = threading.Condition()  # over what follows
        self._planner: ThreadPoolExecutor | None = None
        self._bringers: ThreadPoolExecutor | None = None
        self._planning = False
        self._again = False
        self._stopped = False
        self._step = self._next_step = -1
        self._jumped = True
        self._next_look = 0
        self._counts: Counter[str] = Counter()
        # The planner's own: one call of _plan at a time.
        self._upcoming: deque[ShardNeed] = deque()
        self._uses: Counter[_Shard] = Counter()  # how often each shard is in `_upcoming`
        self._sizes: dict[_Shard, int] = {}
        self._waiting: deque[_Shard] = deque()  # upcoming and not asked for yet, soonest first
        self._bringing: dict[_Shard, Future[Brought]] = {}
        self._planned = 0  # steps below are in `_upcoming`, or have passed
        self._step_s = 0.0
        self._seen = (0, 0.0)
        self._pause_s, self._pause_until_s = 0.0, 0.0
        self._found: set[_Shard] = set()  # in the cache when they were last asked for
        self._rest_until_s = 0.0
        self._anew = False

    def advance(self, step: int, stop: int | None = None) -> None:
        """The batches of steps [step, stop) are read next. Returns at once; begins anew after `stop`."""
        with self._idle:
            self._stopped = False
            self._jumped |= step not in (self._step, self._next_step)
            self._step, self._next_step = step, step + 1 if stop is None else stop
            paused_until_s = self._pause_until_s
            look = self._jumped or (
                step >= self._next_look and self._clock.monotonic_s() >= self._rest_until_s
            )
        look |= 0 < paused_until_s <= self._clock.monotonic_s()
        if look:  # most steps need none, and a thread that is woken costs the reader more than the look
            self._wake()

    def counts(self) -> PrefetchCounts:
        """What has been done so far."""
        with self._idle:
            return PrefetchCounts(**self._counts)

    def settle(self) -> None:
        """Wait until all is done that can be before the next step: for tests and rehearsals."""
        with self._idle:
            self._idle.wait_for(lambda: self._stopped or not (self._planning or self._bringing))

    def stop(self) -> None:
        """Give up what is being brought in, and end the threads. May be called again."""
        with self._idle:
            self._stopped = self._jumped = True
            threads = [each for each in (self._planner, self._bringers) if each is not None]
            self._planner = self._bringers = None
            self._idle.notify_all()
        # A garbage collection may end a feed from one of these threads, which cannot wait for itself.
        wait = not threading.current_thread().name.startswith(_NAME)
        for each in threads:
            each.shutdown(wait=wait, cancel_futures=True)
        with self._idle:
            self._planning = False
            self._bringing.clear()

    def _wake(self) -> None:
        """Plan now, or once more after the plan that is being made."""
        with self._idle:
            self._again = True
            if self._planning or self._stopped:
                return
            if self._planner is None or self._bringers is None:
                self._planner = ThreadPoolExecutor(1, f"{_NAME}-plan")
                self._bringers = ThreadPoolExecutor(self._threads, _NAME)
            try:
                self._planner.submit(self._plan_while_needed)
                self._planning = True
            except RuntimeError:
                self._stopped = True  # the interpreter is ending

    def _plan_while_needed(self) -> None:
        try:
            while self._plan_once():
                pass
        except BaseException:
            with self._idle:
                self._planning = False
            raise
        finally:
            with self._idle:
                self._idle.notify_all()

    def _plan_once(self) -> bool:
        """Look at where the reader is, and ask for what is needed next; False when nobody has asked to."""
        with self._idle:
            if self._stopped or not self._again:
                self._planning = False  # under the same lock: who asks from now on begins another
                return False
            self._again = False
            step, jumped = self._step, self._jumped or self._anew
            self._jumped = self._anew = False
        if jumped:
            self._begin_at(step)
        self._collect()
        try:
            self._plan(step)
        except StokerError:
            self._count("failed")  # a page of the manifest; the reader that needs it says more
        self._ask()
        with self._idle:
            self._next_look = step + max(1, (self._planned - step) // 4)
            if len(self._found) == self._shards:
                self._found.clear()
                self._rest_until_s = self._clock.monotonic_s() + _REST_S
                self._anew = True  # then what is upcoming is asked for again, from wherever the reader is
            if self._waiting and self._upcoming:
                self._next_look = min(self._next_look, max(step, self._upcoming[0].step) + 1)
        return True

    def _begin_at(self, step: int) -> None:
        self._needs.forget()
        self._upcoming.clear()
        self._uses.clear()
        self._sizes.clear()
        self._waiting.clear()
        self._planned = step
        self._seen = (step, self._clock.monotonic_s())

    def _collect(self) -> None:
        """What became of the shards that were asked for."""
        for shard, future in list(self._bringing.items()):
            if not future.done():
                continue
            with self._idle:
                del self._bringing[shard]
            if future.cancelled():
                continue
            if future.exception() is not None:
                self._count("failed")
                continue
            brought = future.result()
            self._count(_COUNTED_AS[brought])
            (self._found.add if brought in _IN_CACHE else self._found.discard)(shard)
            if brought is Brought.NO_ROOM:
                self._waiting.appendleft(shard)
                low, high = _PAUSES_S
                self._pause_s = min(high, max(low, 2 * self._pause_s))
                self._pause_until_s = self._clock.monotonic_s() + self._pause_s
            elif brought is Brought.IN:
                self._pause_s = self._pause_until_s = 0.0

    def _plan(self, step: int) -> None:
        """Forget what has passed, and look `ahead_s` ahead, or until the cache is full or nothing is new."""
        seen_step, seen_s = self._seen
        if step > seen_step:
            now_s = self._clock.monotonic_s()
            a_step_s = (now_s - seen_s) / (step - seen_step)
            self._step_s = 0.8 * self._step_s + 0.2 * a_step_s if self._step_s else a_step_s
            self._seen = (step, now_s)
        while self._upcoming and self._upcoming[0].step < step:
            passed = self._upcoming.popleft()
            shard = (passed.part, passed.shard)
            self._uses[shard] -= 1
            if not self._uses[shard]:
                del self._uses[shard], self._sizes[shard]
        end = step + (math.ceil(self._ahead_s / self._step_s) if self._step_s else _FIRST_STEPS)
        stretch = max(1, _PLANNED_SAMPLES // self._needs.rows)
        for _ in range(_STRETCHES_A_LOOK):
            held_bytes = sum(self._sizes.values())
            if self._planned >= end or len(self._uses) >= self._shards or held_bytes >= self._limit_bytes:
                return
            stop = min(self._planned + stretch, end)
            for need in self._needs.between(self._planned, stop):
                self._want(need)
            self._planned = stop

    def _want(self, need: ShardNeed) -> None:
        shard = (need.part, need.shard)
        if shard not in self._uses:
            access = self._needs.shards[need.part]
            assert access is not None
            self._sizes[shard] = access.size(need.shard)
            if shard not in self._bringing:
                self._waiting.append(shard)
        self._uses[shard] += 1
        self._upcoming.append(need)

    def _ask(self) -> None:
        """Have the soonest shards brought in, as many at a time as there are threads."""
        if self._clock.monotonic_s() < self._pause_until_s:
            return
        bringers = self._bringers
        if bringers is None:
            return  # stopped
        while self._waiting and len(self._bringing) < self._threads:
            shard = self._waiting.popleft()
            if shard not in self._uses:
                continue  # passed before its turn came
            try:
                future = bringers.submit(self._bring_in, shard)
            except RuntimeError:
                return  # stopped, or the interpreter is ending
            with self._idle:
                self._bringing[shard] = future
            future.add_done_callback(lambda _: self._wake())

    def _bring_in(self, shard: _Shard) -> Brought:
        part, number = shard
        access = self._needs.shards[part]
        assert access is not None
        return access.bring_in(number, self._ahead_s, lambda: self._stopped)

    def _count(self, name: str) -> None:
        with self._idle:
            self._counts[name] += 1


_IN_CACHE: Final = (Brought.IN, Brought.HELD)
_COUNTED_AS: Final = {
    Brought.IN: "brought",
    Brought.HELD: "held",
    Brought.UNDER_WAY: "held",
    Brought.NO_ROOM: "declined",
    Brought.UNUSABLE: "declined",
    Brought.STOPPED: "declined",
}


def prefetch_of(
    splits: Sequence[object],
    orders: Sequence[Order],
    first: int,
    rows: int,
    ahead_s: float,
    clock: Clock,
    pattern: npt.NDArray[np.int16] | None = None,
) -> ShardPrefetch | None:
    """What brings in the shards of positions [first, first + rows); None when none of the splits has a cache.

    Raises BadFeedSetting.
    """
    if not 0 <= ahead_s <= MAX_SHARDS_AHEAD_S:
        raise BadFeedSetting(
            f"No feed can be made: shards_ahead_s is {ahead_s}; it must be in [0, {MAX_SHARDS_AHEAD_S:g}].",
            hint="Change the run file.",
        )
    if ahead_s == 0:
        return None
    shards = [split.shard_access() if isinstance(split, PrefetchedSplit) else None for split in splits]
    if all(each is None for each in shards):
        return None
    return ShardPrefetch(ShardNeeds(orders, shards, first, rows, pattern), ahead_s, clock)
