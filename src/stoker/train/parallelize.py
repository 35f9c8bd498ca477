"""How a plain model is spread over ranks: one function, in a fixed order. See docs/design/train-model.md."""

from __future__ import annotations

from typing import Final

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from stoker.spec.run import Precision, RunSpec
from stoker.train.models.decoder import Decoder

UNIT_PARAMETERS: Final = 4_000_000
"""What is gathered at once, at least: smaller blocks share a unit, for every collective has its price."""


def parallelize(model: nn.Module, mesh: DeviceMesh, spec: RunSpec) -> nn.Module:
    """Shard the blocks, unit by unit, then the rest, over `mesh` (one axis, `dp_shard`); meta is fine.

    Parameters, gradients and optimizer state stay fp32. Under bf16 a unit's parameters are cast when they
    are gathered, so activations and matrix products are bf16, and gradients are summed over ranks in fp32.
    """
    assert isinstance(model, Decoder)
    policy = precision_policy(spec.train.precision)
    for unit in units(model):
        fully_shard(unit, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)
    return model


def units(model: Decoder) -> list[list[nn.Module]]:
    """The blocks in order, as many together as have UNIT_PARAMETERS; what is left over goes with the root."""
    found: list[list[nn.Module]] = []
    open_unit: list[nn.Module] = []
    for block in model.blocks:
        open_unit.append(block)
        if (
            sum(parameter.numel() for module in open_unit for parameter in module.parameters())
            >= UNIT_PARAMETERS
        ):
            found.append(open_unit)
            open_unit = []
    return found


def precision_policy(precision: Precision) -> MixedPrecisionPolicy:
    """FSDP2's policy for a run's precision."""
    if precision is Precision.BF16:
        return MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    return MixedPrecisionPolicy()
