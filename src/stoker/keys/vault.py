"""What holds the bytes of KEKs: the file key store, OpenBao, a PKCS#11 token, a cloud KMS.

A vault knows nothing of states, identities or time. The registry (docs/design/keys.md, "Registry and vaults")
knows those, and asks a vault only for what its own rules already allow.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from stoker.keys.refs import KekRef
from stoker.keys.secret import SecretKey

MAX_WRAPPED_BYTES: Final = 900
"""The longest wrapped key that a vault may make; the registry adds its own head, and 1 KiB is the limit."""


class KekVault(Protocol):
    """Makes, uses and destroys KEKs. Threads may share one; so may several machines, where it is remote.

    `handle` is what `create` returned: a name, an ARN, an object's id, at most 1,024 printable ASCII
    characters. The registry keeps it, authenticated, so a vault need not keep a list of its own.

    Every method raises VaultUnreachable when the vault does not answer within a bounded number of tries,
    VaultRefused when it does not accept our token, PIN or rights, InsecureLink when it cannot prove who it
    is, and MissingExtra when its client library is not installed.
    """

    @property
    def name(self) -> str:
        """For people: "file", "openbao https://host:8200/transit", "pkcs11 token stoker"."""
        ...

    @property
    def embedded(self) -> bool:
        """True for the file back end alone: the KEK lies wrapped in its handle and never leaves this process.

        Where it is False, the registry masks each key before a vault sees it (so neither the vault, nor the
        wire, nor an immutable Python object on the way ever holds a partition key), and keeps the handle of
        a destroyed KEK so that its death can be tried again.
        """
        ...

    @property
    def max_wraps(self) -> int:
        """How many keys one KEK may wrap here: the limit of its algorithm, with margin."""
        ...

    def create(self, ref: KekRef) -> str:
        """Make a KEK, not exportable where the vault can promise that, and return its handle.

        Called again for the same `ref`, after a crash or a lost race, it makes another one.
        """
        ...

    def wrap(self, handle: str, ref: KekRef, key: SecretKey, context: bytes) -> bytes:
        """`key` sealed under the KEK and bound to `context`, at most MAX_WRAPPED_BYTES.

        No two byte strings open to the same key: what can be written in two ways is refused on reading.
        Raises KeyDestroyed or KeyNotActive (disabled).
        """
        ...

    def unwrap(self, handle: str, ref: KekRef, wrapped: bytes, context: bytes) -> SecretKey:
        """The key that `wrap` sealed. The size is checked before anything is sent or allocated.

        Raises WrongContext (another KEK, another context, changed bytes), KeyDestroyed (also when the vault
        has never heard of the handle) or KeyNotActive (disabled).
        """
        ...

    def unwrap_many(
        self, handle: str, ref: KekRef, wrapped: Sequence[tuple[bytes, bytes]]
    ) -> list[SecretKey]:
        """Each `(wrapped, context)` opened, in order and in few round trips; all of them, or none.

        Raises as `unwrap` does, for the first that does not open; those that did are wiped.
        """
        ...

    def disable(self, handle: str, ref: KekRef) -> None:
        """Nothing is unwrapped until `enable`. Doing it twice is allowed. Raises KeyDestroyed."""
        ...

    def enable(self, handle: str, ref: KekRef) -> None:
        """Undo `disable`. Doing it twice is allowed. Raises KeyDestroyed."""
        ...

    def destroy(self, handle: str, ref: KekRef) -> None:
        """For good. Doing it twice, or for a handle that the vault has never heard of, is allowed."""
        ...

    def exists(self, handle: str, ref: KekRef) -> bool:
        """Whether the vault still has the KEK, disabled or not; no, when its erasure is scheduled."""
        ...

    def erased_at_s(self, handle: str, ref: KekRef) -> float | None:
        """When the vault erases a KEK that already opens nothing, in seconds since the Unix epoch.

        Until then somebody with rights in the vault's own service can call it back. None where nothing is
        scheduled: it is erased already, or still here.
        """
        ...

    def close(self) -> None:
        """Let go of connections and sessions, and wipe the token or PIN. Doing it twice is allowed."""
        ...
