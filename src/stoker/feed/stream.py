"""Batches without end for one rank, read ahead by a thread: what every feed has. See docs/design/feed.md.

A stream satisfies the stateful protocol of torchdata and of torch.distributed.checkpoint, so it can be used
without Stoker's own trainer. torch is imported when the first tensor is asked for, not before.
"""

from __future__ import annotations

import abc
import math
import weakref
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final, Self

from stoker.core.clock import Clock, SystemClock
from stoker.feed.errors import BadFeedSetting, BadRank, BadWorldSize, FeedStopped
from stoker.feed.order import MAX_SHAPE
from stoker.feed.read_ahead import ReadAhead
from stoker.feed.source import BatchSource

DEFAULT_WINDOW_CHUNKS: Final = 4
DEFAULT_PREFETCH_BATCHES: Final = 4


class BatchStream(abc.ABC):
    """This rank's share of every global batch, in an order that no world size changes.

    `batches` reads any step; the stream counts steps, reads ahead and measures how long its caller waited.
    """

    def __init__(
        self, batches: BatchSource[Any], global_batch: int, prefetch_batches: int, clock: Clock | None
    ) -> None:
        self._batches = batches
        self._global_batch = global_batch
        self._clock = clock or SystemClock()
        self._consumed = 0
        self._ahead = ReadAhead(batches, prefetch_batches)
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
        """The next share as it was read, for use without torch; of token samples one numpy array."""
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
        self._consumed += self._global_batch
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


def check_settings(global_batch: int, seed: int, window_chunks: int, prefetch_batches: int) -> None:
    """Raise BadFeedSetting, naming all that are out of range."""
    wrong = [
        f"{name} is {value}; it must be in [{low}, {high}]"
        for name, value, low, high in (
            ("global_batch", global_batch, 1, MAX_SHAPE),
            ("window_chunks", window_chunks, 1, MAX_SHAPE),
            ("prefetch_batches", prefetch_batches, 1, 1024),
            ("seed", seed, 0, 2**64 - 1),
        )
        if not low <= value <= high
    ]
    if wrong:
        raise BadFeedSetting(f"No feed can be made: {'; '.join(wrong)}.", hint="Change the run file.")


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
