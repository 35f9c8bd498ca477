"""The optimizer of a run and its parameter groups. See docs/design/train-model.md."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from stoker.spec.run import Optimizer, Precision, TrainSpec
from stoker.train.muon import Muon


def build_optimizer(
    model: nn.Module, spec: TrainSpec, device: torch.device | None = None
) -> torch.optim.Optimizer:
    """Muon on the blocks' matrices, AdamW on embedding, head, norms and whatever is no matrix.

    Norms and biases have no weight decay. Stacked experts and kernels are no matrices. With
    `train.optimizer` adamw, AdamW has all of them. Muon's products are made on
    `device`, or where weights lie.
    """
    muon = spec.optimizer is Optimizer.MUON
    hidden: list[Tensor] = []
    tables: list[Tensor] = []
    gains: list[Tensor] = []
    for name, parameter in model.named_parameters():
        if parameter.dim() < 2:
            gains.append(parameter)
        elif muon and parameter.dim() == 2 and name.startswith("blocks."):
            hidden.append(parameter)
        else:
            tables.append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": hidden, "weight_decay": spec.weight_decay, "rate_scale": 1.0, "orthogonalise": True},
        {"params": tables, "weight_decay": spec.weight_decay, "rate_scale": 1.0},
        {"params": gains, "weight_decay": 0.0, "rate_scale": 1.0},
    ]
    return Muon(
        groups,
        lr=spec.learning_rate,
        betas=(spec.beta1, spec.beta2),
        momentum=0.95,
        products=torch.float32 if spec.precision is Precision.FP32 else torch.bfloat16,
        device=device,
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group `rate` times its own scale."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["rate_scale"]
