"""How fast streams are sealed and opened, beside AES-GCM alone on the same chunks in the same run.

Run `python bench/seal.py`, or with `--json` for one object. See docs/design/store.md, "Speed".
"""

from __future__ import annotations

import hashlib
import mmap
import os
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final, cast

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from measuring.command import Size, run
from measuring.figures import Figure, Measured, at_least, rate_of, ratio_of, versions_of
from measuring.one_key import OneKey
from measuring.turns import processor_s, take_turns
from stoker.keys.refs import KekRef, Purpose
from stoker.store.header import StreamKind, StreamLabel
from stoker.store.payload import ChunkGeometry
from stoker.store.ranges import BytesSource, FileSource, RangeSource
from stoker.store.reader import StreamReader
from stoker.store.sealed import PartitionSeal

CHUNK_LOG2: Final = 20
CHUNK: Final = 1 << CHUNK_LOG2
KEK: Final = KekRef("dataset/bench", 1)
LABEL: Final = StreamLabel(StreamKind.SHARD, "dataset/bench", "00" * 16, 0, 1, bytes(32))
FETCH: Final = 8 * CHUNK
PLACE: Final = "the benchmark's stream"
CASES: Final = ("raw_seal", "seal", "write", "raw_open", "open", "raw_open_file", "open_file", "digest")
METHOD: Final = (
    "Every case over one stream of 1 MiB chunks in one process, in rotating order, by processor time of the "
    "one thread. Raw is AESGCM.encrypt_into and decrypt_into on chunks of the same size with reused "
    "buffers; digest is SHA-256 alone. Medians and quartiles of the rounds; ratios are of rates, round by "
    "round."
)


class _NoDigest:
    """In the place of SHA-256, so that sealing alone can be timed."""

    def update(self, data: object) -> None:
        return None

    def digest(self) -> bytes:
        return bytes(32)


class _Nowhere:
    """A file that forgets."""

    def write(self, data: object) -> int:
        return 0


def _nonce(chunk: int) -> bytes:
    return chunk.to_bytes(12, "big")


def _file(data: memoryview) -> tempfile._TemporaryFileWrapper[bytes]:
    file = tempfile.NamedTemporaryFile(suffix=".stk")  # noqa: SIM115
    file.write(data)
    file.flush()
    return file


class Bench:
    """The cases, each one call over the same `chunks` MiB."""

    def __init__(self, chunks: int) -> None:
        self.bytes = chunks * CHUNK
        self._chunks = chunks
        self._keys = OneKey()
        self._geometry = ChunkGeometry(CHUNK)
        # As much plaintext as fills `chunks` chunks exactly, so that both sides encrypt chunks of one size.
        self._plain = memoryview(bytearray(os.urandom(self._geometry.plain_start(chunks))))
        self._target = memoryview(bytearray(len(self._plain)))
        self._seal = PartitionSeal(self._keys, KEK, Purpose.DATASET)
        self._sealed = self._seal.seal(LABEL, self._plain, chunk_log2=CHUNK_LOG2).data
        self._aead = AESGCM(os.urandom(32))
        self._chunk = memoryview(bytearray(CHUNK))
        capacity = self._geometry.capacity
        # Raw AES-GCM has no header in its first chunk: as many chunks of one size, and the same bytes but 40.
        self._raw = memoryview(bytearray(chunks * CHUNK))
        self._raw_target = memoryview(bytearray(chunks * capacity))
        for chunk in range(chunks):
            self._aead.encrypt_into(
                _nonce(chunk),
                bytes(capacity),
                None,
                self._raw[chunk * CHUNK : (chunk + 1) * CHUNK],
            )
        self._files = [_file(self._sealed), _file(self._raw)]
        self._file_source = FileSource(Path(self._files[0].name))
        self._raw_buffer = memoryview(mmap.mmap(-1, FETCH))

    def raw_seal(self) -> None:
        """encrypt_into alone, chunk after chunk, into one buffer."""
        capacity, plain = self._geometry.capacity, self._raw_target
        for chunk in range(self._chunks):
            part = plain[chunk * capacity : (chunk + 1) * capacity]
            self._aead.encrypt_into(_nonce(chunk), part, None, self._chunk)

    def seal(self) -> None:
        """The whole writer but the digest of the object: header, commitment, keys and every chunk."""
        self._write(_NoDigest())

    def write(self) -> None:
        """The whole writer, with SHA-256 of the object for the manifest."""
        self._write(None)

    def _write(self, digest: _NoDigest | None) -> None:
        writer = self._seal.writer(LABEL, cast(BinaryIO, _Nowhere()), chunk_log2=CHUNK_LOG2)
        if digest is not None:
            writer._digest = cast("hashlib._Hash", digest)
        writer.write(self._plain)
        writer.finish()

    def raw_open(self) -> None:
        """decrypt_into alone, chunk after chunk, into one target."""
        self._raw_chunks(self._raw, 0, self._chunks)

    def open(self) -> None:
        """Header, commitment, key derivation and every chunk, verified, from memory."""
        self._read(BytesSource(self._sealed))

    def open_file(self) -> None:
        """As `open`, from a file in the page cache."""
        self._read(self._file_source)

    def raw_open_file(self) -> None:
        """preadv and decrypt_into alone, from a file of the same length, 8 MiB at a time."""
        for first in range(0, self._chunks, FETCH // CHUNK):
            os.preadv(self._files[1].fileno(), [self._raw_buffer], first * CHUNK)
            self._raw_chunks(self._raw_buffer, first, min(first + FETCH // CHUNK, self._chunks))

    def _raw_chunks(self, sealed: memoryview, first: int, end: int) -> None:
        capacity, target = self._geometry.capacity, self._raw_target
        for chunk in range(first, end):
            self._aead.decrypt_into(
                _nonce(chunk),
                sealed[(chunk - first) * CHUNK : (chunk - first + 1) * CHUNK],
                None,
                target[chunk * capacity : (chunk + 1) * capacity],
            )

    def digest(self) -> None:
        """SHA-256 alone: what bounds `write`."""
        hashlib.sha256(self._sealed).digest()

    def _read(self, source: RangeSource) -> None:
        size = len(self._sealed)
        reader = StreamReader.open(source, self._keys, LABEL, object_bytes=size, place=PLACE)
        reader.read_into(0, self._target)

    def check(self) -> None:
        """What was opened is what was sealed."""
        self._target[:] = bytes(len(self._target))
        self.open_file()
        if self._target != self._plain:
            raise SystemExit("the opened bytes differ from the sealed ones")


def measure(megabytes: int, rounds: int) -> Measured:
    """Rates, and ratios to what the cipher or the digest alone reaches."""
    bench = Bench(megabytes)
    bench.check()
    seconds = take_turns({name: partial(processor_s, getattr(bench, name)) for name in CASES}, rounds)
    bench.check()
    figures: dict[str, Figure] = {
        f"{name}_rate": rate_of(bench.bytes / 1e9, seconds[name], "GB/s") for name in CASES
    }
    for name, raw, goal in (
        ("seal", "raw_seal", at_least(0.9)),
        ("open", "raw_open", at_least(0.9)),
        ("open_file", "raw_open_file", at_least(0.9)),
        ("write", "raw_seal", None),
        ("write", "digest", None),
    ):
        figures[f"{name}_to_{raw}"] = ratio_of(seconds[raw], seconds[name], goal)
    return Measured(figures, METHOD, versions_of("cryptography"))


SIZES: Final = (
    Size("megabytes", 64, 8, "MiB in the stream"),
    Size("rounds", 21, 3, "rounds of all cases"),
)

if __name__ == "__main__":
    sys.exit(run("seal", __doc__, SIZES, measure))
