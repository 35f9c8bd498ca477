"""The loss of the last matrix without its logits: in chunks of tokens, over a vocabulary on several ranks.

Of a chunk of tokens the logits exist, become their own gradient, and are gone; the gradients of the stream
and of the matrix are made on the way forward, since nothing else of the logits is needed. With the
vocabulary spread over tp each rank has its rows of the matrix, and the ranks agree on the greatest logit and
on the sum of exponentials (Shoeybi et al. 2019). See docs/design/layout.md.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as distributed
import torch.nn.functional as functional
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard

from stoker.train.loss import OutputHead
from stoker.train.parallel.tensor import gathered


class SpreadHead(OutputHead):
    """`chunks`: in how many pieces of tokens logits exist; `mesh`: the axis tp over which the vocabulary
    lies.

    With `sequence_parallel` the stream comes as each rank's share of the sequence.
    """

    def __init__(self, chunks: int, mesh: DeviceMesh | None, *, sequence_parallel: bool) -> None:
        self._chunks = chunks
        self._mesh = mesh
        self._stream = Shard(1) if sequence_parallel else Replicate()

    def logits(self, hidden: Tensor, matrix: Tensor) -> Tensor:
        """`[batch, length, vocabulary]`, the whole on every rank; for evaluation, not for a training step."""
        if self._mesh is None:
            return functional.linear(hidden, matrix)
        hidden, rows = gathered(hidden, self._mesh, self._stream), _local(matrix)
        share = DTensor.from_local(functional.linear(hidden, rows), self._mesh, [Shard(2)], run_check=False)
        return share.full_tensor()

    def loss(self, hidden: Tensor, matrix: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy in nats, an fp32 scalar, the same on every rank of tp."""
        group, first = None, 0
        if self._mesh is not None:
            hidden, matrix = gathered(hidden, self._mesh, self._stream), _local(matrix)
            group, first = self._mesh.get_group(), self._mesh.get_local_rank() * matrix.shape[0]
        each = self.room_for(targets)
        loss: Tensor = LinearCrossEntropy.apply(  # type: ignore[no-untyped-call]
            hidden.flatten(0, 1), matrix, targets.flatten(), self._chunks, group, first, each
        )
        self.tell(each, targets)
        return loss


class LinearCrossEntropy(torch.autograd.Function):
    """Mean cross-entropy of `hidden @ matrix.T`, gradients made in the forward pass, chunk by chunk."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        matrix: Tensor,
        targets: Tensor,
        chunks: int,
        group: distributed.ProcessGroup | None,
        first: int,
        losses: Tensor | None = None,
    ) -> Tensor:
        """`hidden` `[tokens, width]`, `matrix` `[rows, width]`: this rank's rows of the vocabulary, from
        `first`.

        `targets` int64 `[tokens]`; an fp32 scalar. `losses`, fp32 `[tokens]`, is filled with each token's
        own, where it is given.
        """
        tokens = hidden.shape[0]
        wanted = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        hidden_gradient = torch.empty_like(hidden) if wanted else None
        # Summed over chunks in fp32: in bf16 the sum would lose what a late chunk adds.
        matrix_gradient = torch.zeros_like(matrix, dtype=torch.float32) if wanted else None
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        pieces = zip(
            hidden.tensor_split(chunks),
            targets.tensor_split(chunks),
            [None] * chunks if hidden_gradient is None else hidden_gradient.tensor_split(chunks),
            [None] * chunks if losses is None else losses.tensor_split(chunks),
            strict=True,
        )
        for piece, aims, out, own in pieces:
            if not len(piece):
                continue
            each, gradient = _cross_entropy(functional.linear(piece, matrix), aims, group, first)
            total += each.sum()
            if own is not None:
                own.copy_(each)
            if out is not None and matrix_gradient is not None:
                scaled = gradient.div_(tokens).to(hidden.dtype)
                torch.mm(scaled, matrix, out=out)
                matrix_gradient += scaled.T @ piece
        if hidden_gradient is not None and matrix_gradient is not None:
            ctx.save_for_backward(hidden_gradient, matrix_gradient.to(matrix.dtype))
        return total / tokens

    @staticmethod
    def backward(ctx: Any, *received: Tensor) -> tuple[Tensor, Tensor, None, None, None, None, None]:
        """The gradients made on the way forward, times what came back.

        They are kept as they are: a zero-bubble pipeline asks twice, for the input's and for the weight's.
        """
        hidden, matrix = ctx.saved_tensors
        scale = received[0]
        return hidden * scale.to(hidden.dtype), matrix * scale.to(matrix.dtype), None, None, None, None, None


def _cross_entropy(
    logits: Tensor, targets: Tensor, group: distributed.ProcessGroup | None, first: int
) -> tuple[Tensor, Tensor]:
    """Each token's loss, and the gradient of their sum, `[tokens, rows]` in fp32, of this rank's columns."""
    rows = logits.float()
    greatest = rows.amax(dim=-1, keepdim=True)
    if group is not None:
        distributed.all_reduce(greatest, distributed.ReduceOp.MAX, group)
    rows = rows - greatest
    places = targets - first
    ours = ((places >= 0) & (places < rows.shape[1])).unsqueeze(1)
    places = places.clamp(0, rows.shape[1] - 1).unsqueeze(1)
    chosen = rows.gather(1, places).masked_fill_(~ours, 0.0)
    sums = rows.exp_().sum(dim=-1, keepdim=True)
    if group is not None:
        both = torch.cat((sums, chosen), dim=1)
        distributed.all_reduce(both, group=group)
        sums, chosen = torch.split(both, 1, dim=1)
    losses = (sums.log() - chosen).squeeze(1)
    gradient = rows.div_(sums)
    gradient.scatter_add_(1, places, ours.to(gradient.dtype).neg_())
    return losses, gradient


def _local(matrix: Tensor) -> Tensor:
    return matrix.to_local() if isinstance(matrix, DTensor) else matrix
