"""How fast sealed samples become shuffled batches, beside what AES-GCM alone reaches in the same minute.

Run `python bench/feed.py`, or with `--json` for one object. See docs/design/feed.md, "Measured".
"""

from __future__ import annotations

import secrets
import sys
import tempfile
from pathlib import Path
from typing import Final

import numpy as np
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from measuring.command import Size, run
from measuring.figures import Figure, Measured, at_least, at_most, median_of, ratio_of, versions_of
from measuring.turns import Probe, processor_s, take_turns, wall_s
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
METHOD: Final = (
    "Samples of 2,048 tokens (and one) in uint16, sealed in 1 MiB chunks, read through the node cache, "
    "whose files are in the page cache. In each round, in rotating order: AES-256-GCM decrypt_into of 1 MiB "
    "chunks into one buffer; a sequential pass; one epoch of batches of 16, shuffled, as int64, by the "
    "calling thread; these by processor time of the one thread. And the same batches through Feed with its "
    "thread, by the wall clock. MB/s of stored plaintext; medians and quartiles of the rounds; the ratio is "
    "taken round by round."
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


def raw_rate(megabytes: int) -> float:
    """MB/s of AES-256-GCM alone, decrypting `megabytes` chunk by chunk into one buffer."""
    chunk_bytes = (1 << CHUNK_LOG2) - 16
    aead, nonce = AESGCM(secrets.token_bytes(32)), bytes(12)
    chunks = [aead.encrypt(nonce, secrets.token_bytes(chunk_bytes), None) for _ in range(8)]
    target = bytearray(chunk_bytes)
    count = -(-megabytes * 1_000_000 // chunk_bytes)

    def decrypt() -> None:
        for number in range(count):
            aead.decrypt_into(nonce, chunks[number % 8], None, target)

    return count * chunk_bytes / processor_s(decrypt) / 1e6


def sequential_rate(dataset: Dataset) -> float:
    """MB/s of a sequential pass."""
    totals: list[int] = []
    split = dataset.token_split("train")
    seconds = processor_s(lambda: totals.append(sum(rows.nbytes for rows in split.sequential())))
    return totals[0] / seconds / 1e6


def batch_rate(dataset: Dataset) -> float:
    """MB/s of one shuffled epoch, read by this thread."""
    split = dataset.token_split("train")
    order = Order(split.samples, split.chunk_samples, GLOBAL_BATCH, WINDOW_CHUNKS, seed=1)
    reader = BatchReader(split, order, 0, GLOBAL_BATCH)
    steps = split.samples // GLOBAL_BATCH

    def read() -> None:
        for step in range(steps):
            reader.read(step)

    seconds = processor_s(read)
    reader.wipe()
    return steps * GLOBAL_BATCH * split.schema.sample_bytes / seconds / 1e6


def feed_rate(dataset: Dataset) -> float:
    """MB/s of one shuffled epoch through a feed whose caller does nothing else."""
    schema = dataset.token_split("train").schema
    with Feed(dataset, global_batch=GLOBAL_BATCH, seed=1, window_chunks=WINDOW_CHUNKS) as feed:
        steps = feed.samples_per_epoch // GLOBAL_BATCH

        def take() -> None:
            for _ in range(steps):
                feed.next_array()

        seconds = wall_s(take)
    return steps * GLOBAL_BATCH * schema.sample_bytes / seconds / 1e6


def amplification(dataset: Dataset, world_size: int) -> float:
    """Chunks opened by a whole world in one epoch, over the chunks there are."""
    rows, opens, chunks = GLOBAL_BATCH // world_size, 0, 0
    for rank in range(world_size):
        split = dataset.token_split("train")
        order = Order(split.samples, split.chunk_samples, GLOBAL_BATCH, WINDOW_CHUNKS, seed=1)
        reader = BatchReader(split, order, rank * rows, rows)
        for step in range(split.samples // GLOBAL_BATCH):
            reader.read(step)
        opens, chunks = opens + reader.chunks_opened, split.chunks
        reader.wipe()
    return opens / chunks


def measure(megabytes: int, rounds: int) -> Measured:
    """Rates, the ratio to AES-GCM alone, and the read amplification."""
    with tempfile.TemporaryDirectory() as folder:
        dataset = write_dataset(Path(folder), megabytes)
        probes: dict[str, Probe] = {
            "raw_aes_gcm": lambda: raw_rate(megabytes),
            "sequential": lambda: sequential_rate(dataset),
            "batches": lambda: batch_rate(dataset),
            "feed": lambda: feed_rate(dataset),
        }
        rates = take_turns(probes, rounds)
        opened = {size: amplification(dataset, size) for size in (1, GLOBAL_BATCH)}
    figures = {name: median_of(found, "MB/s") for name, found in rates.items()}
    figures["batches_to_raw"] = ratio_of(rates["batches"], rates["raw_aes_gcm"], at_least(0.3))
    for size, value in opened.items():
        figures[f"read_amplification_{size}_ranks"] = Figure(value, "ratio", at_most(1.25))
    return Measured(figures, METHOD, versions_of("cryptography", "numpy"))


SIZES: Final = (
    Size("megabytes", 256, 16, "how much plaintext"),
    Size("rounds", 5, 2, "rounds of all cases"),
)

if __name__ == "__main__":
    sys.exit(run("feed", __doc__, SIZES, measure))
