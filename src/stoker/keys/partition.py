"""Partition keys: what the store and the training ranks need of key management, and no more.

A partition key seals up to 4,096 shards; it is random, wrapped by a KEK, and bound to the KEK's scope and
epoch and to a purpose by the wrap context. See docs/design/keys.md, "Wrap context".
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final, Protocol, runtime_checkable

from stoker.keys.backend import KeyBackend
from stoker.keys.refs import KekRef, Purpose
from stoker.keys.secret import SecretKey

_CONTEXT_MAGIC: Final = b"STKC"
_CONTEXT_VERSION: Final = 1


class KeySource(Protocol):
    """Hands out partition keys under KEKs; in process by BackendKeySource, in a rank by AgentKeySource."""

    def new_partition_key(self, kek: KekRef, purpose: Purpose) -> tuple[SecretKey, bytes]:
        """A fresh key to seal with, and the same key wrapped by `kek`. The caller wipes the key."""
        ...

    def open_partition_key(self, kek: KekRef, wrapped: bytes, purpose: Purpose) -> SecretKey:
        """The key inside `wrapped`. The caller wipes it. Raises what KeyBackend.unwrap raises."""
        ...


@runtime_checkable
class LeasedKeySource(KeySource, Protocol):
    """A KeySource under a lease that may end at any moment; what was opened is then no more to be used."""

    @property
    def require_lease(self) -> Callable[[], None]:
        """Raises LeaseExpired or LeaseRefused when called, unless the lease is good at that moment."""
        ...


def require_nothing() -> None:
    """What `lease_of` gives where there is no lease."""


def lease_of(keys: KeySource) -> Callable[[], None]:
    """What to call before anything is opened with keys of this source. Raises when the lease is over."""
    return keys.require_lease if isinstance(keys, LeasedKeySource) else require_nothing


def partition_context(kek: KekRef, purpose: Purpose) -> bytes:
    """The bytes that bind a wrapped partition key to scope, epoch and purpose; equal only for equal three."""
    scope, use = kek.scope.encode("ascii"), purpose.value.encode("ascii")
    head = _CONTEXT_MAGIC + bytes([_CONTEXT_VERSION])
    return head + struct.pack(f">H{len(scope)}sIB{len(use)}s", len(scope), scope, kek.epoch, len(use), use)


class BackendKeySource:
    """Partition keys straight from a back end in this process: for intake and the faces, never for ranks."""

    def __init__(self, backend: KeyBackend) -> None:
        self._backend = backend

    def new_partition_key(self, kek: KekRef, purpose: Purpose) -> tuple[SecretKey, bytes]:
        """Raises what KeyBackend.wrap raises; the key is wiped when it cannot be wrapped."""
        key = SecretKey.generate()
        try:
            return key, self._backend.wrap(kek, key, partition_context(kek, purpose))
        except BaseException:
            key.wipe()
            raise

    def open_partition_key(self, kek: KekRef, wrapped: bytes, purpose: Purpose) -> SecretKey:
        """Raises what KeyBackend.unwrap raises."""
        return self._backend.unwrap(kek, wrapped, partition_context(kek, purpose))
