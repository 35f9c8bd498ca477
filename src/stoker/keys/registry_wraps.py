"""Wrapping and unwrapping through a vault: counted, within state and time, masked where a key leaves.

See docs/design/keys.md, "Usage" and "Masked key".
"""

from __future__ import annotations

import hashlib
import os
import struct
import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR

from stoker.core.clock import Clock
from stoker.keys.errors import KeyUsageExceeded, WrongContext
from stoker.keys.keystore import KekEntry, Keystore
from stoker.keys.open_keystore import OpenKeystore
from stoker.keys.refs import KekRef
from stoker.keys.registry_entries import usable
from stoker.keys.secret import KEY_BYTES, SecretKey
from stoker.keys.states import MAY_WRAP, KekState
from stoker.keys.vault import MAX_WRAPPED_BYTES, KekVault
from stoker.keys.wrap import MAX_CONTEXT_BYTES

RESERVED_WRAPS: Final = 256

_HEAD: Final = b"STKM\x01\x01"  # magic, version 1, algorithm 1
_SALT_BYTES: Final = 16
_BODY_OFFSET: Final = len(_HEAD) + _SALT_BYTES
_BLOCK_BYTES: Final = 16


class RegistryWraps:
    """The keys' way through the vault."""

    def __init__(self, store: OpenKeystore[Any], vault: KekVault, clock: Clock, max_wraps: int) -> None:
        self._store = store
        self._vault = vault
        self._clock = clock
        self._max_wraps = max_wraps
        self._reserved: dict[KekRef, int] = {}
        self._guard = threading.Lock()

    def wrap(self, ref: KekRef, key: SecretKey, context: bytes) -> bytes:
        """See KeyBackend."""
        entry = self._usable(self._store.current(), ref, MAY_WRAP, "wraps nothing")
        _check_context(context)
        with self._guard:
            if self._reserved.get(ref, 0) == 0:
                self._reserved[ref] = self._store.change(lambda draft: self._reserve(draft, ref))
            self._reserved[ref] -= 1
        assert entry.handle is not None, "only a destroyed KEK has none"
        if self._vault.embedded:
            return self._vault.wrap(entry.handle, ref, key, context)
        salt = os.urandom(_SALT_BYTES)
        with self._masked(key, salt) as masked:
            inner = self._vault.wrap(entry.handle, ref, masked, self._bound(ref, salt, context))
        if not 1 <= len(inner) <= MAX_WRAPPED_BYTES:
            raise ValueError(f"the vault {self._vault.name} made a wrapped key of {len(inner)} bytes")
        return _HEAD + salt + inner

    def _reserve(self, draft: Keystore, ref: KekRef) -> int:
        entry = self._usable(draft, ref, MAY_WRAP, "wraps nothing")
        granted = min(RESERVED_WRAPS, self._max_wraps - entry.wraps)
        if granted <= 0:
            raise KeyUsageExceeded(
                f"KEK {ref} has wrapped {entry.wraps} keys, as many as it may.",
                hint="Create the next epoch of its scope and use that.",
            )
        draft.keks[ref] = replace(entry, wraps=entry.wraps + granted)
        return granted

    def unwrap(self, ref: KekRef, wrapped: bytes, context: bytes, states: frozenset[KekState]) -> SecretKey:
        """See KeyBackend."""
        entry = self._usable(self._store.current(), ref, states, "unwraps nothing")
        assert entry.handle is not None, "only a destroyed KEK has none"
        if self._vault.embedded:
            return self._vault.unwrap(entry.handle, ref, wrapped, context)
        salt, inner, bound = self._parted(ref, wrapped, context)
        with self._vault.unwrap(entry.handle, ref, inner, bound) as masked:
            return self._masked(masked, salt)

    def unwrap_many(
        self, ref: KekRef, wrapped: Sequence[tuple[bytes, bytes]], states: frozenset[KekState]
    ) -> list[SecretKey]:
        """See KeyBackend."""
        entry = self._usable(self._store.current(), ref, states, "unwraps nothing")
        assert entry.handle is not None, "only a destroyed KEK has none"
        if self._vault.embedded:
            return self._vault.unwrap_many(entry.handle, ref, wrapped)
        parts = [self._parted(ref, each, context) for each, context in wrapped]
        masked = self._vault.unwrap_many(entry.handle, ref, [(inner, bound) for _, inner, bound in parts])
        try:
            return [self._masked(key, salt) for key, (salt, _, _) in zip(masked, parts, strict=True)]
        finally:
            for key in masked:
                key.wipe()

    def _usable(self, store: Keystore, ref: KekRef, states: frozenset[KekState], refused: str) -> KekEntry:
        return usable(store, ref, states, self._clock.now_s(), refused)

    def _parted(self, ref: KekRef, wrapped: bytes, context: bytes) -> tuple[bytes, bytes, bytes]:
        """The salt, what the vault made, and the context that it bound that to. Raises WrongContext."""
        if not _BODY_OFFSET < len(wrapped) <= _BODY_OFFSET + MAX_WRAPPED_BYTES:
            raise WrongContext(
                f"The wrapped key of KEK {ref} has {len(wrapped)} bytes; "
                f"expected {_BODY_OFFSET + 1} to {_BODY_OFFSET + MAX_WRAPPED_BYTES}.",
                hint="It was cut or is no wrapped key. Restore it from a copy you trust.",
            )
        if not wrapped.startswith(_HEAD):
            raise WrongContext(
                f"The wrapped key of KEK {ref} begins with {wrapped[: len(_HEAD)].hex()}; "
                f"expected {_HEAD.hex()}.",
                hint="It was changed, or was wrapped by another key back end.",
            )
        salt = wrapped[len(_HEAD) : _BODY_OFFSET]
        return salt, wrapped[_BODY_OFFSET:], self._bound(ref, salt, context)

    def _bound(self, ref: KekRef, salt: bytes, context: bytes) -> bytes:
        """32 bytes that stand for registry, KEK, salt and context, and for no other four."""
        _check_context(context)
        name = str(ref).encode("ascii")
        head = struct.pack(">B", len(name)) + name
        return hashlib.sha256(b"stoker/wrap/v1\0" + self._store.store_id + head + salt + context).digest()

    def _masked(self, key: SecretKey, salt: bytes) -> SecretKey:
        """`key` under AES-256-CTR with the mask key, `salt` being the first counter; undoes itself."""
        masked = SecretKey()
        buffer = bytearray(KEY_BYTES + _BLOCK_BYTES - 1)  # what update_into asks for
        try:
            Cipher(AES256(self._store.keys.mask.view()), CTR(salt)).encryptor().update_into(
                key.view(), buffer
            )
            masked.writable_view()[:] = memoryview(buffer)[:KEY_BYTES]
        finally:
            buffer[:] = bytes(len(buffer))
        return masked


def _check_context(context: bytes) -> None:
    if len(context) > MAX_CONTEXT_BYTES:
        raise ValueError(f"a wrap context has at most {MAX_CONTEXT_BYTES} bytes, not {len(context)}")
