"""The head and its loss, a piece of the tokens at a time: the logits never exist as a whole.

See docs/design/train-gpu.md. The same function as `stoker.train.loss.next_token_loss` after the last norm.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from stoker.train.fused.kernels.entropy import cross_entropy_
from stoker.train.fused.products import FORWARD, GRADIENT, multiply, small


class HeadLoss(torch.autograd.Function):
    """Mean cross-entropy of `hidden` `[tokens, width]` by `head` `[vocabulary, width]`.

    Both gradients are made in the forward pass, piece by piece; the head's is summed in fp32. In float8 the
    logits' gradient is cast with a scale that is known beforehand: it never exceeds one token's share.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        head: Tensor,
        targets: Tensor,
        pieces: int,
        float8: bool,
        each: Tensor | None = None,
    ) -> Tensor:
        """`each`, fp32 `[tokens]`, is filled with every token's loss, where it is given."""
        tokens = hidden.shape[0]
        dhidden = torch.empty_like(hidden)
        dhead = torch.empty(head.shape, dtype=torch.float32, device=head.device)
        losses = []
        eight = small(head, FORWARD) if float8 else None
        share = 1.0 / tokens
        largest = torch.full((), share, dtype=torch.float32, device=head.device)
        size = -(-tokens // pieces)
        for start in range(0, tokens, size):
            part = slice(start, min(start + size, tokens))
            rows = hidden[part]
            if eight is None:
                logits = rows @ head.t()
                losses.append(cross_entropy_(logits, targets[part], share))
                torch.mm(logits, head, out=dhidden[part])
                _sum_into(dhead, logits, rows, first=start == 0)
                continue
            given = small(rows, FORWARD)
            logits = multiply(given.rows, given.factor, eight.rows, eight.factor, fast=True)
            losses.append(cross_entropy_(logits, targets[part], share))
            back = small(logits, GRADIENT, largest)
            dhidden[part] = multiply(back.rows, back.factor, eight.turned, eight.factor, fast=False)
            added = multiply(back.turned, back.factor, given.turned, given.factor, fast=False)
            if start == 0:
                dhead.copy_(added)
            else:
                dhead.add_(added)
        ctx.save_for_backward(dhidden, dhead)
        whole = torch.cat(losses)
        if each is not None:
            each.copy_(whole)
        return whole.mean()

    @staticmethod
    def backward(ctx: Any, *received: Tensor) -> tuple[Tensor | None, ...]:
        dhidden, dhead = ctx.saved_tensors
        return dhidden.mul_(received[0]), dhead.mul_(received[0]), None, None, None, None


def _sum_into(total: Tensor, logits: Tensor, rows: Tensor, *, first: bool) -> None:
    """`total` (fp32) becomes, or grows by, the product of bf16 `logits` turned and `rows`."""
    if total.dtype == logits.dtype:
        torch.addmm(total, logits.t(), rows, beta=0.0 if first else 1.0, out=total)
    elif first:
        torch.mm(logits.t(), rows, out_dtype=total.dtype, out=total)
    else:
        torch.addmm(total, logits.t(), rows, out_dtype=total.dtype, out=total)
