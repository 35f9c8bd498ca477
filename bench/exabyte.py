"""A dataset of an exabyte beside one of a gigabyte: opened, resumed far inside, and read.

Run `python bench/exabyte.py`, or with `--json` for one object. See docs/design/feed.md.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import numpy as np

from measuring.command import Size, run
from measuring.exabyte_store import NAME, REVIEW, VERSION, Shape, SyntheticBackend, write
from measuring.figures import Figure, Measured, at_most, median_of, ratio_of, versions_of
from measuring.turns import show_round
from stoker.core.clock import SystemClock
from stoker.core.signing import Ed25519Signer
from stoker.feed.dataset import Dataset
from stoker.feed.feed import DEFAULT_PREFETCH_BATCHES, DEFAULT_WINDOW_CHUNKS, Feed
from stoker.feed.order import Order
from stoker.keys.open import open_backend
from stoker.keys.partition import BackendKeySource
from stoker.keys.refs import Purpose
from stoker.store.objects import ObjectStore
from stoker.store.superblock import SampleSchema

GLOBAL_BATCH: Final = 16
SEQUENCE_TOKENS: Final = 2048
SHARD_CHUNKS: Final = 256
EXABYTE_SHARDS: Final = 3_700_000_000
GIGABYTE_SHARDS: Final = 4
RESUMED_AT: Final = 10**14
"""The sample of the exabyte at which reading begins."""
SIZES: Final = {"exabyte": EXABYTE_SHARDS, "gigabyte": GIGABYTE_SHARDS}
METHOD: Final = (
    "Two datasets of 256 MiB shards, 1 MiB chunks and samples of 2,049 tokens: one of 3.7e9 shards "
    "(0.99 EB), one of 4. Nothing is stored: pages and chunks are made when they are asked for, by the same "
    "code for both, and are verified as any others; making them is part of the times of both. In each round, "
    "in turn, a new process opens the dataset (signature, superblock, top page), makes a feed of one rank "
    "with a global batch of 16 in windows of 4 chunks, resumes (the exabyte at sample 1e14, the gigabyte in "
    "the middle of its epoch) and takes batches. First batch: from opening to the first batch. Memory: what "
    "the process holds resident more than before opening, at the end. Per batch: the mean by the wall clock; "
    "medians of the rounds."
)


def shape_of(which: str) -> Shape:
    """How large it is."""
    schema = SampleSchema.fit(
        vocabulary=1 << 16,
        sample_tokens=SEQUENCE_TOKENS + 1,
        chunk_log2=20,
        samples_per_shard=SHARD_CHUNKS * 255,
    )
    return Shape(SIZES[which], schema)


def order_of(shape: Shape) -> Order:
    """The order in which it is read."""
    return Order.of(shape, GLOBAL_BATCH, DEFAULT_WINDOW_CHUNKS, seed=1)


def first_sample(shape: Shape) -> int:
    """Where reading begins: a whole global batch."""
    return min(RESUMED_AT, shape.samples // 2) // GLOBAL_BATCH * GLOBAL_BATCH


def shards_read(shape: Shape, batches: int) -> set[int]:
    """The shards of every window that the reading, and what is read ahead of it, enters."""
    order = order_of(shape)
    # A feed plans up to 4,096 samples ahead of the batch it reads, and may open the windows in it.
    samples = (batches + DEFAULT_PREFETCH_BATCHES + 1) * GLOBAL_BATCH + 3 * 4096
    start = first_sample(shape)
    placement = order.place(np.arange(start, start + samples, dtype=np.int64))
    windows = set(
        zip(*(each.tolist() for each in (placement.epoch, placement.lane, placement.window)), strict=True)
    )
    chunks_per_shard = shape.schema.chunks_per_shard
    return {block // chunks_per_shard for each in windows for block in order.blocks_of_window(*each)}


def resident_bytes() -> int:
    """What this process holds in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def read_once(which: str, batches: int) -> dict[str, Any]:
    """In a process of its own: open, resume, read; the three figures."""
    with tempfile.TemporaryDirectory() as folder:
        backend = open_backend(Path(folder).as_uri(), clock=SystemClock(), passphrase=None)
        kek = backend.create_kek(f"dataset/{NAME}/{VERSION}", Purpose.DATASET, expires_s=None)
        keys, signer = BackendKeySource(backend), Ed25519Signer.from_seed(bytes(32))
        shape = shape_of(which)
        written = write(shape, shards_read(shape, batches), keys, kek, signer)
        store = ObjectStore(SyntheticBackend(written, keys, kek))
        before_bytes = resident_bytes()
        began_s = time.perf_counter()
        dataset = Dataset.open(
            store,
            None,
            name=NAME,
            version=VERSION,
            root=written.root,
            public_key=signer.public_key,
            keys=keys,
            review_digest=REVIEW,
        )
        with Feed(dataset, global_batch=GLOBAL_BATCH, seed=1) as feed:
            state = feed.state_dict()
            consumed = first_sample(shape)
            feed.load_state_dict({**state, "consumed": consumed, "epoch": consumed // shape.samples})
            feed.next_array()
            first_s = time.perf_counter() - began_s
            taken = []
            for _ in range(batches):
                began_s = time.perf_counter()
                feed.next_array()
                taken.append(time.perf_counter() - began_s)
            held_bytes = resident_bytes() - before_bytes
    return {"first_s": first_s, "held_mb": held_bytes / 1e6, "batch_ms": sum(taken) / len(taken) * 1e3}


def measure(batches: int, rounds: int) -> Measured:
    """Every figure, in turns of both sizes."""
    found: dict[str, list[dict[str, float]]] = {which: [] for which in SIZES}
    for turn in range(rounds):
        show_round(turn, rounds)
        for which in list(SIZES)[:: 1 if turn % 2 else -1]:
            command = [sys.executable, __file__, "--one", which, str(batches)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found[which].append(json.loads(done.stdout))
    column = {
        (which, name): [each[name] for each in found[which]] for which in SIZES for name in found[which][0]
    }
    more = [
        large - small
        for large, small in zip(column["exabyte", "held_mb"], column["gigabyte", "held_mb"], strict=True)
    ]
    figures: dict[str, Figure] = {
        "exabyte_first_batch": median_of(column["exabyte", "first_s"], "s", at_most(1.0)),
        "gigabyte_first_batch": median_of(column["gigabyte", "first_s"], "s"),
        "exabyte_memory": median_of(column["exabyte", "held_mb"], "MB"),
        "gigabyte_memory": median_of(column["gigabyte", "held_mb"], "MB"),
        "memory_more": median_of(more, "MB", at_most(64.0)),
        "exabyte_batch": median_of(column["exabyte", "batch_ms"], "ms"),
        "gigabyte_batch": median_of(column["gigabyte", "batch_ms"], "ms"),
        "exabyte_to_gigabyte_batch": ratio_of(
            column["exabyte", "batch_ms"], column["gigabyte", "batch_ms"], at_most(1.2)
        ),
    }
    shape = shape_of("exabyte")
    facts = {"exabyte_bytes": shape.object_bytes, "exabyte_samples": shape.samples, "resumed_at": RESUMED_AT}
    return Measured(figures, METHOD, versions_of("cryptography", "numpy"), facts)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(read_once(sys.argv[2], int(sys.argv[3]))))
    else:
        sizes = (
            Size("batches", 1000, 20, "batches that are read"),
            Size("rounds", 5, 1, "rounds"),
        )
        sys.exit(run("exabyte", __doc__, sizes, measure))
