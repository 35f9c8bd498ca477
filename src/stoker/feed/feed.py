"""A dataset's split as batches without end for one rank. See docs/design/feed.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stoker.core.clock import Clock, SystemClock
from stoker.feed.errors import EmptySplit
from stoker.feed.lease import lease_of_splits
from stoker.feed.order import Order
from stoker.feed.shard_prefetch import DEFAULT_SHARDS_AHEAD_S, prefetch_of
from stoker.feed.source import INT64, FeedDataset, FeedSplit
from stoker.feed.state import FeedState
from stoker.feed.stream import (
    DEFAULT_PREFETCH_BATCHES,
    DEFAULT_WINDOW_CHUNKS,
    BatchStream,
    check_settings,
    check_share,
    read_settings,
)

__all__ = ["DEFAULT_PREFETCH_BATCHES", "DEFAULT_WINDOW_CHUNKS", "Feed", "filled_split"]


class Feed(BatchStream):
    """This rank's share of every global batch, in an order that no world size changes.

    Iterating never ends; epochs follow each other. Raises BadFeedSetting, BadWorldSize, BadRank or EmptySplit
    when made; while iterating, what opening a chunk raises, at the step that needs the chunk.
    """

    def __init__(
        self,
        dataset: FeedDataset,
        *,
        split: str = "train",
        global_batch: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        window_chunks: int = DEFAULT_WINDOW_CHUNKS,
        prefetch_batches: int | None = None,
        dtype: str = INT64,
        read_threads: int | None = None,
        reuse_batches: bool = False,
        pin_memory: bool = False,
        shards_ahead_s: float = DEFAULT_SHARDS_AHEAD_S,
        clock: Clock | None = None,
    ) -> None:
        """How it reads changes no sample. `prefetch_batches`: at most so many are ready before they are asked
        for; None: 4, or as many as fill 4 MiB. `dtype`: "int64", or "stored" for tokens as the dataset keeps
        them, uint16 or uint32. `read_threads` open chunks: None: 2, or as many as there are cores.
        `reuse_batches`: a batch is valid until the next is asked for or the feed is closed, and its memory is
        used again; `pin_memory`: that memory is page-locked, which needs a CUDA device.
        `shards_ahead_s`: shards of so many seconds to come are brought into the node's cache; 0: none.
        """
        reading = read_settings(prefetch_batches, dtype, read_threads, reuse_batches, pin_memory)
        check_settings(global_batch, seed, window_chunks, prefetch_batches, reading)
        check_share(global_batch, rank, world_size)
        self._root = dataset.root
        self._split_name = split
        reader = filled_split(dataset, split)
        self._order = Order.of(reader, global_batch, window_chunks, seed)
        rows = global_batch // world_size
        batches = reader.batches(self._order, rank * rows, rows, reading)
        clock = clock or SystemClock()
        prefetch = prefetch_of([reader], [self._order], rank * rows, rows, shards_ahead_s, clock)
        lease = lease_of_splits([reader])
        super().__init__(batches, global_batch, prefetch_batches, clock, prefetch, lease)

    @property
    def samples_per_epoch(self) -> int:
        """The samples of one epoch: the whole split."""
        return self._order.samples

    @property
    def epoch(self) -> int:
        """The epoch of the next sample."""
        return self._consumed // self._order.samples

    def state_dict(self) -> dict[str, Any]:
        """Where the next batch begins, as JSON values. Batches that were only read ahead do not count."""
        return self._state().as_dict()

    def _consumed_of(self, state_dict: Mapping[str, Any]) -> int:
        state = FeedState.from_dict(state_dict)
        state.check_fits(self._state(), self._order.samples)
        return state.consumed

    def _state(self) -> FeedState:
        return FeedState(
            format=self._order.format,
            root=self._root,
            split=self._split_name,
            seed=self._order.seed,
            global_batch=self._order.lanes,
            window_chunks=self._order.window_blocks,
            epoch=self.epoch,
            consumed=self._consumed,
        )


def filled_split(dataset: FeedDataset, name: str) -> FeedSplit:
    """The split of that name, which has samples. Raises UnknownSplit, EmptySplit."""
    split = dataset.split(name)
    if split.samples < 1:
        raise EmptySplit(
            f"Split {name!r} of the dataset {dataset.root[:16]}… has no samples.",
            hint="Prepare the dataset from more text, or choose another split.",
        )
    return split
