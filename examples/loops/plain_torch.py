"""A plain PyTorch loop over a prepared dataset: it stops, and goes on exactly where it stopped.

    python examples/loops/plain_torch.py DATASET --purpose PURPOSE --as NAME --steps 20 --save loop.pt

Run it again with more steps: it goes on from what it saved. See docs/design/feed.md, "Use from elsewhere".
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import nn

from stoker.feed.feed import Feed
from stoker.fleet.elsewhere import open_dataset


class NextToken(nn.Module):
    """The smallest language model: the next token from this one."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, 32)
        self.head = nn.Linear(32, vocabulary)

    def loss(self, batch: torch.Tensor) -> torch.Tensor:
        """`batch` is int64 [rows, sequence + 1]; what follows each token is the next column."""
        scores = self.head(self.embed(batch[:, :-1]))
        return nn.functional.cross_entropy(scores.flatten(0, 1), batch[:, 1:].flatten())


def train(feed: Feed, steps: int, saved: Path, vocabulary: int = 1024) -> list[float]:
    """Train until `steps` steps are done in all; the losses of the steps done now."""
    torch.manual_seed(0)
    model = NextToken(vocabulary)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    done = 0
    if saved.exists():
        state = torch.load(saved, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        feed.load_state_dict(state["feed"])  # on any number of ranks that divides the global batch
        done = state["done"]
    losses = []
    for _, batch in zip(range(done, steps), feed, strict=False):
        loss = model.loss(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "feed": feed.state_dict(),
        "done": max(done, steps),
    }
    torch.save(state, saved)  # the model in plain: keep it where the data may be
    return losses


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("dataset")
    words.add_argument("--purpose", required=True)
    words.add_argument("--as", dest="actor", required=True)
    words.add_argument("--steps", type=int, default=20)
    words.add_argument("--save", type=Path, default=Path("loop.pt"))
    asked = words.parse_args()
    with (
        open_dataset(asked.dataset, purpose=asked.purpose, actor=asked.actor) as dataset,
        Feed(dataset, global_batch=8, seed=0) as feed,
    ):
        for loss in train(feed, asked.steps, asked.save):
            print(f"{loss:.4f}")


if __name__ == "__main__":
    main()
