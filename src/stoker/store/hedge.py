"""A second request for a range that takes longer than most: the slow tail, cut. See docs/design/store.md.

Source of the idea: J. Dean and L. A. Barroso, "The Tail at Scale", CACM 56(2), 2013.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from threading import Lock
from typing import Any, Final, TypeVar

T = TypeVar("T")

_CLASS_BYTES: Final = (1 << 16, 1 << 20)
"""Ranges up to 64 KiB, up to 1 MiB, and longer ones are measured apart: a long one is not slow, only long."""


@dataclass(frozen=True, slots=True)
class HedgePolicy:
    """When a second request is sent, and how many of them at most; times in seconds."""

    quantile: float = 0.95
    """The share of recent requests that had an answer before a second one is sent."""
    least_s: float = 0.02
    """No second request is sent earlier than this."""
    most_s: float = 2.0
    """It is sent no later than this, also while too few answers have been timed."""
    share: float = 0.05
    """Hedges that a request earns for later: at most 1.05 times the requests."""
    burst: int = 4
    """Hedges that are there from the beginning, and the most that can be saved up; 0 switches hedging off."""
    remembered: int = 128
    """How many recent answers of a class of lengths are looked at."""
    needed: int = 20
    """How many of them it takes before they are believed."""


class RecentLatencies:
    """How long recent answers took, by class of length."""

    def __init__(self, policy: HedgePolicy) -> None:
        self._policy = policy
        self._lock = Lock()
        self._recent: list[deque[float]] = [
            deque(maxlen=policy.remembered) for _ in range(len(_CLASS_BYTES) + 1)
        ]

    def add(self, length: int, took_s: float) -> None:
        """An answer of `length` bytes took `took_s`."""
        with self._lock:
            self._recent[_class_of(length)].append(took_s)

    def patience_s(self, length: int) -> float:
        """How long to wait for an answer of `length` bytes before a second request is sent."""
        with self._lock:
            known = sorted(self._recent[_class_of(length)])
        policy = self._policy
        if len(known) < policy.needed:
            return policy.most_s
        tail_s = known[min(len(known) - 1, int(policy.quantile * len(known)))]
        return min(policy.most_s, max(policy.least_s, tail_s))


async def first_good(
    send: Callable[[], Coroutine[Any, Any, T]], patience_s: float, may_hedge: Callable[[], bool]
) -> tuple[T, bool]:
    """The first good answer of one request, or of two when the first is late; the other one is cancelled.

        Says also whether it was the second's.
    A failure is raised only when no request is left that could still succeed: that of the first request.
    """
    first = asyncio.ensure_future(send())
    racing: list[asyncio.Future[T]] = [first]
    try:
        done, _ = await asyncio.wait(racing, timeout=patience_s)
        if not done and may_hedge():
            racing.append(asyncio.ensure_future(send()))
        waiting = set(racing)
        while waiting:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for one in racing:
                if one in done and one.exception() is None:
                    return one.result(), one is not first
        failure = first.exception()
        assert failure is not None
        raise failure
    finally:
        for one in racing:
            one.cancel()
        await asyncio.gather(*racing, return_exceptions=True)


def _class_of(length: int) -> int:
    return sum(length > bound for bound in _CLASS_BYTES)
