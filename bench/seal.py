"""How fast streams are sealed and opened, beside AES-GCM alone on the same chunks in the same run.

`python bench/seal.py` prints a table, with `--json` one object. See docs/design/store.md, "Speed".
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import mmap
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import BinaryIO, Final, cast

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from stoker.keys.refs import KekRef, Purpose
from stoker.keys.secret import SecretKey
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


class _OneKey:
    """Hands out one partition key, unwrapped: this benchmark is about bytes, not about keys."""

    def __init__(self) -> None:
        self._secret = bytearray(os.urandom(32))

    def new_partition_key(self, kek: KekRef, purpose: Purpose) -> tuple[SecretKey, bytes]:
        return SecretKey.adopt(bytearray(self._secret)), b"unwrapped"

    def open_partition_key(self, kek: KekRef, wrapped: bytes, purpose: Purpose) -> SecretKey:
        return SecretKey.adopt(bytearray(self._secret))


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
        self._keys = _OneKey()
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


def measure(cases: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """CPU seconds of this thread for each case, in turn: other processes of the machine count little."""
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for case in cases.values():
        case()
    gc.disable()
    for turn in range(rounds):
        names = list(cases)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            start = time.thread_time()
            cases[name]()
            seconds[name].append(time.thread_time() - start)
    gc.enable()
    return seconds


def figures(bench: Bench, seconds: dict[str, list[float]]) -> dict[str, dict[str, object]]:
    """Rates as medians with their quartiles, and ratios taken turn by turn."""
    found: dict[str, dict[str, object]] = {}
    for name, taken in seconds.items():
        rates = sorted(bench.bytes / second / 1e9 for second in taken)
        low, middle, high = statistics.quantiles(rates, n=4)
        found[f"{name}_rate"] = {
            "value": round(middle, 2),
            "unit": "GB/s",
            "spread": [round(low, 2), round(high, 2)],
            "goal": None,
            "holds": None,
        }
    for name, raw, goal in (
        ("seal", "raw_seal", 0.9),
        ("open", "raw_open", 0.9),
        ("open_file", "raw_open_file", 0.9),
        ("write", "raw_seal", None),
        ("write", "digest", None),
    ):
        ratios = [mine / other for other, mine in zip(seconds[name], seconds[raw], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        found[f"{name}_to_{raw}"] = {
            "value": round(middle, 3),
            "unit": "ratio of rates",
            "spread": [round(low, 3), round(high, 3)],
            "goal": None if goal is None else f"at least {goal}",
            "holds": None if goal is None else middle >= goal,
        }
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--chunks", type=int, default=64, help="MiB in a stream")
    parser.add_argument("--rounds", type=int, default=21, help="turns of every case")
    options = parser.parse_args()
    bench = Bench(options.chunks)
    bench.check()
    names = ("raw_seal", "seal", "write", "raw_open", "open", "raw_open_file", "open_file", "digest")
    seconds = measure({name: getattr(bench, name) for name in names}, options.rounds)
    bench.check()
    result = {
        "bench": "seal",
        "figures": figures(bench, seconds),
        "peers": {"cryptography": version("cryptography")},
        "environment": {
            "python": platform.python_version(),
            "machine": platform.machine(),
            "cpus": os.cpu_count(),
            "system": platform.system(),
        },
        "method": f"{options.rounds} turns of every case in one process, in rotating order, by CPU time of "
        f"the one thread, on one stream of {options.chunks} chunks of 1 MiB. Raw is AESGCM.encrypt_into and "
        "decrypt_into on chunks of the same size with reused buffers. Values are medians, spreads quartiles; "
        "ratios are taken turn by turn.",
    }
    if options.json:
        print(json.dumps(result))
        return
    for name, figure in cast(dict[str, dict[str, object]], result["figures"]).items():
        verdict = "holds" if figure["holds"] else "falls short"
        goal = f"  goal {figure['goal']}: {verdict}" if figure["goal"] else ""
        print(f"{name:26} {figure['value']:>8} {figure['unit']}  {figure['spread']}{goal}")


if __name__ == "__main__":
    main()
