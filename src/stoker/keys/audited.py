"""No key is used while the audit log cannot be written: a back end that asks first. See docs/design/keys.md.

What does not name itself as mere reading is held back, so that a deed that is added later is held back too.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any, Final, cast

from stoker.keys.backend import KeyBackend

ASKED_EVERY_S: Final = 1.0
"""How long an answer that the log can be written stands for the keys that are used next."""

READING: Final = frozenset(
    {"info", "list_keks", "vault_has", "vault_erases_at_s", "canary", "signer", "close"}
)
"""What uses no key, or only signs what the log then records."""


def audited(
    backend: KeyBackend,
    require_writable: Callable[[], None],
    *,
    monotonic_s: Callable[[], float] = time.monotonic,
) -> KeyBackend:
    """`backend`, whose every use of a key asks `require_writable` first, and does not happen if that raises.

    A good answer stands for ASKED_EVERY_S; a refusal is asked for again each time.
    """
    return cast("KeyBackend", _Audited(backend, require_writable, monotonic_s))


class _Audited:
    def __init__(
        self, backend: KeyBackend, require_writable: Callable[[], None], monotonic_s: Callable[[], float]
    ) -> None:
        self._backend = backend
        self._require_writable = require_writable
        self._monotonic_s = monotonic_s
        self._good_until_s = float("-inf")

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._backend, name)
        if name in READING or not callable(found):
            return found

        @functools.wraps(found)
        def asked_first(*arguments: Any, **named: Any) -> Any:
            now_s = self._monotonic_s()
            if now_s >= self._good_until_s:
                self._require_writable()
                self._good_until_s = now_s + ASKED_EVERY_S
            return found(*arguments, **named)

        return asked_first
