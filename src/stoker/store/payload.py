"""The payload of a sealed stream: Tink's AES256-GCM-HKDF streaming format, chunk by chunk.

Tink calls a chunk a segment. Byte by byte in docs/design/store.md, "Payload"; judged by Google's own
implementation in tests/store/test_tink.py.
"""

from __future__ import annotations

import secrets
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from stoker.store.ranges import BytesLike

KEY_BYTES: Final = 32
TAG_BYTES: Final = 16
PREFIX_BYTES: Final = 7
_NONCE: Final = struct.Struct(">7sI?")
PAYLOAD_HEADER_BYTES: Final = 1 + KEY_BYTES + PREFIX_BYTES
MAX_PLAINTEXT_BYTES: Final = 1 << 42
"""4 TiB: 2^38 blocks under one key, so GCM's advantage stays under 2^-50 (see docs/design/store.md)."""


@dataclass(frozen=True, slots=True)
class ChunkGeometry:
    """Where chunks lie. Offsets are inside the payload (`sealed`) and inside the plaintext (`plain`)."""

    chunk_bytes: int

    @property
    def first_capacity(self) -> int:
        """Plaintext bytes that the first chunk can hold: it shares its room with the payload's header."""
        return self.chunk_bytes - PAYLOAD_HEADER_BYTES - TAG_BYTES

    @property
    def capacity(self) -> int:
        """Plaintext bytes that every later chunk can hold."""
        return self.chunk_bytes - TAG_BYTES

    def chunks(self, plaintext_bytes: int) -> int:
        """How many chunks hold this much plaintext; at least one, even for none."""
        rest = plaintext_bytes - self.first_capacity
        return 1 if rest <= 0 else 1 + -(-rest // self.capacity)

    def sealed_bytes(self, plaintext_bytes: int) -> int:
        """The payload's whole length."""
        return PAYLOAD_HEADER_BYTES + plaintext_bytes + TAG_BYTES * self.chunks(plaintext_bytes)

    def plaintext_bytes(self, sealed_bytes: int) -> int | None:
        """The plaintext's length for a payload of this length; None when no payload has it."""
        chunks = max(1, -(-sealed_bytes // self.chunk_bytes))
        plain = sealed_bytes - PAYLOAD_HEADER_BYTES - TAG_BYTES * chunks
        if plain < 0 or self.chunks(plain) != chunks:
            return None
        return plain

    def chunk_of(self, plain_offset: int) -> int:
        """The chunk that holds the plaintext byte at `plain_offset`."""
        rest = plain_offset - self.first_capacity
        return 0 if rest < 0 else 1 + rest // self.capacity

    def plain_start(self, chunk: int) -> int:
        """Where the chunk's plaintext begins."""
        return 0 if chunk == 0 else self.first_capacity + (chunk - 1) * self.capacity

    def plain_length(self, chunk: int, plaintext_bytes: int) -> int:
        """How much plaintext the chunk holds in a stream of `plaintext_bytes`."""
        most = self.first_capacity if chunk == 0 else self.capacity
        return min(most, plaintext_bytes - self.plain_start(chunk))

    def sealed_start(self, chunk: int) -> int:
        """Where the chunk's ciphertext begins in the payload."""
        return PAYLOAD_HEADER_BYTES if chunk == 0 else chunk * self.chunk_bytes


class PayloadCipher:
    """Seals and opens single chunks under one stream key. Not for two streams: nonces are counted."""

    __slots__ = ("_aead", "_prefix", "header")

    def __init__(self, stream_key: bytes, associated_data: bytes, header: bytes) -> None:
        """`header` is the payload's 40 bytes: own length, salt, nonce prefix."""
        salt, self._prefix = header[1 : 1 + KEY_BYTES], header[1 + KEY_BYTES :]
        self.header = header
        self._aead = AESGCM(HKDF(SHA256(), KEY_BYTES, salt, associated_data).derive(stream_key))

    @classmethod
    def fresh(cls, stream_key: bytes, associated_data: bytes) -> PayloadCipher:
        """A cipher for a new payload, with a random salt and nonce prefix."""
        header = bytes([PAYLOAD_HEADER_BYTES]) + secrets.token_bytes(KEY_BYTES + PREFIX_BYTES)
        return cls(stream_key, associated_data, header)

    def seal_into(self, chunk: int, last: bool, plaintext: BytesLike, target: memoryview) -> None:
        """Encrypt one chunk into `target`, which is exactly 16 bytes longer."""
        self._aead.encrypt_into(self._nonce(chunk, last), plaintext, None, target)

    def open_into(self, chunk: int, last: bool, sealed: BytesLike, target: memoryview) -> bool:
        """Decrypt one chunk into `target`, which is exactly 16 bytes shorter; False when its tag is wrong.

        GCM decrypts before it knows whether the tag holds, so `target` is wiped before False is returned.
        """
        try:
            self._aead.decrypt_into(self._nonce(chunk, last), sealed, None, target)
        except InvalidTag:
            target[:] = bytes(len(target))
            return False
        return True

    def open_run(
        self, first: int, lengths: Sequence[int], last: int, sealed: memoryview, target: memoryview
    ) -> int | None:
        """Open consecutive chunks from `first` into `target`; `lengths` is their plaintext, `last` the last.

        The first chunk whose tag is wrong is returned, and its part of `target` is wiped. This is the hot
        loop: what it does a chunk costs a few microseconds, as much as 50 KiB of AES.
        """
        decrypt, pack, prefix = self._aead.decrypt_into, _NONCE.pack, self._prefix
        begin = into = 0
        for chunk, length in enumerate(lengths, first):
            end, upto = begin + length + TAG_BYTES, into + length
            try:
                decrypt(pack(prefix, chunk, chunk == last), sealed[begin:end], None, target[into:upto])
            except InvalidTag:
                target[into:upto] = bytes(length)
                return chunk
            begin, into = end, upto
        return None

    def _nonce(self, chunk: int, last: bool) -> bytes:
        return _NONCE.pack(self._prefix, chunk, last)
