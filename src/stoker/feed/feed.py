"""A dataset's split as batches without end for one rank. See docs/design/feed.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stoker.core.clock import Clock
from stoker.feed.errors import EmptySplit
from stoker.feed.order import ORDER_FORMAT, Order
from stoker.feed.source import FeedDataset, FeedSplit, ReadSettings
from stoker.feed.state import FeedState
from stoker.feed.stream import (
    DEFAULT_PREFETCH_BATCHES,
    DEFAULT_WINDOW_CHUNKS,
    BatchStream,
    check_settings,
    check_share,
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
        prefetch_batches: int = DEFAULT_PREFETCH_BATCHES,
        clock: Clock | None = None,
    ) -> None:
        check_settings(global_batch, seed, window_chunks, prefetch_batches)
        check_share(global_batch, rank, world_size)
        self._root = dataset.root
        self._split_name = split
        reader = filled_split(dataset, split)
        self._order = Order(
            samples=reader.samples,
            block_samples=reader.chunk_samples,
            lanes=global_batch,
            window_blocks=window_chunks,
            seed=seed,
        )
        rows = global_batch // world_size
        batches = reader.batches(self._order, rank * rows, rows, ReadSettings())
        super().__init__(batches, global_batch, prefetch_batches, clock)

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
            format=ORDER_FORMAT,
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
