"""What every key back end can do: the interface between key management and the rest of the house.

The file back end is the embedded default; OpenBao, PKCS#11 and a cloud KMS fit the same interface. The
conformance suite in tests/keys/test_backend_conformance.py judges each of them. See docs/design/keys.md.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from stoker.core.signing import Signer
from stoker.keys.refs import KekRef, Purpose
from stoker.keys.secret import SecretKey
from stoker.keys.states import KekState


@dataclass(frozen=True, slots=True)
class KekInfo:
    """All that may be known of a KEK but its bytes. Times are seconds since the Unix epoch."""

    ref: KekRef
    purpose: Purpose
    state: KekState
    created_s: float
    expires_s: float | None
    deactivated_s: float | None
    destroy_requested_by: str | None
    destroy_approved_by: str | None
    destroyed_s: float | None
    wraps: int
    """How many keys it may have wrapped so far; counted ahead, so never too low."""

    def expired(self, now_s: float) -> bool:
        """Whether the KEK opens nothing any more because its time is over."""
        return self.expires_s is not None and now_s >= self.expires_s


class KeyBackend(Protocol):
    """Holds KEKs and never gives one out: callers see wrapped keys, signatures and canaries only."""

    def create_kek(self, scope: str, purpose: Purpose, *, expires_s: float | None) -> KekRef:
        """A fresh KEK, active at once, in the next epoch of `scope`. Raises BadKekRef on a bad scope."""
        ...

    def info(self, ref: KekRef) -> KekInfo:
        """Raises KeyUnknown."""
        ...

    def list_keks(self) -> tuple[KekInfo, ...]:
        """Every KEK ever made here, destroyed ones too, in order of scope and epoch."""
        ...

    def wrap(self, ref: KekRef, key: SecretKey, context: bytes) -> bytes:
        """`key` sealed under the KEK and bound to `context`, in the back end's own format, at most 1 KiB.

        Raises KeyUnknown, KeyDestroyed, KeyExpired, KeyNotActive or KeyUsageExceeded.
        """
        ...

    def unwrap(self, ref: KekRef, wrapped: bytes, context: bytes) -> SecretKey:
        """The key that `wrap` sealed. A deactivated KEK still opens; an expired or destroyed one does not.

        Raises KeyUnknown, KeyDestroyed, KeyExpired, KeyNotActive, or WrongContext when it does not open.
        """
        ...

    def deactivate(self, ref: KekRef) -> None:
        """No more wraps. Raises KeyUnknown, KeyDestroyed or KeyNotActive."""
        ...

    def expire_earlier(self, ref: KekRef, expires_s: float) -> KekInfo:
        """Bring the expiry forward to `expires_s`, which may be over already; never back.

        A KEK that expires before that stays as it is, so asking twice is asking once. It opens and wraps
        nothing from then on, also for who opened the back end before. This destroys nothing: whoever turns
        the clock back opens it again. Raises KeyUnknown, KeyDestroyed, or KeyExpired for a time that is none.
        """
        ...

    def request_destroy(self, ref: KekRef, by: str) -> None:
        """The first half of destroying. Raises KeyUnknown, KeyDestroyed, DualControlRefused or BadName."""
        ...

    def destroy(self, ref: KekRef, approved_by: str) -> KekInfo:
        """The second half: erases the KEK and leaves a tombstone.

        Raises DualControlRefused without a request, or when the requester approves; KeyUnknown,
        KeyDestroyed or BadName.
        """
        ...

    def signer(self, name: str) -> Signer:
        """The Ed25519 signer called `name`, such as `manifest` or `identity/alice`; made on first use."""
        ...

    def canary(self, subject: str) -> str:
        """`stoker-canary-` and 32 hexadecimal digits that only this back end can compute for `subject`."""
        ...

    def apply_tombstones(self, keks: Iterable[str]) -> tuple[str, ...]:
        """Destroy the KEKs in `keks` that a restored key store brought back, and return those."""
        ...
