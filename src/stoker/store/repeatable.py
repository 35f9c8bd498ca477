"""Seals that repeat: the same plaintext under the same label and key gives the same bytes.

So a task that ran twice, or on two machines at once, made one object. The argument for why this is safe is
in docs/design/store.md, "Deterministic seals".
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from types import TracebackType
from typing import Final

from stoker.keys.partition import KeySource
from stoker.keys.refs import KekRef, Purpose
from stoker.keys.secret import SecretKey
from stoker.store.errors import BadLabel, ObjectDiffers, ObjectExists
from stoker.store.header import (
    DEFAULT_CHUNK_LOG2,
    SALT_BYTES,
    StreamLabel,
    build_header,
    encode_uncommitted,
)
from stoker.store.objects import ObjectStore
from stoker.store.payload import KEY_BYTES, PAYLOAD_HEADER_BYTES, PREFIX_BYTES, PayloadCipher
from stoker.store.ranges import BytesLike
from stoker.store.sealed import MAX_BYTES_PER_KEY, MAX_STREAMS_PER_KEY, SealedBytes, seal_whole

MAX_REPEATABLE_BYTES: Final = MAX_BYTES_PER_KEY // MAX_STREAMS_PER_KEY
"""Plaintext bytes of one such stream: 2^38, so that 4,096 of them stay within what a partition key seals."""

_COMPARED_BYTES: Final = 1 << 22
_EXTRACT_SALT: Final = b"stoker repeatable seal 1"
_SALT: Final = b"\x01"
_PAYLOAD_SALT: Final = b"\x02"
_NONCE_PREFIX: Final = b"\x03"


class RepeatableSeal:
    """Seals streams under partition keys that were made and wrapped before, as a plan keeps them.

    The stream whose label has the shard `first + n` is sealed under `wrapped[n // 4096]`. Of one process and
    thread; holds one partition key at a time. Close it, or use it as a context, to wipe that.
    """

    def __init__(
        self, keys: KeySource, kek: KekRef, purpose: Purpose, wrapped: Sequence[bytes], *, first: int = 0
    ) -> None:
        self._keys = keys
        self._kek = kek
        self._purpose = purpose
        self._wrapped = wrapped
        self._first = first
        self._held = -1
        self._key: SecretKey | None = None
        self._salting = b""

    def seal(
        self, label: StreamLabel, plaintext: BytesLike, *, chunk_log2: int = DEFAULT_CHUNK_LOG2
    ) -> SealedBytes:
        """Seal `plaintext` whole, in memory.

        Raises BadLabel, also where no key was planned for the label's shard, and what the key source raises.
        """
        plain = memoryview(plaintext).cast("B")
        if len(plain) > MAX_REPEATABLE_BYTES:
            raise BadLabel(
                f"A repeatable stream holds at most {MAX_REPEATABLE_BYTES} bytes, not {len(plain)}.",
                hint="Split the content into smaller shards.",
            )
        key, wrapped = self._open(label.shard)
        fields = encode_uncommitted(label, chunk_log2, self._purpose, self._kek, wrapped, bytes(SALT_BYTES))
        content = hashlib.sha256(fields).digest() + hashlib.sha256(plain).digest()
        salt = self._drawn(_SALT, content)
        payload = self._drawn(_PAYLOAD_SALT, content)[:KEY_BYTES]
        prefix = self._drawn(_NONCE_PREFIX, content)[:PREFIX_BYTES]
        header, stream_key = build_header(label, chunk_log2, self._purpose, self._kek, wrapped, salt, key)
        payload_header = bytes([PAYLOAD_HEADER_BYTES]) + payload + prefix
        return seal_whole(header, PayloadCipher(stream_key, header.digest, payload_header), plain)

    def _drawn(self, what: bytes, content: bytes) -> bytes:
        return hmac.digest(self._salting, what + content, "sha256")

    def _open(self, shard: int) -> tuple[SecretKey, bytes]:
        index = (shard - self._first) // MAX_STREAMS_PER_KEY
        if not 0 <= index < len(self._wrapped):
            raise BadLabel(
                f"Shard {shard} lies outside the {len(self._wrapped) * MAX_STREAMS_PER_KEY} for which keys "
                "were planned.",
                hint="The plan was made for less data.",
            )
        if self._key is None or self._held != index:
            self.close()
            self._key = self._keys.open_partition_key(self._kek, self._wrapped[index], self._purpose)
            self._held = index
            with self._key.view() as secret:
                # HKDF-Extract with a constant for its salt.
                extract = hmac.new(_EXTRACT_SALT, digestmod=hashlib.sha256)
                extract.update(secret)
            self._salting = extract.digest()
        return self._key, self._wrapped[index]

    def close(self) -> None:
        """Wipe the partition key."""
        if self._key is not None:
            self._key.wipe()
        self._key, self._held, self._salting = None, -1, b""

    def __enter__(self) -> RepeatableSeal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def create_same(store: ObjectStore, key: str, data: BytesLike) -> bool:
    """Store `data` under `key`, or find exactly these bytes there; whether it was this call that stored them.

    Raises ObjectDiffers when other bytes lie there, and what ObjectStore.create raises.
    """
    try:
        store.create(key, data)
    except ObjectExists:
        view = memoryview(data).cast("B")
        if store.size(key) == len(view) and _equal(store, key, view):
            return False
        raise ObjectDiffers(
            f"{key} in {store.place} holds other bytes than its task made.",
            hint="It was changed, or tasks of two versions of Stoker met. Delete it, or start anew.",
        ) from None
    return True


def _equal(store: ObjectStore, key: str, data: memoryview) -> bool:
    return all(
        store.get_range(key, start, len(data[start : start + _COMPARED_BYTES]))
        == data[start : start + _COMPARED_BYTES]
        for start in range(0, len(data), _COMPARED_BYTES)
    )
