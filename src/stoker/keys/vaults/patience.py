"""How often a key service is asked again, and when it is left alone. See docs/design/vaults.md, "Patience".

A service that fails is tried a few times with growing, random pauses, and then rests: until the rest is over
every call fails at once, without a request, and then one caller tries for all. A refusal (a token that is
over, a right that is missing) is never tried again by itself; the same subject rests at once. So however
many ranks ask however often, a service in trouble sees a bounded number of requests.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from typing import Final, TypeVar

from stoker.core.errors import StokerError
from stoker.keys.errors import InsecureLink, VaultRefused, VaultUnreachable

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class PatienceRules:
    """Bounds for one service; times in seconds."""

    attempts: int = 4
    """Tries of one call, the first included."""
    deadline_s: float = 20.0
    """No try is begun later than this after the first."""
    first_pause_s: float = 0.2
    """The longest pause before the second try; it doubles with each further one."""
    longest_pause_s: float = 3.0
    """Where the doubling ends."""
    first_rest_s: float = 1.0
    """How long nothing is asked after a call has failed for good; doubles while that goes on."""
    longest_rest_s: float = 30.0
    """Where that doubling ends."""


@dataclass(slots=True)
class _Rest:
    """Why a subject rests, until when, and how long the next rest is."""

    error: StokerError
    until_s: float
    next_s: float


EVERYONE: Final = ""
"""The subject of a service that cannot be reached: all calls rest."""


class Patience:
    """Asks one service, for any number of threads."""

    def __init__(
        self,
        rules: PatienceRules | None = None,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._rules = rules or PatienceRules()
        self._monotonic, self._sleep, self._uniform = monotonic, sleep, uniform
        self._rests: dict[str, _Rest] = {}
        self._lock = Lock()

    def ask(self, subject: str, call: Callable[[], Answer]) -> Answer:
        """What `call` returns. `subject` is what a refusal is about: a KEK, or a login.

        `call` raises VaultUnreachable for what may be tried again, so it must be one that may be repeated.
        Raises that when the tries are over, VaultRefused and InsecureLink at once, both also without asking
        while the subject rests; everything else as it comes.
        """
        self._check(EVERYONE, subject)
        began_s, tries = self._monotonic(), 0
        while True:
            try:
                answer = call()
            except VaultUnreachable as error:
                tries += 1
                pause_s = self._pause_s(tries)
                late = self._monotonic() + pause_s - began_s > self._rules.deadline_s
                if tries >= self._rules.attempts or late or self._resting(EVERYONE):
                    self._rest(EVERYONE, error)
                    raise
                self._sleep(pause_s)
            except InsecureLink as error:
                self._rest(EVERYONE, error)
                raise
            except VaultRefused as error:
                self._over(EVERYONE)
                self._rest(subject, error)
                raise
            except BaseException:
                self._over(EVERYONE, subject)  # it answered, whatever it said
                raise
            else:
                self._over(EVERYONE, subject)
                return answer

    def _pause_s(self, tries: int) -> float:
        """Full jitter. Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015."""
        bound = self._rules.first_pause_s * 2.0 ** (tries - 1)
        return self._uniform(0.0, min(self._rules.longest_pause_s, bound))

    def _check(self, *subjects: str) -> None:
        """Raises while one of `subjects` rests; lets one caller through when its rest is over."""
        with self._lock:
            for subject in subjects:
                rest, now_s = self._rests.get(subject), self._monotonic()
                if rest is None:
                    continue
                if now_s < rest.until_s:
                    raise _again(rest, rest.until_s - now_s)
                rest.until_s = now_s + rest.next_s  # the others wait for what this caller finds

    def _resting(self, subject: str) -> bool:
        with self._lock:
            rest = self._rests.get(subject)
            return rest is not None and self._monotonic() < rest.until_s

    def _rest(self, subject: str, error: StokerError) -> None:
        with self._lock:
            before = self._rests.get(subject)
            rest_s = self._rules.first_rest_s if before is None else before.next_s
            rest_s = min(rest_s, self._rules.longest_rest_s)
            until_s = self._monotonic() + rest_s
            self._rests[subject] = _Rest(error, until_s, min(2.0 * rest_s, self._rules.longest_rest_s))

    def _over(self, *subjects: str) -> None:
        with self._lock:
            for subject in subjects:
                self._rests.pop(subject, None)


def _again(rest: _Rest, seconds: float) -> StokerError:
    """The error of before, said anew."""
    return type(rest.error)(
        f"{rest.error.message} It is not asked again for {seconds:.1f} s.", hint=rest.error.hint
    )
