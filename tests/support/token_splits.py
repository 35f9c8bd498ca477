"""Splits of token samples in memory: what a feed reads, without keys or a store."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stoker.feed.batches import BatchReader
from stoker.feed.order import Order
from stoker.feed.source import ReadSettings, Samples


class TokenSplit:
    """Rows of tokens as a split; remembers which chunks were read."""

    def __init__(self, rows: Samples, chunk_samples: int = 4) -> None:
        self.rows = rows
        self.chunk_samples = chunk_samples
        self.shard_chunks = 1
        self.chunks_read: list[int] = []

    @classmethod
    def pack(cls, tokens: Sequence[int], sequence_tokens: int, chunk_samples: int = 4) -> TokenSplit:
        """Samples of `sequence_tokens` + 1 tokens that overlap by one, as preparation packs them."""
        stream = np.array(tokens, dtype=np.uint16)
        count = (len(stream) - 1) // sequence_tokens
        rows = [stream[i * sequence_tokens : i * sequence_tokens + sequence_tokens + 1] for i in range(count)]
        return cls(np.stack(rows), chunk_samples)

    @property
    def samples(self) -> int:
        return len(self.rows)

    @property
    def sample_tokens(self) -> int:
        return int(self.rows.shape[1])

    @property
    def dtype(self) -> np.dtype:
        return self.rows.dtype

    @property
    def chunk_bytes(self) -> int:
        return self.chunk_samples * self.rows[0].nbytes

    def read_chunk_into(self, chunk: int, target: memoryview) -> int:
        samples = self.read_chunk(chunk)
        target[:] = samples.tobytes() + bytes(len(target) - samples.nbytes)
        return len(samples)

    def read_chunk(self, chunk: int) -> Samples:
        self.chunks_read.append(chunk)
        return self.rows[chunk * self.chunk_samples : (chunk + 1) * self.chunk_samples].copy()

    def wipe(self) -> None:
        return None

    def batches(self, order: Order, first: int, rows: int, settings: ReadSettings) -> BatchReader:
        return BatchReader(self, order, first, rows, settings)
