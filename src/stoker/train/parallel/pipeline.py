"""Pipelines: stages of a decoder on several ranks, run by torch's schedules. See docs/design/layout.md.

A rank keeps one decoder that holds every part it owns under its name in the whole model, so that weights,
optimizer and checkpoints know nothing of stages. A stage is a shallow copy of it with the stage's parts
alone.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Final

import torch
import torch.distributed as distributed
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule
from torch.distributed.pipelining import PipelineStage
from torch.distributed.pipelining.schedules import (
    PipelineScheduleSingle,
    Schedule1F1B,
    ScheduleDualPipeV,
    ScheduleInterleaved1F1B,
    ScheduleInterleavedZeroBubble,
    ScheduleZBVZeroBubble,
)

from stoker.spec.layout import V_SCHEDULES, LayoutSpec, Schedule
from stoker.train.models.decoder import Decoder

SCHEDULES: Final[dict[Schedule, Any]] = {
    Schedule.ONE_FORWARD_ONE_BACKWARD: Schedule1F1B,
    Schedule.INTERLEAVED: ScheduleInterleaved1F1B,
    Schedule.ZERO_BUBBLE: ScheduleInterleavedZeroBubble,
    Schedule.ZBV: ScheduleZBVZeroBubble,
    Schedule.DUALPIPEV: ScheduleDualPipeV,
}


class Elsewhere(nn.Module):
    """The place of a block that another rank holds."""


def split_layers(layers: int, stages: int) -> list[range]:
    """The blocks of each stage; those left over go to the middle, since the ends have embedding and loss."""
    each, left = divmod(layers, stages)
    order = [*range(1, stages - 1), stages - 1, 0]
    sizes = [each + (stage in order[:left]) for stage in range(stages)]
    starts = [sum(sizes[:stage]) for stage in range(stages)]
    return [range(start, start + size) for start, size in zip(starts, sizes, strict=True)]


def stages_of(layout: LayoutSpec, rank: int) -> list[int]:
    """The stages that the rank `rank` of axis pp holds, in order."""
    if layout.schedule in V_SCHEDULES:
        return [rank, layout.stages - 1 - rank]
    return list(range(rank, layout.stages, layout.pp))


def cut(model: Decoder, layout: LayoutSpec, rank: int) -> tuple[Decoder, list[Decoder]]:
    """What rank `rank` of axis pp holds of a decoder on the meta device, and its stages."""
    layers = split_layers(len(model.blocks), layout.stages)
    own = stages_of(layout, rank)
    stages = [_stage(model, layers[stage], stage == 0, stage == layout.stages - 1) for stage in own]
    held = {layer for stage in own for layer in layers[stage]}
    for layer in range(len(model.blocks)):
        if layer not in held:
            model.blocks[layer] = Elsewhere()
    if 0 not in own:
        model.embedding = None
    if layout.stages - 1 not in own:
        model.norm = model.head = None
    return model, stages


def _stage(model: Decoder, layers: range, first: bool, last: bool) -> Decoder:
    stage = copy.copy(model)
    stage._modules = dict(model._modules)
    stage.blocks = nn.ModuleList(model.blocks[layer] for layer in layers)
    if not first:
        stage.embedding = None
    if not last:
        stage.norm = stage.head = None
    return stage


class Pipeline:
    """The stages of this rank and the schedule that runs them, for each shape of batch."""

    def __init__(self, stages: Sequence[Decoder], layout: LayoutSpec, mesh: DeviceMesh) -> None:
        self._stages = list(stages)
        self._layout = layout
        self._mesh = mesh
        self._indices = stages_of(layout, mesh.get_local_rank())
        self._schedules: dict[tuple[int, int, torch.dtype], Any] = {}

    @property
    def stages(self) -> Sequence[Decoder]:
        """Those of this rank, in order."""
        return self._stages

    @property
    def has_last(self) -> bool:
        """Whether this rank has the stage that gives the loss."""
        return self._layout.stages - 1 in self._indices

    @property
    def has_first(self) -> bool:
        """Whether this rank has the stage that takes tokens."""
        return 0 in self._indices

    def backward(self, tokens: Tensor, targets: Tensor, dtype: torch.dtype) -> Tensor:
        """One step's forward and backward passes; the mean loss over micro-batches, 0 without the last stage.

        `tokens` and `targets` int64 `[rows, length]` are the same on all ranks of the pipeline; `dtype` is
        the stream's between stages. Gradients are those of the mean.
        """
        schedule = self._schedule(tokens, dtype)
        losses: list[Tensor] | None = [] if self.has_last else None
        inputs = (tokens,) if self.has_first else ()
        named = {"targets": targets} if self.has_last else {}
        target = targets if self.has_last else None
        schedule.step(*inputs, target=target, losses=losses, return_outputs=False, **named)
        if losses is None:
            return torch.zeros((), device=tokens.device)
        return torch.stack([loss.detach() for loss in losses]).mean()

    def logits(self, tokens: Tensor, dtype: torch.dtype) -> Tensor:
        """Logits `[rows, length, vocabulary]` of int64 `[rows, length]` on every rank of the pipeline.

        One pass, stage after stage, for evaluation: torch's V-shaped schedules cannot leave the way back out.
        """
        rows, length = tokens.shape
        group, own = self._mesh.get_group(), self._mesh.get_local_rank()
        parts = self._layout.tp if self._layout.sequence_parallel else 1
        width, vocabulary = self._stages[0].spec.width, self._stages[0].vocabulary
        stream = tokens
        for index in range(self._layout.stages):
            holder, following = self._holder(index), self._holder((index + 1) % self._layout.stages)
            if holder == own:
                stream = self._stages[self._indices.index(index)](stream).contiguous()
            if index + 1 < self._layout.stages and holder != following:
                if own == holder:
                    distributed.send(stream, group=group, group_dst=following)
                elif own == following:
                    stream = torch.empty(rows, length // parts, width, dtype=dtype, device=tokens.device)
                    distributed.recv(stream, group=group, group_src=holder)
        last = self._holder(self._layout.stages - 1)
        if own != last:
            stream = torch.empty(rows, length, vocabulary, dtype=dtype, device=tokens.device)
        distributed.broadcast(stream, group=group, group_src=last)
        for stage in self._stages:
            for module in stage.modules():
                if isinstance(module, FSDPModule):
                    module.reshard()  # kept for a backward pass, which does not come
        return stream

    def _holder(self, index: int) -> int:
        """Which rank of axis pp has a stage."""
        return next(rank for rank in range(self._layout.pp) if index in stages_of(self._layout, rank))

    def _schedule(self, tokens: Tensor, dtype: torch.dtype) -> Any:
        rows, length = tokens.shape
        key = (rows, length, dtype)
        if key not in self._schedules:
            stages = [
                self._pipeline_stage(stage, index, tokens, dtype)
                for stage, index in zip(self._stages, self._indices, strict=True)
            ]
            made = SCHEDULES[self._layout.schedule]
            single = issubclass(made, PipelineScheduleSingle)
            self._schedules[key] = made(
                stages[0] if single else stages, self._layout.micro_batches, loss_fn=_given_loss
            )
        return self._schedules[key]

    def _pipeline_stage(
        self, stage: Decoder, index: int, tokens: Tensor, dtype: torch.dtype
    ) -> PipelineStage:
        """torch's stage with its shapes said: it would send pickles round to find them out."""
        rows, length = tokens.shape
        rows //= self._layout.micro_batches
        parts = self._layout.tp if self._layout.sequence_parallel else 1
        shape = (rows, length // parts, stage.spec.width)
        stream = torch.empty(shape, dtype=dtype, device="meta", requires_grad=True)
        loss = torch.empty((), device="meta", requires_grad=True)
        entering = torch.empty(rows, length, dtype=torch.int64, device="meta") if index == 0 else stream
        return PipelineStage(
            stage,
            index,
            self._layout.stages,
            tokens.device,
            input_args=(entering,),
            output_args=(loss if index == self._layout.stages - 1 else stream,),
            group=self._mesh.get_group(),
        )


def _given_loss(output: Tensor, _: Tensor) -> Tensor:
    """The last stage's output is its loss already."""
    return output
