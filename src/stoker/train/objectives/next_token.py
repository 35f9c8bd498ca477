"""What a decoder learns: each next token. See docs/design/train-model.md."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from stoker.train.loss import next_token_loss
from stoker.train.objectives.objective import Batch, Gather, UnfitBatch, check_labels


class NextToken:
    """Mean cross-entropy in nats of each token of a row after its first."""

    def __init__(self, vocabulary: int) -> None:
        self._vocabulary = vocabulary

    def check(self, batch: Batch) -> None:
        """Raise UnfitBatch unless the batch is int64 `[rows, tokens]` of the vocabulary."""
        if not isinstance(batch, Tensor):
            raise UnfitBatch(
                f"[model] takes packed tokens; this dataset has columns {', '.join(sorted(batch))}.",
                hint="Name a dataset of text, or train a [vision], [speech] or [moderation] model.",
            )
        check_labels("tokens", batch, self._vocabulary)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The mean over the batch, an fp32 scalar."""
        return next_token_loss(model, _tokens(batch))

    def evaluate(self, model: nn.Module, batches: Iterable[Batch], gather: Gather) -> dict[str, float]:
        """`loss` in nats per token, and `perplexity`; bits per byte are `stoker.train.evaluate`'s."""
        with torch.no_grad():
            losses = [next_token_loss(model, _tokens(batch)).view(1) for batch in batches]
        mean = float(gather(torch.cat(losses)).double().mean())
        return {"loss": mean, "perplexity": math.exp(mean) if mean < 700 else math.inf}


def _tokens(batch: Batch) -> Tensor:
    assert isinstance(batch, Tensor)
    return batch
