"""The lease of the attempt that goes on: given once, renewed while everything holds, ended for good.

See docs/design/fleet.md, "Starting and going on".
"""

from __future__ import annotations

import math
from collections.abc import Callable

from stoker.core.clock import Clock
from stoker.core.errors import StokerError
from stoker.core.events import EventKind
from stoker.fleet.charge import Errands
from stoker.fleet.spread.begin import AnyAttempt
from stoker.keys.agent import KeyAgent
from stoker.keys.lease_page import LeaseEnd


class LeaseKeeper:
    """Holds the key agent of one attempt after the other."""

    def __init__(self, errands: Errands, tell: Callable[..., None], clock: Clock) -> None:
        """`tell` takes an event's kind and fields."""
        self._errands = errands
        self._tell = tell
        self._clock = clock
        self._keys: KeyAgent | None = None
        self._renew_at_s = 0.0
        self._renew_by_s = 0.0
        self._strangers = 0

    @property
    def given(self) -> bool:
        """Whether the attempt has one; where ranks need no keys it never does."""
        return self._keys is not None

    def give(self, number: int, attempt: AnyAttempt) -> None:
        """A fresh lease, under which the ranks of `attempt` are served. Raises what `lease` raises."""
        self._keys, self._renew_at_s = self._errands.lease(number), 0.0
        if self._keys is not None:
            attempt.serve_keys(self._keys)

    def renew(self) -> StokerError | None:
        """Renew it when a third of its time has passed; why it was ended instead, if it was."""
        if self._keys is None or self._keys.revoked or not self._is_due():
            return None
        try:
            expiry_s = self._errands.lease_expiry_s()
        except StokerError as error:
            self.end(error, LeaseEnd.REVOKED)
            return error
        self._keys.renew(expiry_s)
        now_s = self._clock.now_s()
        third_s = max((expiry_s - now_s) / 3, 1.0)
        self._renew_at_s, self._renew_by_s = self._clock.monotonic_s() + third_s, now_s + third_s
        return None

    def end(self, error: StokerError, why: LeaseEnd) -> None:
        """Nothing is opened from this moment on; ranks see it, wipe what they hold, and end."""
        assert self._keys is not None
        self._keys.revoke(why)
        self._renew_at_s = self._renew_by_s = math.inf
        self._tell(EventKind.LEASE_ENDED, reason=error.id, message=error.message)

    def revoke(self) -> None:
        """The attempt is over: no key is handed out any more."""
        if self._keys is not None:
            self._keys.revoke()

    def tell_strangers(self) -> None:
        """Somebody who is no rank of ours asked for a key; he got none."""
        if self._keys is not None and self._keys.strangers > self._strangers:
            self._strangers = self._keys.strangers
            self._tell(EventKind.CALLER_REFUSED, count=self._strangers)

    def close(self) -> None:
        """No process of the attempt is left."""
        keys = self._keys
        try:
            self.tell_strangers()
        finally:
            self._keys, self._strangers = None, 0
            if keys is not None:
                keys.close()

    def _is_due(self) -> bool:
        """By either clock: ranks measure a lease by the monotonic one, the key agent by the wall's."""
        return self._clock.monotonic_s() >= self._renew_at_s or self._clock.now_s() >= self._renew_by_s
