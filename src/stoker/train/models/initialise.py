"""Deterministic first weights, the same whatever the sharding. See docs/design/train-model.md.

Each parameter has its own random generator, seeded by the run's seed and the parameter's name; every rank
draws the whole parameter, one at a time, and keeps its share. No rank needs another, and a different world
size starts from the same weights.
"""

from __future__ import annotations

import hashlib
import math
from typing import Final

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from stoker.train.models.decoder import Decoder

RESIDUAL_OUTPUTS: Final = ("attention.output.weight", "feed_forward.down.weight")
"""Matrices that write into the residual stream; they start smaller, so that depth does not make it grow."""


def materialise(model: nn.Module, seed: int, device: torch.device) -> nn.Module:
    """Give a model on the meta device storage and its first weights; call it after `parallelize`."""
    assert isinstance(model, Decoder)
    model.to_empty(device=device)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            whole = _first_weights(name, parameter.shape, seed, model.spec.layers)
            if isinstance(parameter, DTensor):
                # src_data_rank=None: every rank cuts its own share; nothing is sent.
                share = distribute_tensor(
                    whole.to(device), parameter.device_mesh, parameter.placements, src_data_rank=None
                )
                parameter.copy_(share)
            else:
                parameter.copy_(whole)
    return model


def _first_weights(name: str, shape: torch.Size, seed: int, layers: int) -> Tensor:
    """Norms at one; matrices normal with deviation 1/sqrt(columns), residual outputs over sqrt(2 layers)."""
    if len(shape) == 1:
        return torch.ones(shape)
    deviation = 1.0 / math.sqrt(shape[1])
    if name.endswith(RESIDUAL_OUTPUTS):
        deviation /= math.sqrt(2 * layers)
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    generator = torch.Generator(device="cpu").manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    return torch.empty(shape).normal_(0.0, deviation, generator=generator)
