"""Opening: random access to a sealed stream, where no byte is handed on before its chunk was verified.

See docs/design/store.md, "Reading".
"""

from __future__ import annotations

import hmac
from functools import partial
from typing import NoReturn

from stoker.core.errors import StokerError
from stoker.keys.errors import WrongContext
from stoker.keys.partition import KeySource
from stoker.keys.refs import KekRef
from stoker.store.errors import (
    CorruptStream,
    ObjectTooLarge,
    OutOfRange,
    SwappedStream,
    TruncatedStream,
)
from stoker.store.header import MAX_HEADER_BYTES, StreamHeader, StreamLabel, check_label, parse_header
from stoker.store.payload import (
    MAX_PLAINTEXT_BYTES,
    PAYLOAD_HEADER_BYTES,
    TAG_BYTES,
    ChunkGeometry,
    PayloadCipher,
)
from stoker.store.ranges import RangeSource, fetch_bytes_of
from stoker.store.reread import reread_once

_RESTORE = "The object was changed or damaged. Restore it from a copy."


class StreamReader:
    """One open stream. `open_chunk` is for any thread; the rest for one at a time, as it holds one chunk.

    `header` is the verified header; `plaintext_bytes` is the verified length.
    """

    def __init__(
        self,
        source: RangeSource,
        header: StreamHeader,
        cipher: PayloadCipher,
        plaintext_bytes: int,
        place: str,
    ) -> None:
        """Use `open`."""
        self.header = header
        self.plaintext_bytes = plaintext_bytes
        self._source = source
        self._fetch_bytes = fetch_bytes_of(source)
        self._cipher = cipher
        self._place = place
        self._start = len(header.encoded)
        self._geometry = ChunkGeometry(1 << header.chunk_log2)
        self._chunks = self._geometry.chunks(plaintext_bytes)
        self._held = -1
        self._buffer = memoryview(bytearray())

    @classmethod
    def open(
        cls,
        source: RangeSource,
        keys: KeySource,
        expected: StreamLabel,
        *,
        header_digest: bytes | None = None,
        object_bytes: int | None = None,
        kek: KekRef | None = None,
        place: str,
    ) -> StreamReader:
        """Check caps, label, header digest and length, unwrap, compare the commitment.

        `header_digest` is the recorded one, whole or its first 16 bytes; without it an older stream with the
        same label is accepted. `object_bytes` is the recorded length; without it the last chunk is opened
        now, so that a stream cut at a chunk's border is refused before its length is believed.
        `kek` is a KEK of the scope that it must be sealed under, in whichever epoch: a key may have been
        rotated since; without it any KEK that `keys` opens is accepted.
        Raises NotSealed, UnknownVersion, TruncatedStream, SwappedStream, CommitmentMismatch, CorruptStream,
        and what `keys` raises, with `place` put before its message.

        Here and in every read below, bytes that do not hold are read once more before that is said.
        """

        def open_now() -> StreamReader:
            return cls._open(source, keys, expected, header_digest, object_bytes, kek, place)

        return reread_once(open_now)

    @classmethod
    def _open(
        cls,
        source: RangeSource,
        keys: KeySource,
        expected: StreamLabel,
        header_digest: bytes | None,
        object_bytes: int | None,
        kek: KekRef | None,
        place: str,
    ) -> StreamReader:
        size = source.size()
        if object_bytes is not None and size != object_bytes:
            raise TruncatedStream(
                f"{place} has {size} bytes, where {object_bytes} were recorded.", hint=_RESTORE
            )
        begin = bytes(source.read(0, min(size, MAX_HEADER_BYTES + PAYLOAD_HEADER_BYTES)))
        header = parse_header(begin[:MAX_HEADER_BYTES], size, place)
        check_label(header.label, expected, place)
        if kek is not None and header.kek.scope != kek.scope:
            raise SwappedStream(
                f"{place} is another stream than expected: it is sealed under {header.kek}, not a key of "
                f"{kek.scope}.",
                hint="Someone who may use another key wrote it. Restore the right one from a copy.",
            )
        if header_digest is not None:
            _check_header_digest(header, header_digest, place)
        start = len(header.encoded)
        plaintext_bytes = ChunkGeometry(1 << header.chunk_log2).plaintext_bytes(size - start)
        if plaintext_bytes is None or plaintext_bytes > MAX_PLAINTEXT_BYTES:
            raise TruncatedStream(
                f"{place} has {size} bytes, which is no length of a sealed stream.", hint=_RESTORE
            )
        payload_header = begin[start : start + PAYLOAD_HEADER_BYTES]
        if payload_header[0] != PAYLOAD_HEADER_BYTES:
            raise CorruptStream(
                f"{place}, payload header: its length byte is {payload_header[0]}, not "
                f"{PAYLOAD_HEADER_BYTES}.",
                hint=_RESTORE,
            )
        stream_key = _unwrap(header, keys, place)
        cipher = PayloadCipher(stream_key, header.digest, payload_header)
        reader = cls(source, header, cipher, plaintext_bytes, place)
        if object_bytes is None:
            reader._hold(reader._chunks - 1)
        return reader

    @property
    def chunks(self) -> int:
        """How many chunks the stream has."""
        return self._chunks

    @property
    def geometry(self) -> ChunkGeometry:
        """Where its chunks lie."""
        return self._geometry

    def read_all(self, max_bytes: int) -> bytearray:
        """The whole plaintext; raises ObjectTooLarge before allocating more than `max_bytes`."""
        if self.plaintext_bytes > max_bytes:
            raise ObjectTooLarge(
                f"{self._place} holds {self.plaintext_bytes} bytes; at most {max_bytes} were expected.",
                hint="It was sealed by another kind of writer, or needs a larger limit.",
            )
        return self.read(0, self.plaintext_bytes)

    def read(self, start: int, length: int) -> bytearray:
        """`length` bytes of plaintext from `start`; raises OutOfRange past the end."""
        self._check_range(start, length)
        found = bytearray(length)
        self.read_into(start, memoryview(found))
        return found

    def read_into(self, start: int, target: memoryview) -> None:
        """Fill `target` with plaintext from `start`; on any error `target` is wiped.

        Whole chunks are decrypted straight into `target`; a part of a chunk goes through one held chunk, so
        that small reads beside each other open it once.
        """
        target = target.cast("B")
        self._check_range(start, len(target))
        try:
            reread_once(partial(self._fill, start, target))
        except BaseException:
            target[:] = bytes(len(target))
            raise

    def open_chunk(self, chunk: int, target: memoryview) -> int:
        """Decrypt a whole chunk to the beginning of `target`; says how many bytes. For any thread.

        `target` has room for the chunk; on any error all of it is wiped. Raises OutOfRange.
        """
        if not 0 <= chunk < self._chunks:
            raise OutOfRange(f"Chunk {chunk} was asked of {self._place}, which has {self._chunks}.")
        length = self._geometry.plain_length(chunk, self.plaintext_bytes)
        try:
            reread_once(partial(self._open_whole, chunk, target[:length]))
        except BaseException:
            target[:] = bytes(len(target))
            raise
        return length

    def _open_whole(self, chunk: int, target: memoryview) -> None:
        sealed = self._fetch(self._geometry.sealed_start(chunk), len(target) + TAG_BYTES)
        if not self._cipher.open_into(chunk, chunk + 1 == self._chunks, sealed, target):
            self._refuse(chunk, sealed)

    def _fill(self, start: int, target: memoryview) -> None:
        done = 0
        while done < len(target):
            chunk = self._geometry.chunk_of(start + done)
            skip = start + done - self._geometry.plain_start(chunk)
            length = self._geometry.plain_length(chunk, self.plaintext_bytes)
            if skip == 0 and len(target) - done >= length and chunk != self._held:
                done += self._open_run(chunk, target[done:])
                continue
            self._hold(chunk)
            taken = min(length - skip, len(target) - done)
            target[done : done + taken] = self._buffer[skip : skip + taken]
            done += taken

    def _open_run(self, first: int, target: memoryview) -> int:
        """Open whole chunks from `first` for as long as they fit, fetched together; says how many bytes."""
        geometry = self._geometry
        most = max(1, self._fetch_bytes // geometry.chunk_bytes)
        end = min(self._chunks, first + most, first + 1 + len(target) // geometry.capacity)
        lengths = [geometry.plain_length(chunk, self.plaintext_bytes) for chunk in range(first, end)]
        length = sum(lengths)
        if length > len(target):
            length -= lengths.pop()
        sealed = self._fetch(geometry.sealed_start(first), length + TAG_BYTES * len(lengths))
        bad = self._cipher.open_run(first, lengths, self._chunks - 1, sealed, target)
        if bad is not None:
            begin = sum(lengths[: bad - first]) + TAG_BYTES * (bad - first)
            self._refuse(bad, sealed[begin : begin + lengths[bad - first] + TAG_BYTES])
        return length

    def _hold(self, chunk: int) -> None:
        """Have `chunk` in the reader's own buffer, verified."""
        if chunk == self._held:
            return
        length = self._geometry.plain_length(chunk, self.plaintext_bytes)
        sealed = self._fetch(self._geometry.sealed_start(chunk), length + TAG_BYTES)
        if len(self._buffer) < length:
            self._buffer = memoryview(bytearray(length))
        self._held = -1
        last = chunk + 1 == self._chunks
        if not self._cipher.open_into(chunk, last, sealed, self._buffer[:length]):
            self._refuse(chunk, sealed)
        self._held = chunk

    def _fetch(self, start: int, length: int) -> memoryview:
        try:
            found = memoryview(self._source.read(self._start + start, length))
        except OutOfRange as error:
            raise TruncatedStream(f"{self._place}: {error.message}", hint=_RESTORE) from error
        if len(found) != length:
            raise TruncatedStream(
                f"{self._place} gave {len(found)} of {length} bytes at {self._start + start}.", hint=_RESTORE
            )
        return found

    def _refuse(self, chunk: int, sealed: memoryview) -> NoReturn:
        """Say what is wrong with a chunk whose tag does not hold."""
        begin = self._start + self._geometry.sealed_start(chunk)
        where = f"{self._place}, chunk {chunk} of {self._chunks} (bytes {begin} to {begin + len(sealed)})"
        nowhere = memoryview(bytearray(len(sealed) - TAG_BYTES))
        if chunk + 1 == self._chunks and self._cipher.open_into(chunk, False, sealed, nowhere):
            raise TruncatedStream(f"{where}: the stream was cut here; more chunks followed.", hint=_RESTORE)
        raise CorruptStream(f"{where} was changed, or is not the chunk that belongs there.", hint=_RESTORE)

    def _check_range(self, start: int, length: int) -> None:
        if start < 0 or length < 0 or start + length > self.plaintext_bytes:
            raise OutOfRange(
                f"Bytes {start} to {start + length} were asked of {self._place}, which holds "
                f"{self.plaintext_bytes}.",
                hint="What refers to these bytes belongs to another stream.",
            )


def _check_header_digest(header: StreamHeader, recorded: bytes, place: str) -> None:
    if len(recorded) not in (16, 32):
        raise ValueError("a recorded header digest has 16 or 32 bytes")
    if not hmac.compare_digest(header.digest[: len(recorded)], recorded):
        raise SwappedStream(
            f"{place} is a sealed stream with the right label, but not the recorded one: its header digest "
            f"is {header.digest[: len(recorded)].hex()}, not {recorded.hex()}.",
            hint="An older or another write was put in its place. Restore the recorded one from a copy.",
        )


def _unwrap(header: StreamHeader, keys: KeySource, place: str) -> bytes:
    try:
        partition_key = keys.open_partition_key(header.kek, header.wrapped_key, header.purpose)
    except WrongContext as error:
        raise CorruptStream(
            f"{place}, header: the wrapped partition key does not open under {header.kek}.", hint=_RESTORE
        ) from error
    except StokerError as error:
        error.message = f"{place} cannot be opened: {error.message}"
        raise
    with partition_key:
        return header.stream_key(partition_key, place)
