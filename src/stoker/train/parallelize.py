"""How a plain model is spread over ranks: one function, in a fixed order. See docs/design/train-model.md."""

from __future__ import annotations

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from stoker.spec.run import Precision, RunSpec
from stoker.train.models.decoder import Decoder


def parallelize(model: nn.Module, mesh: DeviceMesh, spec: RunSpec) -> nn.Module:
    """Shard every block, then the rest, over `mesh` (one axis, `dp_shard`); the model may be on meta.

    Parameters, gradients and optimizer state stay fp32. Under bf16 a block's parameters are cast when they
    are gathered, so activations and matrix products are bf16, and gradients are summed over ranks in fp32.
    """
    assert isinstance(model, Decoder)
    policy = precision_policy(spec.train.precision)
    for block in model.blocks:
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)
    return model


def precision_policy(precision: Precision) -> MixedPrecisionPolicy:
    """FSDP2's policy for a run's precision."""
    if precision is Precision.BF16:
        return MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    return MixedPrecisionPolicy()
