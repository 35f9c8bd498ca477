"""A step's forward and backward passes over a layout, and a forward pass for evaluation.

Every rank of a data share has the same rows; the passes cut the sequence for cp, the rows into
micro-batches, and let the pipeline run where there is one. See docs/design/layout.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as distributed
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, Shard

from stoker.spec.run import Precision
from stoker.train.models.decoder import Decoder
from stoker.train.models.moe import balance_experts, scale_auxiliary_losses
from stoker.train.objectives.objective import Batch
from stoker.train.parallel.context import all_positions, positions
from stoker.train.parallelize import Spread


def backward(spread: Spread, batch: Batch, loss_of: Callable[[nn.Module, Any], Tensor]) -> Tensor:
    """Gradients of the mean loss over all ranks' rows, in place; that mean, fp64, the same on every rank.

    `batch` is the rows of this rank's data share: of text int64 `[rows, sequence_tokens + 1]`, of other
    families columns, for `loss_of`.
    """
    layout = spread.layout
    # torch's schedules divide the gradients by the micro-batches, those of auxiliary losses among them.
    passes = 1 if layout.pp > 1 else layout.micro_batches
    scale_auxiliary_losses(spread.model, 1.0 / layout.tp / passes)
    if isinstance(spread.model, Decoder):
        assert isinstance(batch, Tensor)
        loss = _decoder_backward(spread, batch[:, :-1], batch[:, 1:])
    else:
        pieces = pieces_of(batch, layout.micro_batches)
        if spread.encoder_pipeline is not None:
            loss = spread.encoder_pipeline.backward(batch, pieces, loss_of, stream_dtype(spread))
        else:
            loss = _accumulated(spread, pieces, loss_of)
    return _mean(spread, loss)


def _decoder_backward(spread: Spread, tokens: Tensor, targets: Tensor) -> Tensor:
    layout = spread.layout
    if layout.cp > 1:
        length = tokens.shape[1] // layout.cp
        own = positions(layout.context, spread.meshes.cp_rank, layout.cp, length, tokens.device)
        tokens, targets = tokens[:, own], targets[:, own]
    if spread.pipeline is not None:
        return spread.pipeline.backward(tokens.contiguous(), targets.contiguous(), stream_dtype(spread))
    count = layout.micro_batches
    pairs = list(zip(tokens.chunk(count), targets.chunk(count), strict=True))
    return _accumulated(spread, pairs, lambda model, pair: model(pair[0], targets=pair[1]))


def pieces_of(batch: Batch, count: int) -> list[Any]:
    """A batch in `count` pieces of as many rows."""
    if isinstance(batch, Tensor):
        return list(batch.chunk(count))
    columns = {name: column.chunk(count) for name, column in batch.items()}
    return [{name: column[index] for name, column in columns.items()} for index in range(count)]


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


def _accumulated(
    spread: Spread, pieces: Sequence[Any], loss_of: Callable[[nn.Module, Any], Tensor]
) -> Tensor:
    """Micro-batch by micro-batch: gradients are sharded after each, replicas meet after the last."""
    root, total = spread.model, None
    assert isinstance(root, FSDPModule)
    for index, piece in enumerate(pieces, start=1):
        root.set_requires_all_reduce(index == len(pieces))
        loss = loss_of(root, piece)
        torch.autograd.backward(loss / len(pieces))
        total = loss.detach() if total is None else total + loss.detach()
    assert total is not None
    return total / len(pieces)


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


class AskedEncoder(nn.Module):
    """An encoder over a pipeline as its objective's evaluation sees it: the output of whole inputs."""

    def __init__(self, spread: Spread) -> None:
        super().__init__()
        self.inner = spread.model
        self._spread = spread

    def forward(self, *inputs: Tensor) -> Tensor:
        """What the model returns, the same on every rank of a data share; no gradient."""
        pipeline = self._spread.encoder_pipeline
        assert pipeline is not None
        with torch.no_grad():
            return pipeline.outputs(inputs, stream_dtype(self._spread))


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
