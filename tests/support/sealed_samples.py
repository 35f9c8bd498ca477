"""Partition keys and labels for tests: a key source in memory that behaves like the real one."""

from __future__ import annotations

import dataclasses

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV

from stoker.keys.errors import KeyDestroyed, KeyUnknown, WrongContext
from stoker.keys.partition import partition_context
from stoker.keys.refs import KekRef, Purpose
from stoker.keys.secret import SecretKey
from stoker.store.header import StreamKind, StreamLabel

KEK = KekRef("dataset/own-text/0123456789abcdef0123456789abcdef", 1)
LABEL = StreamLabel(StreamKind.SHARD, "dataset/own-text", "ab" * 16, 7, 1, bytes(range(32)))


class MemoryKeys:
    """Wraps with AES-GCM-SIV under KEKs that live in this object; counts what it was asked."""

    def __init__(self, *keks: KekRef) -> None:
        self._keks = {kek: AESGCMSIV.generate_key(256) for kek in keks or (KEK,)}
        self._destroyed: set[KekRef] = set()
        self.made = 0
        self.opened = 0

    def new_partition_key(self, kek: KekRef, purpose: Purpose) -> tuple[SecretKey, bytes]:
        self.made += 1
        key = SecretKey.generate()
        nonce = self.made.to_bytes(12, "big")
        aead = AESGCMSIV(self._kek(kek))
        return key, nonce + aead.encrypt(nonce, bytes(key.view()), partition_context(kek, purpose))

    def open_partition_key(self, kek: KekRef, wrapped: bytes, purpose: Purpose) -> SecretKey:
        self.opened += 1
        aead = AESGCMSIV(self._kek(kek))
        try:
            opened = aead.decrypt(wrapped[:12], wrapped[12:], partition_context(kek, purpose))
        except (InvalidTag, ValueError) as error:
            raise WrongContext(f"A key wrapped by {kek} does not open.") from error
        return SecretKey.adopt(bytearray(opened))

    def destroy(self, kek: KekRef) -> None:
        self._destroyed.add(kek)

    def _kek(self, kek: KekRef) -> bytes:
        if kek in self._destroyed:
            raise KeyDestroyed(f"{kek} was destroyed.")
        if kek not in self._keks:
            raise KeyUnknown(f"{kek} is not known.")
        return self._keks[kek]


def relabel(**changes: object) -> StreamLabel:
    """LABEL with some fields changed."""
    return dataclasses.replace(LABEL, **changes)  # type: ignore[arg-type]
