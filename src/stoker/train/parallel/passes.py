"""A step's forward and backward passes over a layout, and a forward pass for evaluation.

Every rank of a data share has the same rows; the passes cut the sequence for cp, the rows into
micro-batches, and let the pipeline run where there is one. See docs/design/layout.md.
"""

from __future__ import annotations

import torch
import torch.distributed as distributed
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, Shard

from stoker.spec.run import Precision
from stoker.train.models.moe import balance_experts, scale_auxiliary_losses
from stoker.train.parallel.context import all_positions, positions
from stoker.train.parallelize import Spread


def backward(spread: Spread, batch: Tensor) -> Tensor:
    """Gradients of the mean loss over all ranks' tokens, in place; that mean, fp64, the same on every rank.

    `batch` is int64 `[rows, sequence_tokens + 1]`, the rows of this rank's data share.
    """
    layout = spread.layout
    tokens, targets = batch[:, :-1], batch[:, 1:]
    if layout.cp > 1:
        length = tokens.shape[1] // layout.cp
        own = positions(layout.context, spread.meshes.cp_rank, layout.cp, length, batch.device)
        tokens, targets = tokens[:, own], targets[:, own]
    if spread.pipeline is not None:
        # torch's schedules divide the gradients by the micro-batches, those of auxiliary losses among them.
        scale_auxiliary_losses(spread.model, 1.0 / layout.tp)
        loss = spread.pipeline.backward(tokens.contiguous(), targets.contiguous(), stream_dtype(spread))
    else:
        scale_auxiliary_losses(spread.model, 1.0 / layout.tp / layout.micro_batches)
        loss = _accumulated(spread, tokens, targets)
    return _mean(spread, loss)


def balance(model: nn.Module, spread: Spread | None) -> None:
    """Move the selection bias of every expert against the load that all ranks' tokens have put on it."""

    def sum_over_ranks(loads: Tensor) -> None:
        if spread is None:
            if distributed.is_initialized():
                distributed.all_reduce(loads)
            return
        mesh = spread.meshes.fsdp
        for axis in range(mesh.ndim):
            distributed.all_reduce(loads, group=mesh.get_group(axis))

    balance_experts(model, sum_over_ranks)


def _accumulated(spread: Spread, tokens: Tensor, targets: Tensor) -> Tensor:
    """Micro-batch by micro-batch: gradients are sharded after each, replicas meet after the last."""
    count = spread.layout.micro_batches
    total = torch.zeros((), dtype=torch.float32, device=tokens.device)
    root = spread.model
    assert isinstance(root, FSDPModule)
    for index, (piece, aims) in enumerate(
        zip(tokens.chunk(count), targets.chunk(count), strict=True), start=1
    ):
        root.set_requires_all_reduce(index == count)
        loss: Tensor = root(piece, targets=aims)
        torch.autograd.backward(loss / count)
        total += loss.detach()
    return total / count


def _mean(spread: Spread, loss: Tensor) -> Tensor:
    """Over the ranks that computed a loss; with a pipeline the others bring zero."""
    total = loss.to(torch.float64)
    distributed.all_reduce(total)
    return total / (distributed.get_world_size() // spread.layout.pp)


class Asked(nn.Module):
    """A spread model as evaluation sees it: whole logits of tokens, whatever the layout.

    `share` is which of how many shares of an evaluation's samples this rank works on.
    """

    def __init__(self, spread: Spread) -> None:
        super().__init__()
        self.inner = spread.model
        self._spread = spread
        self.share = (spread.meshes.data_rank, spread.layout.data_ranks)

    def forward(self, tokens: Tensor) -> Tensor:
        """`logits` of int64 `[rows, length]`."""
        return logits(self._spread, tokens)


def logits(spread: Spread, tokens: Tensor) -> Tensor:
    """`[rows, length, vocabulary]` of int64 `[rows, length]`, the same on every rank of a data share.

    No gradient. A sequence of any length is filled up to what the layout divides.
    """
    layout, meshes = spread.layout, spread.meshes
    length = tokens.shape[1]
    pieces = (2 * layout.cp if layout.cp > 1 else 1) * layout.tp
    local = torch.nn.functional.pad(tokens, (0, -length % pieces))
    if layout.cp > 1:
        share = local.shape[1] // layout.cp
        local = local[:, positions(layout.context, meshes.cp_rank, layout.cp, share, tokens.device)]
    with torch.no_grad():
        if spread.pipeline is None:
            found: Tensor = spread.model(local)
        else:
            found = spread.pipeline.logits(local.contiguous(), stream_dtype(spread))
    if meshes.context is not None:
        order = all_positions(layout.context, layout.cp, local.shape[1], tokens.device)
        laid = DTensor.from_local(found.contiguous(), meshes.context["cp"], [Shard(1)], run_check=False)
        whole = laid.full_tensor()
        found = torch.empty_like(whole).index_copy_(1, order, whole)
    return found[:, :length]


def stream_dtype(spread: Spread) -> torch.dtype:
    """The type of the stream between blocks."""
    return torch.float32 if spread.precision is Precision.FP32 else torch.bfloat16
