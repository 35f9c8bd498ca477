"""One training step: forward, loss, backward, clipping, update. See docs/design/train-model.md."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as distributed
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from stoker.core.errors import StokerError
from stoker.core.events import Section
from stoker.spec.run import TrainSpec
from stoker.train.loss import next_token_loss
from stoker.train.optimizer import set_learning_rate
from stoker.train.schedule import learning_rate_at


class NonFiniteLoss(StokerError):
    """A step whose loss or gradient is NaN or infinite; its update was not applied."""

    exit_code = 121


@dataclass(frozen=True, slots=True)
class StepFigures:
    """What a step measured, the same on every rank: mean loss in nats per token; gradient norm unclipped."""

    loss: float
    grad_norm: float


def no_section(section: Section) -> None:
    """For callers that send no heartbeats."""


def train_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Tensor,
    spec: TrainSpec,
    step: int,
    *,
    section: Callable[[Section], None] = no_section,
) -> StepFigures:
    """Take step number `step` (the first is 1) on this rank's share of the global batch.

    `batch` is int64 `[rows, sequence_tokens + 1]`; every rank has as many rows. Raises NonFiniteLoss on all
    ranks alike, before any weight has changed.
    """
    section(Section.COMPUTE)
    optimizer.zero_grad(set_to_none=True)
    loss = next_token_loss(model, batch)
    torch.autograd.backward(loss)
    mean_loss = _mean_over_ranks(loss.detach())
    norm = _gradient_norm(model)
    if not (math.isfinite(mean_loss) and math.isfinite(norm.item())):
        # Both figures come out of a sum over all ranks, so that all of them decide the same.
        raise NonFiniteLoss(
            f"Step {step}: the loss is {mean_loss} and the gradient norm {norm.item()}; both must be finite. "
            "No weight was changed by this step.",
            hint="Lower train.learning_rate or lengthen train.warmup_steps; the last checkpoint is kept.",
        )
    section(Section.OPTIMIZER)
    torch.nn.utils.clip_grads_with_norm_(list(model.parameters()), spec.gradient_clip, norm)
    set_learning_rate(optimizer, learning_rate_at(step, spec))
    optimizer.step()
    return StepFigures(loss=mean_loss, grad_norm=norm.item())


def _mean_over_ranks(value: Tensor) -> float:
    value = value.to(torch.float64)
    if distributed.is_initialized():
        distributed.all_reduce(value)
        value = value / distributed.get_world_size()
    return float(value.item())


def _gradient_norm(model: nn.Module) -> Tensor:
    """The 2-norm of the whole gradient, over every shard on every rank."""
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm
