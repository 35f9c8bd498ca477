"""The optimizer and its parameter groups. See docs/design/train-model.md."""

from __future__ import annotations

import torch
from torch import nn

from stoker.spec.run import TrainSpec


def build_optimizer(model: nn.Module, spec: TrainSpec) -> torch.optim.Optimizer:
    """AdamW over the model's parameters; vectors (the norms' gains) have no weight decay."""
    matrices = [parameter for parameter in model.parameters() if parameter.dim() >= 2]
    vectors = [parameter for parameter in model.parameters() if parameter.dim() < 2]
    groups = [
        {"params": matrices, "weight_decay": spec.weight_decay, "rate_scale": 1.0},
        {"params": vectors, "weight_decay": 0.0, "rate_scale": 1.0},
    ]
    return torch.optim.AdamW(groups, lr=spec.learning_rate, betas=(spec.beta1, spec.beta2), eps=1e-8)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group `rate` times its own scale."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["rate_scale"]
