"""A dataset in memory, shaped as the feed room's SampleDataset, that counts what is opened and can fail."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from stoker.core.errors import StokerError
from stoker.feed.batches import BatchReader
from stoker.feed.errors import UnknownSplit
from stoker.feed.order import Order
from stoker.feed.source import ReadSettings, Samples


@dataclass
class MemorySplit:
    """Sample n holds the tokens n, n + 1, …: so that a batch's first column names its samples."""

    samples: int
    chunk_samples: int
    sample_tokens: int = 3
    failing: dict[int, StokerError] = field(default_factory=dict)
    opened: Counter[int] = field(default_factory=Counter)
    rooms: list[memoryview] = field(default_factory=list)
    wipes: int = 0
    shard_chunks: int = 1

    @property
    def chunks(self) -> int:
        return -(-self.samples // self.chunk_samples)

    @property
    def dtype(self) -> np.dtype:
        return np.dtype("<u4")

    @property
    def chunk_bytes(self) -> int:
        return self.chunk_samples * self.sample_tokens * self.dtype.itemsize + 5

    def read_chunk_into(self, chunk: int, target: memoryview) -> int:
        assert len(target) >= self.chunk_bytes
        self.rooms.append(target)
        target[:] = bytes(len(target))
        samples = self.read_chunk(chunk)
        target[: samples.nbytes] = samples.tobytes()
        return len(samples)

    def read_chunk(self, chunk: int) -> Samples:
        if chunk in self.failing:
            raise self.failing[chunk]
        self.opened[chunk] += 1
        first = chunk * self.chunk_samples
        rows = np.arange(first, min(first + self.chunk_samples, self.samples), dtype=self.dtype)
        assert rows.size, f"chunk {chunk} is not one of {self.chunks}"
        return rows[:, None] + np.arange(self.sample_tokens, dtype=self.dtype)

    def wipe(self) -> None:
        self.wipes += 1

    def batches(self, order: Order, first: int, rows: int, settings: ReadSettings) -> BatchReader:
        return BatchReader(self, order, first, rows, settings)


@dataclass
class MemoryDataset:
    """One split named "train" under a made-up root."""

    train: MemorySplit
    root: str = "ab" * 32

    def split(self, name: str) -> MemorySplit:
        if name != "train":
            raise UnknownSplit(f"no split {name}")
        return self.train


def memory_dataset(samples: int, chunk_samples: int = 8, sample_tokens: int = 3) -> MemoryDataset:
    """A dataset of `samples` samples in chunks of `chunk_samples`."""
    return MemoryDataset(MemorySplit(samples, chunk_samples, sample_tokens))
