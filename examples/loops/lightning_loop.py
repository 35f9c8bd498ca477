"""A feed under Lightning's Trainer: a data module whose state makes a resume exact.

    python examples/loops/lightning_loop.py DATASET --purpose PURPOSE --as NAME --steps 20

See docs/design/feed.md, "Use from elsewhere".
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from dataloader import feed_loader
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from plain_torch import NextToken
from torch.utils.data import DataLoader

from stoker.feed.feed import Feed
from stoker.fleet.elsewhere import open_dataset


class FeedModule(LightningDataModule):
    """Lightning saves and loads its state with the model's. The loader has a length, so that Lightning does
    not fetch a batch to see whether there is one more, and the feed's state is that of the last step.
    """

    def __init__(self, feed: Feed, steps: int) -> None:
        super().__init__()
        self.feed = feed
        self.steps = steps

    def train_dataloader(self) -> DataLoader:
        return feed_loader(self.feed, self.steps)

    def state_dict(self) -> dict[str, Any]:
        return self.feed.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.feed.load_state_dict(state_dict)


class Learner(LightningModule):
    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.model = NextToken(vocabulary)
        self.losses: list[float] = []

    def training_step(self, batch: torch.Tensor, _number: int) -> torch.Tensor:
        loss = self.model.loss(batch)
        self.losses.append(loss.item())
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


def train(feed: Feed, steps: int, saved: Path, planned: int = 20, vocabulary: int = 1024) -> list[float]:
    """Train until `steps` of `planned` steps are done in all; the losses of the steps done now."""
    torch.manual_seed(0)
    learner = Learner(vocabulary)
    trainer = Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(learner, datamodule=FeedModule(feed, planned), ckpt_path=saved if saved.exists() else None)
    trainer.save_checkpoint(saved)  # the model in plain: keep it where the data may be
    return learner.losses


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("dataset")
    words.add_argument("--purpose", required=True)
    words.add_argument("--as", dest="actor", required=True)
    words.add_argument("--steps", type=int, default=20)
    words.add_argument("--save", type=Path, default=Path("loop.ckpt"))
    asked = words.parse_args()
    with (
        open_dataset(asked.dataset, purpose=asked.purpose, actor=asked.actor) as dataset,
        Feed(dataset, global_batch=8, seed=0) as feed,
    ):
        for loss in train(feed, asked.steps, asked.save, planned=max(20, asked.steps)):
            print(f"{loss:.4f}")


if __name__ == "__main__":
    main()
