"""A decoder of the engine, its blocks and loss computed by the fused kernels. See docs/design/train-gpu.md.

Parameters, their names, FSDP's hooks, the optimizer and checkpoints stay those of the plain decoder: a
block's `forward` is replaced, which brings its matrices together when it runs. That costs one copy of the
weights a pass; merged parameters would save it, and every layout and checkpoint would have to know of them.

Imported where it is used: the kernels need Triton.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Final

import torch
from torch import Tensor, nn

from stoker.spec.layout import LayoutSpec, Recompute
from stoker.spec.run import Precision
from stoker.train.fused.block import BlockShape, FusedBlock, SmallBlock
from stoker.train.fused.loss import HeadLoss
from stoker.train.loss import OutputHead
from stoker.train.models.decoder import Block, Decoder
from stoker.train.models.moe import SwiGLU

PIECES: Final = 4
"""In how many pieces of tokens logits exist, unless the layout says more."""


class FusedHead(OutputHead):
    """The loss in pieces, with the logits' gradient in their place; logits for evaluation as they are."""

    def __init__(self, pieces: int) -> None:
        self._pieces = pieces

    def loss(self, hidden: Tensor, matrix: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy in nats, an fp32 scalar; `targets` int64 `[batch, length]`."""
        each = self.room_for(targets)
        loss: Tensor = HeadLoss.apply(  # type: ignore[no-untyped-call]
            hidden.flatten(0, 1), matrix, targets.flatten(), self._pieces, False, each
        )
        self.tell(each, targets)
        return loss


def use_fused_kernels(decoders: Iterable[nn.Module], layout: LayoutSpec, precision: Precision) -> None:
    """Let each of `decoders`, or stages of one, compute by the fused kernels; call it before FSDP."""
    for decoder in decoders:
        assert isinstance(decoder, Decoder)
        decoder.output = FusedHead(max(layout.loss_chunks, PIECES))
        keep, small = layout.recompute is not Recompute.SELECTIVE, precision is Precision.FLOAT8
        for block in decoder.blocks:
            block.forward = partial(fused_forward, block, decoder.spec.norm_epsilon, keep, small)


def fused_forward(
    block: nn.Module, epsilon: float, keep: bool, small: bool, hidden: Tensor, cosine: Tensor, sine: Tensor
) -> Tensor:
    """`Block.forward`; `keep` spends memory on what norms and SwiGLU gave, `small` multiplies in float8."""
    assert isinstance(block, Block)
    attention, feed_forward = block.attention, block.feed_forward
    assert isinstance(feed_forward, SwiGLU)
    batch, length, width = hidden.shape
    shape = BlockShape(
        heads=attention.heads,
        kv_heads=attention.kv_heads,
        length=length,
        epsilon=epsilon,
        cosine=cosine.squeeze(1).float().contiguous(),
        sine=sine.squeeze(1).float().contiguous(),
        keep=keep,
        float8=small,
    )
    merged = (
        block.attention_norm.weight,
        torch.cat((attention.query.weight, attention.key.weight, attention.value.weight)),
        attention.output.weight,
        block.feed_forward_norm.weight,
        torch.cat((feed_forward.gate.weight, feed_forward.up.weight)),
        feed_forward.down.weight,
    )
    apply = (SmallBlock if small else FusedBlock).apply
    made: Tensor = apply(hidden.reshape(-1, width), *merged, shape)  # type: ignore[no-untyped-call]
    return made.view(batch, length, width)
