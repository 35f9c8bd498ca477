"""What a feed needs of a dataset, and what reads batches out of it. See docs/design/feed.md, "The seam"."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeAlias, TypeVar, runtime_checkable

import numpy as np
import numpy.typing as npt

from stoker.feed.order import Order

Integers: TypeAlias = npt.NDArray[np.int64]

Samples: TypeAlias = npt.NDArray[np.unsignedinteger[Any]]
"""Rows of tokens, [rows, sample_tokens], in the type they are stored in."""

B = TypeVar("B")

INT64: Final = "int64"
STORED: Final = "stored"


@dataclass(frozen=True, slots=True)
class ReadSettings:
    """How batches are to be read. None of it changes which samples a batch has."""

    dtype: str = INT64
    """INT64, or STORED: the type that the dataset keeps its tokens in."""
    read_threads: int = 0
    """Threads that open chunks before they are needed. 0: the caller opens them, each when it is needed."""
    prefetch_batches: int = 0
    """How many batches at most are read ahead of the one in use. 0: a few, and more of small ones."""
    buffers: int = 0
    """How many batches are valid at once; then their memory is used again. 0: each has memory of its own."""
    pin_memory: bool = False
    """Whether the buffers are page-locked for a CUDA device."""


class BatchSource(Protocol[B]):
    """Reads one rank's share of the global batch of any step, best in ascending steps, for one thread."""

    @property
    def chunks_opened(self) -> int:
        """Chunks opened since the beginning: a share of the numerator of read amplification."""
        ...

    @property
    def chunks_held(self) -> int:
        """Opened chunks in memory now."""
        ...

    def read(self, step: int) -> B:
        """The share of step `step`. Raises what opening a chunk raises."""
        ...

    def wipe(self) -> None:
        """Overwrite every opened chunk and forget every key. Reading may go on, from any step."""
        ...

    def wipe_batch(self, batch: B) -> None:
        """Overwrite a batch that nobody took."""
        ...

    def as_tensors(self, batch: B) -> Any:
        """The batch as torch tensors over the same memory. Raises MissingExtra without torch."""
        ...


@runtime_checkable
class RunSource(BatchSource[B], Protocol[B]):
    """A BatchSource that is faster when it reads some steps at once."""

    @property
    def run_steps(self) -> int:
        """How many steps at once."""
        ...

    @property
    def runs_ahead(self) -> int:
        """How many runs may be read and not yet in use; then the oldest's memory may be used again."""
        ...

    def read_run(self, steps: range) -> tuple[list[B], BaseException | None]:
        """The shares of `steps`, which follow the last ones; on an error those before it, and the error."""
        ...


class FeedSplit(Protocol):
    """A split as a feed sees it: a number of samples, in blocks that are opened whole, and their reader."""

    @property
    def samples(self) -> int:
        """How many samples (or records) there are."""
        ...

    @property
    def chunk_samples(self) -> int:
        """The samples of each block but the last, which may be shorter: the order's `block_samples`."""
        ...

    @property
    def shard_chunks(self) -> int:
        """The blocks of each shard but the last: what the order deals together where shards are many."""
        ...

    def batches(self, order: Order, first: int, rows: int, settings: ReadSettings) -> BatchSource[Any]:
        """A reader of positions [first, first + rows) of every global batch in `order`."""
        ...


class SampleSplit(FeedSplit, Protocol):
    """A split as chunks of samples; sample n is row n mod `chunk_samples` of chunk n div `chunk_samples`."""

    @property
    def sample_tokens(self) -> int:
        """The tokens of one sample: a sequence, and one more, which also begins the next sample."""
        ...

    @property
    def dtype(self) -> np.dtype[np.unsignedinteger[Any]]:
        """The type that tokens are stored in."""
        ...

    @property
    def chunk_bytes(self) -> int:
        """The room that `read_chunk_into` needs: at least `chunk_samples` samples."""
        ...

    def read_chunk(self, chunk: int) -> Samples:
        """The verified samples of one chunk, in an array that is the caller's to overwrite."""
        ...

    def read_chunk_into(self, chunk: int, target: memoryview) -> int:
        """The verified samples, side by side from the beginning of `target`; says how many. For any thread.

        `target` has `chunk_bytes` or more; nothing that it held before is left in it, also after an error.
        """
        ...

    def wipe(self) -> None:
        """Wipe the keys and buffers that reading needed. Reading may go on, and then opens them anew."""
        ...


class FeedDataset(Protocol):
    """A dataset as a feed sees it."""

    @property
    def root(self) -> str:
        """The manifest root that names this version, 64 hexadecimal digits."""
        ...

    def split(self, name: str) -> FeedSplit:
        """A reader of its own of one split. Raises UnknownSplit."""
        ...


class SampleDataset(FeedDataset, Protocol):
    """A dataset whose splits are all of fixed-length token samples."""

    def split(self, name: str) -> SampleSplit:
        """A reader of its own of one split. Raises UnknownSplit."""
        ...
