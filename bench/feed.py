"""How fast sealed samples become shuffled batches, beside what AES-GCM alone reaches in the same minute.

Run `python bench/feed.py`, or with `--json` for one object. See docs/design/feed.md, "Measured".
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import secrets
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from stoker.core.clock import SystemClock
from stoker.core.signing import Ed25519Signer
from stoker.feed.batches import BatchReader
from stoker.feed.dataset import Dataset
from stoker.feed.feed import Feed
from stoker.feed.order import Order
from stoker.keys.open import open_backend
from stoker.keys.partition import BackendKeySource
from stoker.keys.refs import Purpose
from stoker.store.cache import NodeCache
from stoker.store.header import StreamKind, StreamLabel
from stoker.store.manifest import ManifestWriter, shard_key
from stoker.store.objects import ObjectStore
from stoker.store.sealed import PartitionSeal
from stoker.store.shards import SHARD_SCHEMA, ShardWriter
from stoker.store.superblock import SampleSchema, Split, Superblock

SEQUENCE_TOKENS: Final = 2048
CHUNK_LOG2: Final = 20
GLOBAL_BATCH: Final = 16
WINDOW_CHUNKS: Final = 4
ROUNDS: Final = 5
RATIO_GOAL: Final = 0.3
METHOD: Final = (
    "Samples of 2,048 tokens (and one) in uint16, sealed in 1 MiB chunks, read through the node cache, whose "
    "files are in the page cache. In each round, in turn: AES-256-GCM decrypt_into of 1 MiB chunks into one "
    "buffer; a sequential pass; one epoch of batches of 16, shuffled, as int64, by the calling thread; these "
    "three by the thread's processor time, so that other load on the machine matters less. Then the same "
    "batches through Feed with its thread, by the wall clock. MB/s of stored plaintext; medians of the "
    "rounds; spread is max - min."
)


def write_dataset(folder: Path, megabytes: int) -> Dataset:
    """A sealed dataset of random tokens, with one split."""
    store = ObjectStore.open((folder / "store").as_uri())
    backend = open_backend((folder / "keys").as_uri(), clock=SystemClock(), passphrase=None)
    dataset_version = secrets.token_hex(16)
    kek = backend.create_kek(f"dataset/bench/{dataset_version}", Purpose.DATASET, expires_s=None)
    keys, signer, review = BackendKeySource(backend), Ed25519Signer.from_seed(bytes(32)), bytes(32)
    schema = SampleSchema.fit(
        vocabulary=1 << 16,
        sample_tokens=SEQUENCE_TOKENS + 1,
        chunk_log2=CHUNK_LOG2,
        samples_per_shard=megabytes * 1_000_000 // 4 // (2 * SEQUENCE_TOKENS + 2),
    )
    prefix, manifest = f"datasets/bench/{dataset_version}", ManifestWriter()
    random = np.random.default_rng(0)
    with PartitionSeal(keys, kek, Purpose.DATASET) as seal:
        for shard in range(4):
            label = StreamLabel(
                StreamKind.SHARD, "dataset/bench", dataset_version, shard, SHARD_SCHEMA, review
            )
            writer = ShardWriter(seal, label, schema)
            shape = (schema.samples_per_shard, schema.sample_tokens)
            writer.add(random.integers(0, 1 << 16, shape, dtype=np.uint16))
            sealed, entry = writer.finish()
            store.create(shard_key(prefix, shard), sealed.data)
            manifest.add(entry)
    superblock = Superblock(
        subject="dataset/bench",
        version=dataset_version,
        kek=str(kek),
        review_digest=review,
        chunk_log2=CHUNK_LOG2,
        schema=schema,
        splits=(Split("train", 0, 4, 4 * schema.samples_per_shard),),
    )
    root = manifest.finish(superblock, signer, store, prefix)
    return Dataset.open(
        store,
        NodeCache(folder / "cache", store, 1 << 40),
        name="bench",
        version=dataset_version,
        root=root,
        public_key=signer.public_key,
        keys=keys,
        review_digest=review,
    )


def raw_rate(total_bytes: int) -> float:
    """MB/s of AES-256-GCM alone, decrypting `total_bytes` chunk by chunk into one buffer."""
    chunk_bytes = (1 << CHUNK_LOG2) - 16
    aead, nonce = AESGCM(secrets.token_bytes(32)), bytes(12)
    chunks = [aead.encrypt(nonce, secrets.token_bytes(chunk_bytes), None) for _ in range(8)]
    target = bytearray(chunk_bytes)
    count = total_bytes // chunk_bytes
    began = time.thread_time()
    for number in range(count):
        aead.decrypt_into(nonce, chunks[number % 8], None, target)
    return count * chunk_bytes / (time.thread_time() - began) / 1e6


def sequential_rate(dataset: Dataset) -> float:
    """MB/s of a sequential pass."""
    began, total = time.thread_time(), 0
    for rows in dataset.split("train").sequential():
        total += rows.nbytes
    return total / (time.thread_time() - began) / 1e6


def batch_rate(dataset: Dataset) -> float:
    """MB/s of one shuffled epoch, read by this thread."""
    split = dataset.split("train")
    order = Order(split.samples, split.chunk_samples, GLOBAL_BATCH, WINDOW_CHUNKS, seed=1)
    reader = BatchReader(split, order, 0, GLOBAL_BATCH)
    steps = split.samples // GLOBAL_BATCH
    began = time.thread_time()
    for step in range(steps):
        reader.read(step)
    elapsed = time.thread_time() - began
    reader.wipe()
    return steps * GLOBAL_BATCH * split.schema.sample_bytes / elapsed / 1e6


def feed_rate(dataset: Dataset) -> float:
    """MB/s of one shuffled epoch through a feed whose caller does nothing else."""
    schema = dataset.superblock.schema
    assert schema is not None
    with Feed(dataset, global_batch=GLOBAL_BATCH, seed=1, window_chunks=WINDOW_CHUNKS) as feed:
        steps = feed.samples_per_epoch // GLOBAL_BATCH
        began = time.perf_counter()
        for _ in range(steps):
            feed.next_array()
        elapsed = time.perf_counter() - began
    return steps * GLOBAL_BATCH * schema.sample_bytes / elapsed / 1e6


def amplification(dataset: Dataset, world_size: int) -> float:
    """Chunks opened by a whole world in one epoch, over the chunks there are."""
    rows, opens, chunks = GLOBAL_BATCH // world_size, 0, 0
    for rank in range(world_size):
        split = dataset.split("train")
        order = Order(split.samples, split.chunk_samples, GLOBAL_BATCH, WINDOW_CHUNKS, seed=1)
        reader = BatchReader(split, order, rank * rows, rows)
        for step in range(split.samples // GLOBAL_BATCH):
            reader.read(step)
        opens, chunks = opens + reader.chunks_opened, split.chunks
        reader.wipe()
    return opens / chunks


def measure(megabytes: int, rounds: int) -> dict[str, Any]:
    """The benchmark's whole result."""
    with tempfile.TemporaryDirectory() as folder:
        dataset = write_dataset(Path(folder), megabytes)
        sequential_rate(dataset)  # fills the node cache
        probes: dict[str, Callable[[], float]] = {
            "raw_aes_gcm": lambda: raw_rate(megabytes * 1_000_000),
            "sequential": lambda: sequential_rate(dataset),
            "batches": lambda: batch_rate(dataset),
            "feed": lambda: feed_rate(dataset),
        }
        rates: dict[str, list[float]] = {name: [] for name in probes}
        for _ in range(rounds):
            for name, probe in probes.items():
                rates[name].append(probe())
        opened = {size: amplification(dataset, size) for size in (1, GLOBAL_BATCH)}
    figures = {name: _figure(statistics.median(found), "MB/s") for name, found in rates.items()}
    for name, found in rates.items():
        figures[f"{name}_spread"] = _figure(max(found) - min(found), "MB/s")
    ratio = figures["batches"]["value"] / figures["raw_aes_gcm"]["value"]
    figures["batches_to_raw"] = _figure(ratio, "ratio", RATIO_GOAL, ratio >= RATIO_GOAL)
    for size, value in opened.items():
        figures[f"read_amplification_{size}_ranks"] = _figure(value, "ratio", 1.25, value <= 1.25)
    return {
        "bench": "feed",
        "figures": figures,
        "peers": {"cryptography": version("cryptography"), "numpy": version("numpy")},
        "environment": {
            "python": platform.python_version(),
            "machine": platform.machine(),
            "cpus": os.cpu_count(),
            "megabytes": megabytes,
            "rounds": rounds,
        },
        "method": METHOD,
    }


def _figure(value: float, unit: str, goal: float | None = None, holds: bool | None = None) -> dict[str, Any]:
    return {"value": round(value, 4), "unit": unit, "goal": goal, "holds": holds}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--megabytes", type=int, default=256, help="how much plaintext (default 256)")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="how often each is measured")
    options = parser.parse_args()
    result = measure(options.megabytes, options.rounds)
    if options.json:
        print(json.dumps(result))
        return 0
    for name, figure in result["figures"].items():
        goal = "" if figure["goal"] is None else f"   goal {figure['goal']}: {figure['holds']}"
        print(f"{name:28} {figure['value']:>12,.3f} {figure['unit']}{goal}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
