"""The loss of a batch: mean cross-entropy of each next token. See docs/design/train-model.md."""

from __future__ import annotations

from typing import Any, Final

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

PIECE_BYTES: Final = 512 * 1024
"""How much of the logits is in fp32 at a time: about what a core's second cache holds."""


def next_token_loss(model: nn.Module, batch: Tensor) -> Tensor:
    """Mean cross-entropy in nats of each token after the first, given those before it.

    `batch` is int64 `[rows, sequence_tokens + 1]`; sums are in fp32 whatever the precision of the logits.
    """
    loss: Tensor = model(batch[:, :-1], targets=batch[:, 1:])
    return loss


class RowLosses:
    """What a step's loss is made of, kept until it is asked for: the mean loss of each row of this rank."""

    def __init__(self) -> None:
        self._kept: list[Tensor] = []

    def keep(self, each: Tensor, targets: Tensor) -> None:
        """Those of one micro-batch: of each token, fp32, in the order of `targets` `[batch, length]`."""
        self._kept.append(each.detach().view(targets.shape).mean(dim=1))

    def take(self) -> Tensor | None:
        """Of all micro-batches since the last call, fp32 `[rows]`; None where this rank has no loss."""
        kept, self._kept = self._kept, []
        return torch.cat(kept) if kept else None


class OutputHead:
    """From the normalised stream to logits or their loss, by `matrix` `[vocabulary, width]`.

    `stoker.train.parallel.vocabulary` has one for logits in chunks and for a vocabulary over several ranks.
    `rows`, where it is given, is told of each row's loss.
    """

    rows: RowLosses | None = None

    def logits(self, hidden: Tensor, matrix: Tensor) -> Tensor:
        """`[batch, length, vocabulary]` of `hidden` `[batch, length, width]`."""
        return functional.linear(hidden, matrix)

    def loss(self, hidden: Tensor, matrix: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy in nats, an fp32 scalar; `targets` int64 `[batch, length]`."""
        logits = self.logits(hidden, matrix).flatten(0, 1)
        each = self.room_for(targets)
        loss: Tensor = CrossEntropy.apply(  # type: ignore[no-untyped-call]
            logits, targets.flatten(), each
        )
        self.tell(each, targets)
        return loss

    def room_for(self, targets: Tensor) -> Tensor | None:
        """Where each token's loss is to be written, fp32; None where nobody wants to know."""
        if self.rows is None:
            return None
        return torch.empty(targets.numel(), dtype=torch.float32, device=targets.device)

    def tell(self, each: Tensor | None, targets: Tensor) -> None:
        """Each token's loss was written."""
        if self.rows is not None and each is not None and torch.is_grad_enabled():
            self.rows.keep(each, targets)


class CrossEntropy(torch.autograd.Function):
    """Mean cross-entropy whose gradient is made in the forward pass, a piece of rows at a time.

    The logits of a vocabulary are the largest tensor of a step. Here they never exist in fp32 as a whole, and
    are read once: their gradient is written where the logits' own type needs half the memory. It takes half
    the time of torch's own, on CPU in bf16 (docs/decisions/0603-loss-in-pieces.md).
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, losses: Tensor | None = None) -> Tensor:
        """`logits` `[tokens, vocabulary]`, `targets` int64 `[tokens]`; an fp32 scalar.

        `losses`, fp32 `[tokens]`, is filled with each token's own, where it is given.
        """
        tokens, vocabulary = logits.shape
        wanted = ctx.needs_input_grad[0]
        gradient = torch.empty_like(logits) if wanted else None
        piece = max(1, PIECE_BYTES // (4 * vocabulary))
        total = torch.zeros((), dtype=torch.float32, device=logits.device)
        for start in range(0, tokens, piece):
            rows = logits[start : start + piece].float()
            aim = targets[start : start + piece, None]
            rows = rows - rows.amax(dim=-1, keepdim=True)
            chosen = rows.gather(1, aim)
            sums = rows.exp_().sum(dim=-1, keepdim=True)
            own = sums.log() - chosen
            total += own.sum()
            if losses is not None:
                losses[start : start + piece] = own[:, 0]
            if gradient is not None:
                rows.mul_(1.0 / (sums * tokens))
                rows.scatter_add_(1, aim, torch.full_like(chosen, -1.0 / tokens))
                gradient[start : start + piece] = rows
        ctx.gradient = gradient
        return total / tokens

    @staticmethod
    def backward(ctx: Any, *received: Tensor) -> tuple[Tensor, None, None]:
        """The gradient made on the way forward, times what came back."""
        gradient: Tensor = ctx.gradient
        ctx.gradient = None
        return gradient.mul_(received[0].to(gradient.dtype)), None, None
