"""A feed inside `torch.utils.data.DataLoader`, for a trainer that asks for one.

    python examples/loops/dataloader.py DATASET --purpose PURPOSE --as NAME

The feed makes whole batches and reads ahead by itself, so the loader has batch_size=None and no workers. See
docs/design/feed.md, "Use from elsewhere".
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from stoker.feed.feed import Feed
from stoker.fleet.elsewhere import open_dataset


class FeedBatches(IterableDataset):
    """The next `steps` batches of a feed, each time it is iterated."""

    def __init__(self, feed: Feed, steps: int) -> None:
        self.feed = feed
        self.steps = steps

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[torch.Tensor]:
        if get_worker_info() is not None:
            raise RuntimeError(
                "A feed cannot be read in a DataLoader's worker: its threads and keys stay in the process "
                "that made it, and a worker hands batches over in plain through /dev/shm. Use num_workers=0: "
                "the feed reads ahead in threads of its own."
            )
        for _ in range(self.steps):
            yield next(self.feed)


def feed_loader(feed: Feed, steps: int) -> DataLoader:
    """A loader of `steps` batches. It fetches none ahead, so `feed.state_dict()` is where it is, exactly."""
    return DataLoader(FeedBatches(feed, steps), batch_size=None, num_workers=0)


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("dataset")
    words.add_argument("--purpose", required=True)
    words.add_argument("--as", dest="actor", required=True)
    asked = words.parse_args()
    with (
        open_dataset(asked.dataset, purpose=asked.purpose, actor=asked.actor) as dataset,
        Feed(dataset, global_batch=8, seed=0) as feed,
    ):
        for batch in feed_loader(feed, 3):
            print(tuple(batch.shape), batch.dtype)
        print(feed.state_dict())


if __name__ == "__main__":
    main()
