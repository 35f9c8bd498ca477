"""Sealing: a partition key, and streams written under it. See docs/design/store.md, "Sealed stream"."""

from __future__ import annotations

import hashlib
import secrets
import threading
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Protocol

from stoker.keys.partition import KeySource
from stoker.keys.refs import KekRef, Purpose
from stoker.keys.secret import SecretKey
from stoker.store.errors import BadLabel
from stoker.store.header import DEFAULT_CHUNK_LOG2, SALT_BYTES, StreamHeader, StreamLabel, build_header
from stoker.store.payload import MAX_PLAINTEXT_BYTES, TAG_BYTES, ChunkGeometry, PayloadCipher
from stoker.store.ranges import BytesLike

MAX_STREAMS_PER_KEY: Final = 4096
MAX_BYTES_PER_KEY: Final = 1 << 50
"""Plaintext bytes sealed under one partition key before the next is made: 1 PiB."""


_SPARE_BUFFERS: Final = 4


@dataclass(frozen=True, slots=True)
class SealedFacts:
    """What a manifest or a commit record must hold to notice any change. Digests are 32 bytes of SHA-256.

    `digest` is empty when the writer was asked for none.
    """

    digest: bytes
    header_digest: bytes
    object_bytes: int
    plaintext_bytes: int


@dataclass(frozen=True, slots=True)
class SealedBytes:
    """A sealed stream in memory, ready to be stored as one object."""

    data: memoryview
    facts: SealedFacts


class SealedFile(Protocol):
    """Where a writer puts what it has sealed; the memory is the writer's again when the call returns."""

    def write(self, data: BytesLike, /) -> int:
        """Append all of it."""
        ...


class StreamSeal(Protocol):
    """Whatever seals one stream whole: PartitionSeal, or RepeatableSeal of store/repeatable.py."""

    def seal(
        self, label: StreamLabel, plaintext: BytesLike, *, chunk_log2: int = DEFAULT_CHUNK_LOG2
    ) -> SealedBytes:
        """Seal `plaintext` whole, in memory. Raises BadLabel, and what the key source raises."""
        ...


class PartitionSeal:
    """Seals streams under one KEK; holds one partition key at a time and makes the next when it is used up.

    May be used from several threads; each writer from one.
    """

    def __init__(self, keys: KeySource, kek: KekRef, purpose: Purpose) -> None:
        self._keys = keys
        self._kek = kek
        self._purpose = purpose
        self._lock = threading.Lock()
        self._key: SecretKey | None = None
        self._wrapped = b""
        self._streams = 0
        self._bytes = 0
        self._buffers: list[tuple[memoryview, memoryview]] = []

    @property
    def kek(self) -> KekRef:
        return self._kek

    def seal(
        self, label: StreamLabel, plaintext: BytesLike, *, chunk_log2: int = DEFAULT_CHUNK_LOG2
    ) -> SealedBytes:
        """Seal `plaintext` whole, in memory. Raises BadLabel, and what the key source raises."""
        plain = memoryview(plaintext).cast("B")
        header, cipher = self._begin(label, chunk_log2, len(plain))
        return seal_whole(header, cipher, plain)

    def writer(
        self,
        label: StreamLabel,
        file: SealedFile,
        *,
        chunk_log2: int = DEFAULT_CHUNK_LOG2,
        digest: bool = True,
    ) -> StreamWriter:
        """A writer that seals into `file` as plaintext comes, one chunk in memory.

        Without `digest` the facts have none: SHA-256 takes four times as long as sealing, and who holds the
        header's digest, which binds key and salt, notices any change by the chunks' tags.
        """
        header, cipher = self._begin(label, chunk_log2, 0)
        return StreamWriter(self, header, cipher, file, digest=digest)

    def _begin(
        self, label: StreamLabel, chunk_log2: int, plaintext_bytes: int
    ) -> tuple[StreamHeader, PayloadCipher]:
        if plaintext_bytes > MAX_PLAINTEXT_BYTES:
            raise _too_long()
        with self._lock:
            used_up = self._streams >= MAX_STREAMS_PER_KEY
            if self._key is None or used_up or self._bytes + plaintext_bytes > MAX_BYTES_PER_KEY:
                self._forget()
                self._key, self._wrapped = self._keys.new_partition_key(self._kek, self._purpose)
            self._streams += 1
            self._bytes += plaintext_bytes
            header, stream_key = build_header(
                label,
                chunk_log2,
                self._purpose,
                self._kek,
                self._wrapped,
                secrets.token_bytes(SALT_BYTES),
                self._key,
            )
        return header, PayloadCipher.fresh(stream_key, header.digest)

    def lend_buffers(self, chunk_bytes: int) -> tuple[memoryview, memoryview]:
        """Room for one chunk, plain and sealed. Fresh memory for each stream would cost more than its AES."""
        with self._lock:
            for index, buffers in enumerate(self._buffers):
                if len(buffers[1]) == chunk_bytes:
                    return self._buffers.pop(index)
        return memoryview(bytearray(chunk_bytes - TAG_BYTES)), memoryview(bytearray(chunk_bytes))

    def take_back(self, buffers: tuple[memoryview, memoryview], plaintext_bytes: int) -> None:
        """A writer is done: its buffers, wiped, and how much it has sealed under the current key."""
        with self._lock:
            self._bytes += plaintext_bytes
            if len(self._buffers) < _SPARE_BUFFERS:
                self._buffers.append(buffers)

    def _forget(self) -> None:
        if self._key is not None:
            self._key.wipe()
        self._key, self._wrapped, self._streams, self._bytes = None, b"", 0, 0

    def close(self) -> None:
        """Wipe the partition key; the next stream would make a new one."""
        with self._lock:
            self._forget()

    def __enter__(self) -> PartitionSeal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class StreamWriter:
    """Seals what it is given, chunk by chunk, into a file; holds at most one chunk of plaintext.

    A chunk is sealed when the byte after it has come, since only the last chunk carries the last mark. What
    an abandoned writer leaves in its file does not open: it has no last chunk.
    """

    def __init__(
        self,
        seal: PartitionSeal,
        header: StreamHeader,
        cipher: PayloadCipher,
        file: SealedFile,
        *,
        digest: bool = True,
    ) -> None:
        self._seal = seal
        self._header_digest = header.digest
        self._cipher = cipher
        self._file = file
        self._geometry = ChunkGeometry(1 << header.chunk_log2)
        self._plain, self._sealed = seal.lend_buffers(self._geometry.chunk_bytes)
        self._filled = 0
        self._most_filled = 0
        self._chunk = 0
        self._plaintext_bytes = 0
        self._object_bytes = 0
        self._digest = hashlib.sha256() if digest else None
        self._finished = False
        self._put(header.encoded)
        self._put(cipher.header)

    def write(self, plaintext: BytesLike) -> None:
        """Take more plaintext. Raises BadLabel past 4 TiB, and what the file raises."""
        assert not self._finished
        rest = memoryview(plaintext).cast("B")
        if self._plaintext_bytes + len(rest) > MAX_PLAINTEXT_BYTES:
            raise _too_long()
        self._plaintext_bytes += len(rest)
        while len(rest):
            capacity = self._capacity()
            if self._filled == capacity:
                self._seal_chunk(self._plain[:capacity], last=False)
                self._filled = 0
            elif self._filled == 0 and len(rest) > capacity:
                rest = self._seal_straight(rest)
            else:
                taken = min(capacity - self._filled, len(rest))
                self._plain[self._filled : self._filled + taken] = rest[:taken]
                self._filled += taken
                self._most_filled = max(self._most_filled, self._filled)
                rest = rest[taken:]

    def finish(self) -> SealedFacts:
        """Seal the last chunk and say what was written; the file is left open and is not synced."""
        assert not self._finished
        self._seal_chunk(self._plain[: self._filled], last=True)
        self._finished = True
        self._plain[: self._most_filled] = bytes(self._most_filled)
        self._seal.take_back((self._plain, self._sealed), self._plaintext_bytes)
        digest = b"" if self._digest is None else self._digest.digest()
        return SealedFacts(digest, self._header_digest, self._object_bytes, self._plaintext_bytes)

    def _capacity(self) -> int:
        return self._geometry.first_capacity if self._chunk == 0 else self._geometry.capacity

    def _seal_straight(self, plaintext: memoryview) -> memoryview:
        """Seal whole chunks from the caller's memory, without a copy; what is left may be the last chunk."""
        begin, capacity = 0, self._capacity()
        sealed, seal_into, put = self._sealed, self._cipher.seal_into, self._put
        while len(plaintext) - begin > capacity:
            target = sealed[: capacity + TAG_BYTES]
            seal_into(self._chunk, False, plaintext[begin : begin + capacity], target)
            put(target)
            begin += capacity
            self._chunk += 1
            capacity = self._geometry.capacity
        return plaintext[begin:]

    def _seal_chunk(self, plaintext: memoryview, *, last: bool) -> None:
        target = self._sealed[: len(plaintext) + TAG_BYTES]
        self._cipher.seal_into(self._chunk, last, plaintext, target)
        self._chunk += 1
        self._put(target)

    def _put(self, data: BytesLike) -> None:
        self._file.write(data)
        if self._digest is not None:
            self._digest.update(data)
        self._object_bytes += len(data)


def seal_whole(header: StreamHeader, cipher: PayloadCipher, plain: memoryview) -> SealedBytes:
    """The stream that begins with `header` and holds `plain`, under a cipher that sealed nothing before."""
    geometry = ChunkGeometry(1 << header.chunk_log2)
    start = len(header.encoded)
    data = memoryview(bytearray(start + geometry.sealed_bytes(len(plain))))
    data[:start] = header.encoded
    data[start : start + len(cipher.header)] = cipher.header
    chunks = geometry.chunks(len(plain))
    for chunk in range(chunks):
        begin, length = geometry.plain_start(chunk), geometry.plain_length(chunk, len(plain))
        into = start + geometry.sealed_start(chunk)
        cipher.seal_into(
            chunk, chunk + 1 == chunks, plain[begin : begin + length], data[into : into + length + TAG_BYTES]
        )
    facts = SealedFacts(hashlib.sha256(data).digest(), header.digest, len(data), len(plain))
    return SealedBytes(data.toreadonly(), facts)


def _too_long() -> BadLabel:
    return BadLabel(
        f"A sealed stream holds at most {MAX_PLAINTEXT_BYTES} bytes.", hint="Split the content into shards."
    )
