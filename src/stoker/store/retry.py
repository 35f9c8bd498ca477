"""When a failed request is sent again: tries, pauses with full jitter, a budget. See docs/design/store.md.

Decisions only; `resilient` sends. Which failures are worth another try is said by `retry_rules`.
"""

from __future__ import annotations

from dataclasses import dataclass
from threading import Lock
from typing import Protocol


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often one operation is tried and how long it may take; times in seconds."""

    attempts: int = 7
    """Tries in all, the first included."""
    deadline_s: float = 120.0
    """No try is begun later than this after the first."""
    first_pause_s: float = 0.25
    """The longest pause before the second try; it doubles with each further one."""
    longest_pause_s: float = 8.0
    """Where the doubling ends."""
    budget_share: float = 0.2
    """Retries a request earns for later: a store that fails gets at most 1.2 times the requests."""
    budget_burst: int = 10
    """Retries that are there from the beginning, and the most that can be saved up."""


class Uniform(Protocol):
    """The one thing that a pause needs of a random source, such as random.Random."""

    def uniform(self, a: float, b: float) -> float:
        """A number between `a` and `b`."""
        ...


def pause_s(policy: RetryPolicy, tries: int, random: Uniform) -> float:
    """How long to wait after `tries` failed tries: uniform from 0 to the doubled bound ("full jitter").

    Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """
    # Past 2^60 the bound is reached whatever it is; a larger power would overflow a float in the end.
    bound = policy.first_pause_s * 2.0 ** min(tries - 1, 60)
    return random.uniform(0.0, min(policy.longest_pause_s, bound))


class Budget:
    """A token bucket: each request earns `share` of a token, each extra one spends a whole one.

    So over any stretch the extra requests are at most `share` of the requests, and `burst` more.
    """

    def __init__(self, share: float, burst: int) -> None:
        self._share = share
        self._burst = float(burst)
        self._tokens = float(burst)
        self._lock = Lock()

    def earn(self, requests: int = 1) -> None:
        """So many requests are sent for the first time."""
        with self._lock:
            self._tokens = min(self._burst, self._tokens + self._share * requests)

    def spend(self, requests: int = 1) -> bool:
        """May so many more be sent? If so they are paid for."""
        with self._lock:
            if self._tokens < requests:
                return False
            self._tokens -= requests
            return True
