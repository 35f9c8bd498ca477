"""Cross-entropy whose gradient replaces the logits. See docs/design/train-gpu.md."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from stoker.train.fused.kernels.launch import warps


@triton.jit  # type: ignore[untyped-decorator]
def _cross_entropy(
    logits_at: Any, targets_at: Any, loss_at: Any, share: Any, vocabulary: tl.constexpr, BLOCK: tl.constexpr
) -> None:
    row = tl.program_id(0).to(tl.int64)
    begin = logits_at + row * vocabulary
    lanes = tl.arange(0, BLOCK)
    largest = tl.full((BLOCK,), -float("inf"), dtype=tl.float32)
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    for start in range(0, vocabulary, BLOCK):
        columns = start + lanes
        value = tl.load(begin + columns, mask=columns < vocabulary, other=-float("inf")).to(tl.float32)
        higher = tl.maximum(largest, value)
        # Lanes past the end never hold anything but -inf; they take part as exp(-inf) = 0.
        total = total * tl.where(higher == largest, 1.0, tl.exp(largest - higher)) + tl.where(
            value == -float("inf"), 0.0, tl.exp(value - higher)
        )
        largest = higher
    top = tl.max(largest, 0)
    whole = tl.sum(tl.where(largest == -float("inf"), 0.0, total * tl.exp(largest - top)), 0)
    target = tl.load(targets_at + row)
    tl.store(loss_at + row, tl.log(whole) + top - tl.load(begin + target).to(tl.float32))
    tl.debug_barrier()
    for start in range(0, vocabulary, BLOCK):
        columns = start + lanes
        inside = columns < vocabulary
        value = tl.load(begin + columns, mask=inside, other=-float("inf")).to(tl.float32)
        gradient = tl.exp(value - top) / whole - tl.where(columns == target, 1.0, 0.0)
        tl.store(begin + columns, gradient * share, mask=inside)


def cross_entropy_(logits: Tensor, targets: Tensor, share: float) -> Tensor:
    """Losses in nats of `[rows, vocabulary]` logits; these become, in place, `share` times their gradient."""
    rows, vocabulary = logits.shape
    losses = torch.empty(rows, dtype=torch.float32, device=logits.device)
    block = min(16384, triton.next_power_of_2(vocabulary))
    _cross_entropy[(rows,)](
        logits, targets, losses, share, vocabulary, BLOCK=block, num_warps=min(32, warps(block))
    )
    return losses
