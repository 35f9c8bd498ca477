"""Deterministic first weights, the same whatever the sharding. See docs/design/train-model.md.

Each parameter has its own random generator, seeded by the run's seed and the parameter's name; every rank
draws the whole parameter, one at a time, and keeps its share. No rank needs another, and a different world
size starts from the same weights.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from stoker.train.models.moe import GroupedExperts


def materialise(model: nn.Module, seed: int, device: torch.device) -> nn.Module:
    """Give a model on the meta device storage and its first weights; call it after `parallelize`.

    The model says `spec.layers` and `residual_outputs`, the ends of the names of matrices that write into the
    residual stream. A module with buffers has `reset_buffers()`, which fills them.
    """
    layers: int = model.spec.layers  # type: ignore[union-attr, assignment]
    residual: tuple[str, ...] = model.residual_outputs  # type: ignore[assignment]
    model.to_empty(device=device)
    with torch.no_grad():
        for name, module, parameter in _parameters(model):
            depth = 2 * layers if name.endswith(residual) else 1
            if isinstance(module, GroupedExperts):
                # One generator an expert: which experts are on a rank changes none of them.
                shape = parameter.shape[1:]
                whole = torch.stack(
                    [
                        _first_weights(f"{seed}/{name}/{expert}", shape, depth)
                        for expert in range(len(parameter))
                    ]
                )
            else:
                whole = _first_weights(f"{seed}/{name}", parameter.shape, depth)
            if isinstance(parameter, DTensor):
                # src_data_rank=None: every rank cuts its own share; nothing is sent.
                share = distribute_tensor(
                    whole.to(device), parameter.device_mesh, parameter.placements, src_data_rank=None
                )
                parameter.copy_(share)
            else:
                parameter.copy_(whole)
        for module in model.modules():
            reset = getattr(module, "reset_buffers", None)
            if reset is not None:
                reset()
    return model


def _parameters(model: nn.Module) -> Iterator[tuple[str, nn.Module, nn.Parameter]]:
    """Every parameter with its full name and the module that holds it."""
    for prefix, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            yield f"{prefix}.{name}" if prefix else name, module, parameter


def _first_weights(seed: str, shape: torch.Size, depth: int) -> Tensor:
    """Biases at zero, other vectors (norms) at one; matrices and kernels normal, as small as they are wide.

    The deviation is 1/sqrt(products summed into one result), over sqrt(`depth`).
    """
    if len(shape) == 1:
        return torch.zeros(shape) if seed.endswith("bias") else torch.ones(shape)
    deviation = 1.0 / math.sqrt(math.prod(shape[1:]))
    if depth > 1:
        deviation /= math.sqrt(depth)
    digest = hashlib.sha256(seed.encode()).digest()
    generator = torch.Generator(device="cpu").manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    return torch.empty(shape).normal_(0.0, deviation, generator=generator)
