"""Who is logged in: sessions in memory, each begun by a token and worth no more. See docs/design/web.md."""

from __future__ import annotations

import hmac
import secrets
from dataclasses import dataclass
from typing import Final

from stoker.core.clock import Clock
from stoker.ledger.access import Caller, authenticate, caller_of_token
from stoker.ledger.errors import TokenRefused
from stoker.ledger.ledger import Ledger

LASTS_S: Final = 12 * 3600.0
IDLE_S: Final = 1800.0
MAX_SESSIONS: Final = 1000


@dataclass(slots=True)
class Session:
    """One login. `form_secret` stands in every form and must come back with it."""

    token: str
    form_secret: str
    began_s: float
    used_s: float

    def takes(self, form_secret: str) -> bool:
        """Whether a form that came in was made for this session."""
        return hmac.compare_digest(self.form_secret.encode(), form_secret.encode("utf-8", "replace"))


class Sessions:
    """Every session of this server; a restart ends all. Names are random and made only here, at a login."""

    def __init__(self, ledger: Ledger, clock: Clock) -> None:
        self._ledger = ledger
        self._clock = clock
        self._sessions: dict[str, Session] = {}

    def begin(self, token_text: str) -> tuple[str, Caller]:
        """The name of a new session for whoever holds this token. Raises TokenRefused, LedgerUnusable."""
        caller = authenticate(token_text, ledger=self._ledger, clock=self._clock)
        assert caller.token is not None
        self._forget_old()
        if len(self._sessions) >= MAX_SESSIONS:
            oldest = min(self._sessions, key=lambda name: self._sessions[name].used_s)
            del self._sessions[oldest]
        name, now_s = secrets.token_hex(32), self._clock.now_s()
        self._sessions[name] = Session(caller.token, secrets.token_hex(32), now_s, now_s)
        return name, caller

    def find(self, name: str) -> tuple[Session, Caller] | None:
        """The session of that name and whom it stands for now; None once it or its token is over."""
        self._forget_old()
        session = self._sessions.get(name)
        if session is None:
            return None
        try:
            caller = caller_of_token(session.token, ledger=self._ledger, clock=self._clock)
        except TokenRefused:
            del self._sessions[name]
            return None
        session.used_s = self._clock.now_s()
        return session, caller

    def end(self, name: str) -> None:
        """Log out: nothing under that name is known any more."""
        self._sessions.pop(name, None)

    def _forget_old(self) -> None:
        now_s = self._clock.now_s()
        over = [
            name
            for name, each in self._sessions.items()
            if now_s - each.began_s > LASTS_S or now_s - each.used_s > IDLE_S
        ]
        for name in over:
            del self._sessions[name]
