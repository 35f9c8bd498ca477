"""How fast sealed samples become shuffled batches, beside what AES-GCM alone reaches in the same minute.

Run `python bench/feed.py`, or with `--json` for one object. See docs/design/feed.md, "Measured".
"""

from __future__ import annotations

import secrets
import sys
import tempfile
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
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
from stoker.feed.source import INT64, STORED, ReadSettings
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
BUFFERS: Final = 6
TIMES: Final = ("first_batch", "resume")
METHOD: Final = (
    "Samples of 2,048 tokens (and one) in uint16, sealed in 1 MiB chunks, read through the node cache, "
    "whose files are in the page cache. In each round, in rotating order: AES-256-GCM decrypt_into of 1 MiB "
    "chunks into one buffer; a sequential pass; one epoch of batches of 16, shuffled, by the calling thread "
    "alone, in the stored type and as int64: these by processor time of the one thread. Through Feed with "
    "its threads, by the wall clock: the same batches, and sample by sample in the stored type. MB/s of "
    "stored plaintext. Milliseconds from making a feed to its first batch, and from loading a state in the "
    "middle of an epoch to the next batch. Medians and quartiles of the rounds; ratios round by round."
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


def batch_rate(dataset: Dataset, dtype: str) -> float:
    """MB/s of one shuffled epoch, chunks opened and rows picked by this thread, in reused memory."""
    split = dataset.split("train")
    order = Order.of(split, GLOBAL_BATCH, WINDOW_CHUNKS, seed=1)
    settings = ReadSettings(dtype, buffers=BUFFERS)
    reader = split.batches(order, 0, GLOBAL_BATCH, settings)
    assert isinstance(reader, BatchReader)
    runs = split.samples // GLOBAL_BATCH // reader.run_steps

    def read() -> None:
        for run_number in range(runs):
            first = run_number * reader.run_steps
            reader.read_run(range(first, first + reader.run_steps))

    seconds = processor_s(read)
    reader.wipe()
    return runs * reader.run_steps * GLOBAL_BATCH * sample_bytes(dataset) / seconds / 1e6


@contextmanager
def open_feed(dataset: Dataset, dtype: str = STORED) -> Iterator[Feed]:
    """A feed with its threads, in reused memory."""
    with Feed(
        dataset,
        global_batch=GLOBAL_BATCH,
        seed=1,
        window_chunks=WINDOW_CHUNKS,
        dtype=dtype,
        reuse_batches=True,
    ) as feed:
        yield feed


def feed_rate(dataset: Dataset, dtype: str) -> float:
    """MB/s of one shuffled epoch through a feed whose caller does nothing else, after a tenth of another."""
    with open_feed(dataset, dtype) as feed:
        steps = feed.samples_per_epoch // GLOBAL_BATCH
        for _ in range(steps // 10):
            feed.next_array()

        def take() -> None:
            for _ in range(steps):
                feed.next_array()

        seconds = wall_s(take)
    return steps * GLOBAL_BATCH * sample_bytes(dataset) / seconds / 1e6


def sample_rate(dataset: Dataset) -> float:
    """MB/s of one shuffled epoch, sample by sample, after a tenth of another."""
    with open_feed(dataset) as feed:
        samples, count = feed.samples(), feed.samples_per_epoch
        deque(islice(samples, count // 10), maxlen=0)
        seconds = wall_s(lambda: deque(islice(samples, count), maxlen=0))
    return count * sample_bytes(dataset) / seconds / 1e6


def first_batch_ms(dataset: Dataset) -> float:
    """Milliseconds from making a feed to its first batch."""
    clock = SystemClock()
    began_s = clock.monotonic_s()
    with open_feed(dataset) as feed:
        feed.next_array()
        return (clock.monotonic_s() - began_s) * 1e3


def resume_ms(dataset: Dataset) -> float:
    """Milliseconds from loading the state of the middle of an epoch to the batch behind it."""
    with open_feed(dataset) as feed:
        steps = feed.samples_per_epoch // GLOBAL_BATCH // 2
        state = {**feed.state_dict(), "consumed": steps * GLOBAL_BATCH}

        def resume() -> None:
            feed.load_state_dict(state)
            feed.next_array()

        return wall_s(resume) * 1e3


def sample_bytes(dataset: Dataset) -> int:
    """The stored bytes of one sample."""
    schema = dataset.superblock.schema
    assert isinstance(schema, SampleSchema)
    return schema.sample_bytes


def amplification(dataset: Dataset, world_size: int) -> float:
    """Chunks opened by a whole world in one epoch, over the chunks there are."""
    rows, opens, chunks = GLOBAL_BATCH // world_size, 0, 0
    for rank in range(world_size):
        split = dataset.token_split("train")
        order = Order.of(split, GLOBAL_BATCH, WINDOW_CHUNKS, seed=1)
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
            "batches_one_thread": lambda: batch_rate(dataset, STORED),
            "batches_one_thread_int64": lambda: batch_rate(dataset, INT64),
            "batches": lambda: feed_rate(dataset, STORED),
            "batches_int64": lambda: feed_rate(dataset, INT64),
            "samples": lambda: sample_rate(dataset),
            "first_batch": lambda: first_batch_ms(dataset),
            "resume": lambda: resume_ms(dataset),
        }
        rates = take_turns(probes, rounds)
        opened = {size: amplification(dataset, size) for size in (1, GLOBAL_BATCH)}
    goals = {"samples": at_least(2400), "first_batch": at_most(100), "resume": at_most(50)}
    figures = {
        name: median_of(found, "ms" if name in TIMES else "MB/s", goals.get(name))
        for name, found in rates.items()
    }
    figures["batches_to_raw"] = ratio_of(rates["batches"], rates["raw_aes_gcm"], at_least(0.5))
    figures["batches_one_thread_to_raw"] = ratio_of(rates["batches_one_thread"], rates["raw_aes_gcm"])
    for size, value in opened.items():
        figures[f"read_amplification_{size}_ranks"] = Figure(value, "ratio", at_most(1.25))
    return Measured(figures, METHOD, versions_of("cryptography", "numpy"))


SIZES: Final = (
    Size("megabytes", 256, 16, "how much plaintext"),
    Size("rounds", 5, 2, "rounds of all cases"),
)

if __name__ == "__main__":
    sys.exit(run("feed", __doc__, SIZES, measure))
