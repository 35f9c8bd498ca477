"""Datasets in memory that a mixture can be made of, each with numbers of its own for its samples."""

from __future__ import annotations

from dataclasses import dataclass

from stoker.feed.source import Samples
from support.memory_samples import MemoryDataset, MemorySplit

BASE = 1_000_000
"""Sample n of part i holds the tokens i · BASE + n and those that follow it."""


@dataclass
class NumberedSplit(MemorySplit):
    """A split whose samples begin at a number of their own."""

    first: int = 0

    def read_chunk(self, chunk: int) -> Samples:
        samples = super().read_chunk(chunk)
        samples += samples.dtype.type(self.first)
        return samples


@dataclass
class MixedMemoryDataset(MemoryDataset):
    """One split named "train", and the digest of a tokenizer, if it has one."""

    tokenizer: bytes | None = b"\x01" * 32

    def tokenizer_digest(self) -> bytes | None:
        return self.tokenizer


def mixed_dataset(number: int, samples: int, chunk_samples: int = 8) -> MixedMemoryDataset:
    """The dataset of part `number`."""
    split = NumberedSplit(samples, chunk_samples, first=number * BASE)
    return MixedMemoryDataset(split, root=f"{number:064x}")
