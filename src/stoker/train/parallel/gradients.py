"""The norm of a gradient whose parts lie on several meshes. See docs/design/layout.md."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
import torch.distributed as distributed
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate


def total_norm(parameters: Iterable[Tensor], pipeline_ranks: int = 1) -> Tensor:
    """The 2-norm of the whole gradient, an fp32 scalar, the same on every rank; all ranks call it.

    A rank adds up the squares of its shards, each divided by how many ranks of its stage have the same one,
    and one sum over all ranks does the rest: it does not matter which axes a parameter lies on.
    """
    ranks_of_stage = distributed.get_world_size() // pipeline_ranks
    total: Tensor | None = None
    for parameter in parameters:
        gradient = parameter.grad
        if total is None:
            total = torch.zeros((), dtype=torch.float64, device=parameter.device)
        if gradient is None:
            continue
        shards = 1
        if isinstance(gradient, DTensor):
            sizes = zip(gradient.device_mesh.shape, gradient.placements, strict=True)
            shards = math.prod(size for size, placement in sizes if not isinstance(placement, Replicate))
            gradient = gradient.to_local()
        total += gradient.detach().double().square().sum() * (shards / ranks_of_stage)
    assert total is not None, "every rank has a part of the model"
    distributed.all_reduce(total)
    return total.sqrt().float()


def clip(parameters: Iterable[Tensor], limit: float, norm: Tensor) -> None:
    """Scale every gradient by `limit / norm` where that is below one, without waiting for the norm."""
    scale = (limit / (norm + 1e-6)).clamp(max=1.0)
    for parameter in parameters:
        if parameter.grad is not None:
            gradient = parameter.grad
            local = gradient.to_local() if isinstance(gradient, DTensor) else gradient
            local.mul_(scale.to(local.device))
