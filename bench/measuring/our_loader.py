"""Our side of bench/loaders.py in a process of its own.

`our_loader.py write|measure tokens|files RAW FOLDER SECONDS` prints one JSON object.
`our_loader.py rank FOLDER RANK WORLD SECONDS` and `our_loader.py cipher SECONDS` wait for a line on standard
input before they measure, so that two of them begin together.
"""

from __future__ import annotations

import json
import mmap
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from stoker.core.clock import SystemClock
from stoker.core.signing import Ed25519Signer
from stoker.feed.dataset import Dataset
from stoker.feed.feed import Feed
from stoker.keys.open import open_backend
from stoker.keys.partition import BackendKeySource
from stoker.keys.refs import KekRef, Purpose
from stoker.store.cache import NodeCache
from stoker.store.header import StreamKind, StreamLabel
from stoker.store.manifest import ManifestWriter, shard_key
from stoker.store.objects import ObjectStore
from stoker.store.ragged import Ragged
from stoker.store.record_schema import FieldKind, RecordField, RecordSchema
from stoker.store.records import RECORD_SHARD_SCHEMA, RecordShardWriter
from stoker.store.sealed import PartitionSeal
from stoker.store.shards import SHARD_SCHEMA, ShardWriter
from stoker.store.superblock import SampleSchema, Split, Superblock

TOKENS: Final = 2048
BATCH: Final = 64
CHUNK_LOG2: Final = 20
SEED: Final = 7
RESUMED_AT: Final = 20
VERSION: Final = "be" * 16
REVIEW: Final = bytes(32)
SIGNER: Final = Ed25519Signer.from_seed(bytes(32))
RECORDS_PER_BLOCK: Final = 64
"""About 512 kB of JPEG files of 8 kB."""


def write(kind: str, raw: Path, folder: Path) -> None:
    """Seal the raw data as a dataset, and bring it into the node cache."""
    backend = open_backend((folder / "keys").as_uri(), clock=SystemClock(), passphrase=None)
    store = ObjectStore.open((folder / "store").as_uri())
    kek = backend.create_kek(f"dataset/bench/{VERSION}", Purpose.DATASET, expires_s=None)
    with PartitionSeal(BackendKeySource(backend), kek, Purpose.DATASET) as seal:
        root = (_write_tokens if kind == "tokens" else _write_files)(raw, store, seal, kek)
    (folder / "root").write_text(root)
    for rows in open_dataset(folder).split("train").sequential():
        assert len(rows)


def _write_tokens(raw: Path, store: ObjectStore, seal: PartitionSeal, kek: KekRef) -> str:
    tokens = np.load(raw, mmap_mode="r")
    schema = SampleSchema.fit(
        vocabulary=1 << 16, sample_tokens=TOKENS, chunk_log2=CHUNK_LOG2, samples_per_shard=16_384
    )
    manifest = ManifestWriter()
    for first in range(0, len(tokens), schema.samples_per_shard):
        writer = ShardWriter(seal, _label(manifest, SHARD_SCHEMA), schema)
        writer.add(np.array(tokens[first : first + schema.samples_per_shard]))
        _store(writer, store, manifest)
    return _finish(schema, len(tokens), manifest, store, kek)


def _write_files(raw: Path, store: ObjectStore, seal: PartitionSeal, kek: KekRef) -> str:
    field = RecordField("image", FieldKind.BYTES, "uint8", media="image/jpeg")
    schema = RecordSchema((field,), RECORDS_PER_BLOCK, 128, 17)
    paths = sorted(raw.glob("*.jpg"))
    manifest = ManifestWriter()
    for first in range(0, len(paths), schema.records_per_shard):
        writer = RecordShardWriter(seal, _label(manifest, RECORD_SHARD_SCHEMA), schema)
        writer.extend(
            {"image": path.read_bytes()} for path in paths[first : first + schema.records_per_shard]
        )
        _store(writer, store, manifest)
    return _finish(schema, len(paths), manifest, store, kek)


def _label(manifest: ManifestWriter, schema: int) -> StreamLabel:
    return StreamLabel(StreamKind.SHARD, "dataset/bench", VERSION, manifest.shards, schema, REVIEW)


def _store(writer: ShardWriter | RecordShardWriter, store: ObjectStore, manifest: ManifestWriter) -> None:
    sealed, entry = writer.finish()
    store.create(shard_key(f"datasets/bench/{VERSION}", manifest.shards), sealed.data)
    manifest.add(entry)


def _finish(
    schema: SampleSchema | RecordSchema,
    samples: int,
    manifest: ManifestWriter,
    store: ObjectStore,
    kek: KekRef,
) -> str:
    superblock = Superblock(
        subject="dataset/bench",
        version=VERSION,
        kek=str(kek),
        review_digest=REVIEW,
        chunk_log2=schema.chunk_log2,
        schema=schema,
        splits=(Split("train", 0, manifest.shards, samples),),
    )
    return manifest.finish(superblock, SIGNER, store, f"datasets/bench/{VERSION}")


def open_dataset(folder: Path) -> Dataset:
    """The dataset in `folder`, through a node cache."""
    backend = open_backend((folder / "keys").as_uri(), clock=SystemClock(), passphrase=None)
    store = ObjectStore.open((folder / "store").as_uri())
    return Dataset.open(
        store,
        NodeCache(folder / "cache", store, 1 << 40),
        name="bench",
        version=VERSION,
        root=(folder / "root").read_text(),
        public_key=SIGNER.public_key,
        keys=BackendKeySource(backend),
        review_digest=REVIEW,
    )


def open_feed(folder: Path, rank: int = 0, world: int = 1, threads: int | None = None) -> Feed:
    """Shuffled batches in the stored type and in buffers that are used again."""
    more: dict[str, Any] = {} if threads is None else {"read_threads": threads}
    return Feed(
        open_dataset(folder),
        global_batch=BATCH,
        seed=SEED,
        rank=rank,
        world_size=world,
        dtype="stored",
        reuse_batches=True,
        **more,
    )


def size_of(item: Any) -> int:
    """Bytes delivered: of an array of tokens, of a record's file, of a batch of files."""
    return int(item.nbytes) if isinstance(item, np.ndarray) else int(item.columns["image"].values.nbytes)


def batches_of(feed: Feed) -> Iterator[Any]:
    """Batches without end, epoch after epoch."""
    while True:
        yield feed.next_array()


def sequential(folder: Path) -> Iterator[Any]:
    """Samples in stored order, one by one, again and again."""
    while True:
        yield from _once(folder)


def _once(folder: Path) -> Iterator[Any]:
    for rows in open_dataset(folder).split("train").sequential():
        if isinstance(rows, np.ndarray):
            yield from rows
        else:
            files = rows.columns["image"]
            assert isinstance(files, Ragged)
            for number in range(len(files)):
                yield files.row(number)


def shuffled(feed: Feed) -> Iterator[Any]:
    """Samples without end, one by one."""
    for sample in feed.samples():
        yield sample["image"] if isinstance(sample, dict) else sample


def rate(stream: Iterator[Any], limit_s: float) -> float:
    """MB/s until `limit_s` have passed, the first item apart."""
    next(stream)
    total, began_s = 0, time.perf_counter()
    for number, item in enumerate(stream):
        total += size_of(item)
        if number % 64 == 0 and time.perf_counter() - began_s > limit_s:
            break
    return total / (time.perf_counter() - began_s) / 1e6


def cipher_rate(seconds: float) -> float:
    """MB/s of AES-256-GCM alone, 1 MiB chunks into one buffer."""
    aead, nonce = AESGCM(secrets.token_bytes(32)), bytes(12)
    chunks = [aead.encrypt(nonce, secrets.token_bytes((1 << 20) - 16), None) for _ in range(8)]
    target, done, began_s = bytearray((1 << 20) - 16), 0, time.perf_counter()
    while time.perf_counter() - began_s < seconds:
        for chunk in chunks:
            aead.decrypt_into(nonce, chunk, None, target)
        done += len(chunks)
    return done * len(target) / (time.perf_counter() - began_s) / 1e6


def read_rate(path: Path, seconds: float) -> float:
    """MB/s of preadv alone, 1 MiB from a file in the page cache into one buffer."""
    descriptor, target = os.open(path, os.O_RDONLY), mmap.mmap(-1, 1 << 20)
    size = max(os.fstat(descriptor).st_size - len(target), 1)
    done, began_s = 0, time.perf_counter()
    while time.perf_counter() - began_s < seconds:
        for turn in range(16):
            done += os.preadv(descriptor, [target], (turn << 20) % size)
    os.close(descriptor)
    return done / (time.perf_counter() - began_s) / 1e6


def copy_rate(seconds: float) -> float:
    """MB/s of a copy of 1 MiB, from sources that do not stay in a cache of the processor."""
    source, target = np.ones((64, 1 << 20), np.uint8), np.empty(1 << 20, np.uint8)
    done, began_s = 0, time.perf_counter()
    while time.perf_counter() - began_s < seconds:
        for row in source:
            np.copyto(target, row)
        done += source.nbytes
    return done / (time.perf_counter() - began_s) / 1e6


def together(commands: list[list[str]]) -> float:
    """The sum of what several processes measure that begin at one moment."""
    pipe = subprocess.PIPE
    started = [
        subprocess.Popen([sys.executable, __file__, *each], stdin=pipe, stdout=pipe) for each in commands
    ]
    for each in started:
        assert each.stdout is not None
        each.stdout.readline()
    for each in started:
        assert each.stdin is not None
        each.stdin.write(b"go\n")
        each.stdin.flush()
    return sum(float(each.communicate()[0].split()[-1]) for each in started)


def begin_together() -> None:
    """Say that this process is ready, and wait until all are."""
    print("ready", flush=True)
    sys.stdin.readline()


def resident_mb() -> float:
    """What this process holds in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE / 1e6


def resume(folder: Path) -> tuple[float, bool]:
    """Milliseconds from making a feed with a saved state to its first batch; whether it is the right one."""
    with open_feed(folder) as feed:
        for _ in range(RESUMED_AT):
            feed.next_array()
        state = feed.state_dict()
        expected = _content(feed.next_array())
    began_s = time.perf_counter()
    with open_feed(folder) as feed:
        feed.load_state_dict(state)
        first = feed.next_array()
        took_s = time.perf_counter() - began_s
        return took_s * 1e3, _content(first) == expected


def _content(batch: Any) -> bytes:
    return batch.tobytes() if isinstance(batch, np.ndarray) else batch.columns["image"].values.tobytes()


def measure(kind: str, folder: Path, limit_s: float) -> dict[str, Any]:
    """Every figure of one round, in the form of bench/peers/loader.py, and the ceilings."""
    before_mb, began_s = resident_mb(), time.perf_counter()
    with open_feed(folder) as feed:
        feed.next_array()
        first_ms = (time.perf_counter() - began_s) * 1e3
        batches = rate(batches_of(feed), limit_s)
        held_mb = resident_mb() - before_mb
    with open_feed(folder) as feed:
        one_by_one = rate(shuffled(feed), limit_s)
    resume_ms, exact = resume(folder)
    found = {
        "version": "",
        "sequential": rate(sequential(folder), limit_s),
        "shuffled": one_by_one,
        "batches": batches,
        "first_batch_ms": first_ms,
        "memory_mb": held_mb,
        "resume_ms": resume_ms,
        "resume_exact": exact,
    }
    if kind == "tokens":
        seconds = str(limit_s)
        shard = next((folder / "cache").rglob("*.stk"))
        one, two = (
            ["rank", str(folder), "0", "1", seconds],
            [["rank", str(folder), rank, "2", seconds] for rank in ("0", "1")],
        )
        cipher = ["cipher", seconds]
        found |= {
            "raw_preadv": read_rate(shard, limit_s / 4),
            "raw_aes_gcm": cipher_rate(limit_s / 4),
            "raw_memcpy": copy_rate(limit_s / 4),
            "two_gain": together(two) / together([one]),
            "raw_two_gain": together([cipher, cipher]) / together([cipher]),
        }
    return found


def main() -> None:
    """Read the command line; print one JSON object, or one number."""
    act, *rest = sys.argv[1:]
    if act == "write":
        Path(rest[2]).mkdir()
        write(rest[0], Path(rest[1]), Path(rest[2]))
        print("{}")
    elif act == "measure":
        print(json.dumps(measure(rest[0], Path(rest[2]), float(rest[3]))))
    elif act == "rank":
        with open_feed(Path(rest[0]), int(rest[1]), int(rest[2]), threads=1) as feed:
            feed.next_array()
            begin_together()
            print(rate(batches_of(feed), float(rest[3])))
    elif act == "cipher":
        begin_together()
        print(cipher_rate(float(rest[0])))


if __name__ == "__main__":
    main()
