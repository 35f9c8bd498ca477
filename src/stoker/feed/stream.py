"""Batches without end for one rank, read ahead by a thread: what every feed has. See docs/design/feed.md.

A stream satisfies the stateful protocol of torchdata and of torch.distributed.checkpoint, so it can be used
without Stoker's own trainer. torch is imported when the first tensor is asked for, not before.
"""

from __future__ import annotations

import abc
import math
import os
import weakref
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, Final, Self

from stoker.core.clock import Clock, SystemClock
from stoker.feed.errors import BadFeedSetting, BadRank, BadWorldSize, FeedStopped
from stoker.feed.lease import LEASE_OVER
from stoker.feed.order import MAX_SHAPE
from stoker.feed.read_ahead import ReadAhead
from stoker.feed.shard_prefetch import ShardPrefetch
from stoker.feed.source import INT64, STORED, BatchSource, ReadSettings
from stoker.keys.partition import require_nothing

DEFAULT_WINDOW_CHUNKS: Final = 4
DEFAULT_PREFETCH_BATCHES: Final = 4
DEFAULT_READ_THREADS: Final = 2
MAX_READ_THREADS: Final = 64


class BatchStream(abc.ABC):
    """This rank's share of every global batch, in an order that no world size changes.

    `batches` reads any step; the stream counts steps, reads ahead and measures how long its caller waited.
    """

    def __init__(
        self,
        batches: BatchSource[Any],
        global_batch: int,
        prefetch_batches: int | None,
        clock: Clock | None,
        prefetch: ShardPrefetch | None = None,
        require_lease: Callable[[], None] = require_nothing,
    ) -> None:
        self._require_lease = require_lease
        self._batches = batches
        self._global_batch = global_batch
        self._clock = clock or SystemClock()
        self._consumed = 0
        self._ahead = ReadAhead(batches, prefetch_batches or DEFAULT_PREFETCH_BATCHES, prefetch)
        self._stopped = ""
        self._wait_s = 0.0
        self._last_wait_s = 0.0
        weakref.finalize(self, self._ahead.drop)  # a feed that nobody closes still wipes what it opened

    @property
    def consumed(self) -> int:
        """Samples that the whole world was given since the first epoch began."""
        return self._consumed

    @property
    def data_wait_s(self) -> float:
        """Seconds that the caller has waited for batches since this feed was made."""
        return self._wait_s

    @property
    def last_wait_s(self) -> float:
        """Seconds that the caller waited for the latest batch."""
        return self._last_wait_s

    @property
    def chunks_opened(self) -> int:
        """Chunks that this rank has opened: a share of the numerator of read amplification."""
        return self._batches.chunks_opened

    @property
    def chunks_held(self) -> int:
        """Opened chunks in memory now."""
        return self._batches.chunks_held

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        """The next share as tensors; of tokens one, int64 [global_batch / world_size, sample_tokens]."""
        return self._batches.as_tensors(self.next_array())

    def next_array(self) -> Any:
        """The next share as it was read, for use without torch; of token samples one numpy array.

        When the lease is over no batch is handed out any more, also none that was read ahead: all are
        overwritten, and LeaseExpired or LeaseRefused is raised.
        """
        try:
            self._require_lease()
        except LEASE_OVER:
            self._stop(f"lost its lease at step {self._step}")
            raise
        ready = self._ahead.ready
        if ready:
            self._last_wait_s = 0.0
            batch = ready.popleft()
        else:
            batch = self._wait()
        self._consumed += self._global_batch
        return batch

    def samples(self) -> Iterator[Any]:
        """The samples of this rank's share one by one, without end: rows of `next_array()`, which they share.

        A batch is consumed, in `state_dict()`, with its first sample. Of records, each is a dict by field.
        """
        while True:
            yield from self.next_array()

    def _wait(self) -> Any:
        if self._stopped:
            raise FeedStopped(
                f"This feed {self._stopped}.", hint="Make a new feed and load the last saved state."
            )
        began = self._clock.monotonic_s()
        try:
            batch = self._ahead.take(self._step)
        except BaseException:
            self._stop(f"has failed at step {self._step}")
            raise
        self._last_wait_s = self._clock.monotonic_s() - began
        self._wait_s += self._last_wait_s
        return batch

    @abc.abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Where the next batch begins, as JSON values. Batches that were only read ahead do not count."""

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from a saved state, whatever the world size that saved it. Raises BadFeedState."""
        consumed = self._consumed_of(state_dict)
        if self._stopped:
            raise FeedStopped(f"This feed {self._stopped}.", hint="Make a new feed and load the state there.")
        self._ahead.drop()
        self._consumed = consumed

    @abc.abstractmethod
    def _consumed_of(self, state_dict: Mapping[str, Any]) -> int:
        """The samples consumed that a state names. Raises BadFeedState unless this feed can go on from it."""

    def close(self) -> None:
        """Stop reading ahead and wipe every opened chunk. May be called again."""
        self._stop("is closed")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def _step(self) -> int:
        return self._consumed // self._global_batch

    def _stop(self, why: str) -> None:
        self._ahead.drop()
        self._stopped = self._stopped or why


def check_settings(
    global_batch: int,
    seed: int,
    window_chunks: int,
    prefetch_batches: int | None,
    reading: ReadSettings | None = None,
) -> None:
    """Raise BadFeedSetting, naming all that are out of range."""
    reading = reading or ReadSettings()
    wrong = [
        f"{name} is {value}; it must be in [{low}, {high}]"
        for name, value, low, high in (
            ("global_batch", global_batch, 1, MAX_SHAPE),
            ("window_chunks", window_chunks, 1, MAX_SHAPE),
            ("prefetch_batches", 1 if prefetch_batches is None else prefetch_batches, 1, 1024),
            ("read_threads", reading.read_threads, 0, MAX_READ_THREADS),
            ("seed", seed, 0, 2**64 - 1),
        )
        if not low <= value <= high
    ]
    if reading.dtype not in (INT64, STORED):
        wrong.append(f"dtype is {reading.dtype[:40]!r}; it must be {INT64!r} or {STORED!r}")
    if reading.pin_memory and not reading.buffers:
        wrong.append(
            "pin_memory needs reuse_batches: pinning memory for every batch costs more than it saves"
        )
    elif reading.pin_memory and not _cuda_is_there():
        wrong.append("pin_memory needs a CUDA device, and torch finds none here")
    if wrong:
        raise BadFeedSetting(f"No feed can be made: {'; '.join(wrong)}.", hint="Change the run file.")


def read_settings(
    prefetch_batches: int | None, dtype: str, read_threads: int | None, reuse_batches: bool, pin_memory: bool
) -> ReadSettings:
    """What a feed's arguments say of reading; `read_threads` None: two, and no more than there are cores."""
    threads = min(DEFAULT_READ_THREADS, os.cpu_count() or 1) if read_threads is None else read_threads
    ahead = prefetch_batches or 0
    buffers = (ahead or DEFAULT_PREFETCH_BATCHES) + 2 if reuse_batches else 0
    return ReadSettings(dtype, threads, ahead, buffers, pin_memory)


def _cuda_is_there() -> bool:
    try:
        import torch
    except ModuleNotFoundError:
        return False
    return torch.cuda.is_available()


def check_share(global_batch: int, rank: int, world_size: int) -> None:
    """Raise BadWorldSize or BadRank unless the world's ranks get equal shares and `rank` is one of them."""
    if world_size < 1 or global_batch % world_size:
        small = [size for size in range(1, math.isqrt(global_batch) + 1) if global_batch % size == 0]
        fitting = small + [global_batch // size for size in small]
        below = max((size for size in fitting if size < world_size), default=0)
        above = min((size for size in fitting if size > world_size), default=0)
        nearest = " and ".join(str(size) for size in (below, above) if size)
        raise BadWorldSize(
            f"A world size of {world_size} does not divide the global batch of {global_batch}; "
            f"the nearest that {'do' if below and above else 'does'}: {nearest}.",
            hint="Change the number of ranks, or make the global batch a multiple of it.",
        )
    if not 0 <= rank < world_size:
        raise BadRank(
            f"Rank {rank} is not in a world of {world_size}; ranks are 0 to {world_size - 1}.",
            hint="Give each process its own rank below the world size.",
        )
