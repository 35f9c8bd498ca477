"""One training step: forward, loss, backward, clipping, update. See docs/design/train-model.md."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as distributed
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from stoker.core.events import Section
from stoker.spec.run import TrainSpec
from stoker.spec.watch import OnBadStep, WatchSpec
from stoker.train.loss import next_token_loss
from stoker.train.models.moe import forget_loads
from stoker.train.objectives.objective import Batch
from stoker.train.optimizer import set_learning_rate
from stoker.train.parallel.gradients import clip, total_norm
from stoker.train.parallel.passes import backward, balance
from stoker.train.parallelize import Spread
from stoker.train.schedule import learning_rate_at
from stoker.train.watch.guard import Decision, Guard


@dataclass(frozen=True, slots=True)
class StepFigures:
    """What a step measured, the same on every rank: mean loss in nats per token; gradient norm unclipped.

    Unless `decision` is to apply it, no weight has changed.
    """

    loss: float
    grad_norm: float
    decision: Decision = Decision.APPLY


def no_section(section: Section) -> None:
    """For callers that send no heartbeats."""


def train_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    spec: TrainSpec,
    step: int,
    *,
    loss_of: Callable[[nn.Module, Any], Tensor] = next_token_loss,
    section: Callable[[Section], None] = no_section,
    guard: Guard | None = None,
    before_update: Callable[[], None] = lambda: None,
    spread: Spread | None = None,
) -> StepFigures:
    """Take step number `step` (the first is 1) on this rank's share of the global batch.

    `batch` is what `loss_of` takes, of text int64 `[rows, sequence_tokens + 1]`; every rank has as many rows,
    and the loss is their mean. `spread` is `model` with its layout, where that is more than sharded data
    parallelism. `guard` decides what becomes of a bad step; without one it raises NonFiniteLoss. Either way
    on all ranks alike, before any weight has changed; `before_update` is called when they are about to.
    """
    section(Section.COMPUTE)
    optimizer.zero_grad(set_to_none=True)
    forget_loads(model)  # of a step before that was left out, and of weights that were there before
    if spread is None:
        loss = loss_of(model, batch)
        torch.autograd.backward(loss)
        mean_loss = _mean_over_ranks(loss.detach())
        norm = _gradient_norm(model)
    else:
        mean_loss = float(backward(spread, batch, loss_of).item())
        norm = total_norm(model.parameters(), spread.layout.pp)
    grad_norm = norm.item()
    # Both figures come out of a sum over all ranks, so that all of them decide the same.
    guard = guard or Guard(WatchSpec(on_bad_step=OnBadStep.STOP))
    decision = guard.judge(step, mean_loss, grad_norm)
    if decision is Decision.STOP:
        raise guard.error(step, mean_loss, grad_norm)
    if decision is not Decision.APPLY:
        optimizer.zero_grad(set_to_none=True)
        return StepFigures(mean_loss, grad_norm, decision)
    section(Section.OPTIMIZER)
    if spread is None:
        torch.nn.utils.clip_grads_with_norm_(list(model.parameters()), spec.gradient_clip, norm)
    else:
        clip(model.parameters(), spec.gradient_clip, norm)
    set_learning_rate(optimizer, learning_rate_at(step, spec))
    before_update()
    optimizer.step()
    balance(model, spread)
    return StepFigures(mean_loss, grad_norm)


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
