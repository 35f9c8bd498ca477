"""What every key back end can do: the interface between key management and the rest of the house.

One registry keeps states, times, identities and counts; a vault holds the KEKs: the embedded file vault,
OpenBao, PKCS#11 or a cloud KMS. The conformance suite in tests/keys/test_backend_conformance.py judges each
of them. See docs/design/keys.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from stoker.core.signing import Signer
from stoker.keys.refs import KekRef, Purpose
from stoker.keys.secret import SecretKey
from stoker.keys.states import MIN_WINDOW_S, KekState


@dataclass(frozen=True, slots=True)
class KekInfo:
    """All that may be known of a KEK but its bytes. Times are seconds since the Unix epoch."""

    ref: KekRef
    purpose: Purpose
    state: KekState
    """As of now: a pre-active KEK whose time has come is active."""
    created_s: float
    activates_s: float
    """The beginning of its cryptoperiod: before this, it neither wraps nor unwraps."""
    wraps_until_s: float
    """The end of the originator-usage period: from then on it only unwraps."""
    expires_s: float | None
    """The end of the recipient-usage period: from then on it does nothing. None: until it is destroyed."""
    deactivated_s: float | None
    suspended_by: str | None
    suspended_reason: str
    compromised_by: str | None
    compromised_reason: str
    compromised_s: float | None
    destroy_requested_by: str | None
    destroy_window_s: float | None
    """How long the destruction can be withdrawn once it is approved."""
    destroy_reason: str
    destroy_approved_by: str | None
    destroy_at_s: float | None
    """When a pending destruction may be carried out, and can no longer be withdrawn."""
    destroyed_s: float | None
    """When the vault had destroyed it. None in the state DESTROYED: the vault has not answered yet."""
    wraps: int
    """How many keys it may have wrapped so far; counted ahead, so never too low."""
    vault: str
    """What holds it: "file", "openbao https://host:8200/transit", …"""

    @property
    def compromised(self) -> bool:
        """Whether somebody said that others may have it, whatever became of it since."""
        return self.compromised_by is not None

    def expired(self, now_s: float) -> bool:
        """Whether the KEK opens nothing any more because its time is over."""
        return self.expires_s is not None and now_s >= self.expires_s


class KeyBackend(Protocol):
    """Holds KEKs and never gives one out: callers see wrapped keys, signatures and canaries only.

    Every method may also raise what its vault raises: VaultUnreachable, VaultRefused or InsecureLink.
    """

    def create_kek(
        self,
        scope: str,
        purpose: Purpose,
        *,
        expires_s: float | None,
        activates_s: float | None = None,
        wraps_until_s: float | None = None,
    ) -> KekRef:
        """A fresh KEK in the next epoch of `scope`, active at once or from `activates_s` on.

        It wraps until `wraps_until_s` (two years from its activation when nothing is said) and unwraps until
        `expires_s`. Raises BadKekRef on a bad scope, KeyExpired on times that are over or in the wrong order.
        """
        ...

    def rotate(self, scope: str, *, expires_s: float | None) -> KekRef:
        """The next epoch of `scope`, active at once; every older one wraps no more. One step for all to see.

        Raises KeyUnknown when `scope` never had a KEK, KeyExpired.
        """
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

    def unwrap(self, ref: KekRef, wrapped: bytes, context: bytes, *, moving: bool = False) -> SecretKey:
        """The key that `wrap` sealed. A deactivated KEK still opens; an expired or destroyed one does not.

        A compromised one opens only for who is `moving` what survives to another KEK; a suspended one, and
        one whose destruction is pending, open nothing.

        Raises KeyUnknown, KeyDestroyed, KeyExpired, KeyNotActive, or WrongContext when it does not open.
        """
        ...

    def unwrap_many(
        self, ref: KekRef, wrapped: Sequence[tuple[bytes, bytes]], *, moving: bool = False
    ) -> list[SecretKey]:
        """Each `(wrapped, context)` opened, in order and in few round trips: all of them, or none.

        The caller wipes them. Raises as `unwrap` does, for the first that does not open.
        """
        ...

    def deactivate(self, ref: KekRef) -> None:
        """No more wraps. Raises KeyUnknown, KeyDestroyed or KeyNotActive."""
        ...

    def suspend(self, ref: KekRef, by: str, reason: str) -> KekInfo:
        """Nothing wraps or unwraps until `resume`.

        Raises KeyUnknown, KeyDestroyed, KeyNotActive, BadName or BadReason.
        """
        ...

    def resume(self, ref: KekRef, by: str) -> KekInfo:
        """It is again what it was when it was suspended. Raises as `suspend` does."""
        ...

    def compromise(self, ref: KekRef, by: str, reason: str) -> KekInfo:
        """It never wraps again, and unwraps only for moving what survives. There is no way back.

        Raises as `suspend` does.
        """
        ...

    def expire_earlier(self, ref: KekRef, expires_s: float) -> KekInfo:
        """Bring the expiry forward to `expires_s`, which may be over already; never back.

        A KEK that expires before that stays as it is, so asking twice is asking once. It opens and wraps
        nothing from then on, also for who opened the back end before. This destroys nothing: whoever turns
        the clock back opens it again. Raises KeyUnknown, KeyDestroyed, or KeyExpired for a time that is none.
        """
        ...

    def request_destroy(
        self, ref: KekRef, by: str, *, window_s: float = MIN_WINDOW_S, reason: str = ""
    ) -> None:
        """The first half of destroying; nothing changes for who uses the KEK.

        `window_s`, 7 to 30 days, is how long the destruction can be withdrawn once it is approved. Raises
        KeyUnknown, KeyDestroyed, KeyNotActive (already pending), DualControlRefused, DestroyWindowRefused,
        BadName or BadReason.
        """
        ...

    def approve_destroy(self, ref: KekRef, by: str) -> KekInfo:
        """The second half, by another identity: from now on the KEK opens nothing, and its window runs.

        Raises DualControlRefused without a request, or when the requester approves; KeyUnknown, KeyDestroyed,
        KeyNotActive or BadName.
        """
        ...

    def withdraw_destroy(self, ref: KekRef, by: str) -> KekInfo:
        """Take back a request, or an approved destruction whose window is not over: all is as it was.

        Who may do so is for the faces to check. Raises DualControlRefused when there is nothing to withdraw,
        DestroyWindowRefused when the window is over; KeyUnknown, KeyDestroyed or BadName.
        """
        ...

    def destroy_due(self, ref: KekRef) -> KekInfo:
        """Carry out a destruction whose window is over: the KEK is erased, and a tombstone stays.

        Raises DestroyWindowRefused before that; KeyUnknown, KeyNotActive when none is pending. A destruction
        that the vault has not answered for is tried again.
        """
        ...

    def destroy_now(self, ref: KekRef, by: str, *, reason: str) -> KekInfo:
        """The emergency path, without a window: `by` agrees to the standing request of another identity.

        Raises DualControlRefused without such a request; KeyUnknown, KeyDestroyed, BadName or BadReason.
        """
        ...

    def destroy(self, ref: KekRef, approved_by: str) -> KekInfo:
        """`destroy_now` for the reason that the request gave."""
        ...

    def vault_has(self, ref: KekRef) -> bool:
        """Whether the vault itself still has the KEK, whatever the registry says of it: for proofs of death.

        False also when its handle is forgotten, as the file back end forgets it. Raises KeyUnknown.
        """
        ...

    def vault_erases_at_s(self, ref: KekRef) -> float | None:
        """When the vault erases a destroyed KEK that it only schedules for erasure; see KekVault.erased_at_s.

        Raises KeyUnknown.
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

    def close(self) -> None:
        """Wipe the derived keys and end the vault's sessions; the back end cannot be used afterwards."""
        ...
