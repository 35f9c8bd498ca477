"""Pipelines of encoders: models that enter, go through blocks and leave. See docs/design/layout.md.

The objective knows nothing of stages: what it gives the model is what the first stage takes, and it is asked
again for the loss of what the last stage returns.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.distributed as distributed
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule
from torch.distributed.pipelining import PipelineStage
from torch.distributed.pipelining.schedules import PipelineScheduleSingle

from stoker.spec.layout import LayoutSpec
from stoker.train.objectives.objective import Batch
from stoker.train.parallel.encoder_context import SharedPositions
from stoker.train.parallel.pipeline import SCHEDULES, Elsewhere, split_layers, stages_of


class Given(Exception):
    """Carries what an objective gave a model, out of its `loss`."""

    def __init__(self, inputs: tuple[Tensor, ...]) -> None:
        super().__init__()
        self.inputs = inputs


class Asking(nn.Module):
    """Stands for the model to find out what it would be given."""

    def forward(self, *inputs: Tensor) -> Tensor:
        """Raises Given."""
        raise Given(inputs)


class Answering(nn.Module):
    """Stands for the model with an output that is there already."""

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self._output = output

    def forward(self, *inputs: Tensor) -> Tensor:
        """The output, whatever the inputs."""
        return self._output


def cut_encoder(
    model: nn.Module, layout: LayoutSpec, rank: int, positions: SharedPositions | None
) -> tuple[nn.Module, list[nn.Module]]:
    """What rank `rank` of axis pp holds of an encoder on the meta device, and its stages.

    The model names in `entry` and `exit` what the first and the last stage have beside blocks. `positions`:
    this rank's, where they lie over cp.
    """
    blocks = model.blocks
    assert isinstance(blocks, nn.ModuleList)
    layers = split_layers(len(blocks), layout.stages)
    own, last = stages_of(layout, rank), layout.stages - 1
    stages = []
    for index in own:
        stage = copy.copy(model)
        stage._modules = dict(model._modules)
        # Parameters of the model itself belong to entering: FSDP replaces them in whatever holds them.
        stage._parameters = model._parameters if index == 0 else dict(model._parameters)
        stage.blocks = nn.ModuleList(blocks[layer] for layer in layers[index])
        _leave_out(stage, index == 0, index == last)
        stage.forward = partial(run_stage, stage, index == 0, index == last, positions)
        stages.append(stage)
    held = {layer for index in own for layer in layers[index]}
    for layer in range(len(blocks)):
        if layer not in held:
            blocks[layer] = Elsewhere()
    _leave_out(model, 0 in own, last in own)
    return model, stages


def _leave_out(model: Any, has_first: bool, has_last: bool) -> None:
    names = (() if has_first else model.entry) + (() if has_last else model.exit)
    for name in names:
        setattr(model, name, None)


def run_stage(
    stage: Any,
    first: bool,
    last: bool,
    positions: SharedPositions | None,
    entering: Tensor,
    *rest: Tensor,
    **named: Tensor,
) -> Tensor:
    """A stage of an encoder, or all of it; `rest` or `named` are the objective's inputs after the first, of
    these rows."""
    inputs = (*rest, *named.values())
    hidden = stage.enter(entering, *inputs) if first else entering
    where: dict[str, Tensor] = {}
    if positions is not None:
        hidden = positions.enter(hidden) if first else hidden
        where = {"places": positions.places(hidden.device)}
    beside = stage.beside(hidden, *inputs, **where) if hasattr(stage, "beside") else ()
    for block in stage.blocks:
        hidden = block(hidden, *beside)
    if last and positions is not None:
        hidden = positions.whole(hidden)
    result: Tensor = stage.leave(hidden) if last else hidden
    return result


class EncoderPipeline:
    """The stages of an encoder on this rank. `whole` is the model on the meta device, for its shapes.

    `positions`: this rank's, where they lie over cp.
    """

    def __init__(
        self,
        whole: nn.Module,
        stages: Sequence[nn.Module],
        layout: LayoutSpec,
        mesh: DeviceMesh,
        positions: SharedPositions | None,
    ) -> None:
        self._whole: Any = whole
        self._stages = list(stages)
        self._layout, self._mesh, self._positions = layout, mesh, positions
        self._indices = stages_of(layout, mesh.get_local_rank())
        self._schedules: dict[Any, tuple[Any, int]] = {}
        self._pieces: list[Any] = []
        self._loss_of: Callable[[nn.Module, Any], Tensor] | None = None

    def backward(
        self, batch: Batch, pieces: list[Any], loss_of: Callable[[nn.Module, Any], Tensor], dtype: torch.dtype
    ) -> Tensor:
        """One step's passes over `pieces`, the micro-batches of `batch`; the mean loss, or 0.

        Only ranks with the last stage know the loss.

        All ranks of the pipeline have the same batch. Gradients are those of the mean.
        """
        self._pieces, self._loss_of = pieces, loss_of
        first, *rest = self._given(batch)
        schedule = self._schedule(first, rest, dtype)
        has_last = self._layout.stages - 1 in self._indices
        losses: list[Tensor] | None = [] if has_last else None
        numbers = torch.arange(len(pieces), device=first.device) if has_last else None
        named = {f"input_{index}": each for index, each in enumerate(rest, start=1)}
        entering = (first,) if 0 in self._indices else ()
        schedule.step(*entering, target=numbers, losses=losses, return_outputs=False, **named)
        if losses is None:
            return torch.zeros((), device=first.device)
        return torch.stack([loss.detach() for loss in losses]).mean()

    def outputs(self, inputs: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
        """What the last stage returns of `inputs`, on every rank of the pipeline, without a gradient.

        One pass, stage after stage, for evaluation.
        """
        hidden, left = self._shapes(inputs)
        hidden = self._piece(hidden)
        first, *rest = inputs
        named = {f"input_{index}": each for index, each in enumerate(rest, start=1)}
        group, own, last = self._mesh.get_group(), self._mesh.get_local_rank(), self._layout.stages - 1
        stream = first
        for index in range(last + 1):
            holder, following = self._holder(index), self._holder(min(index + 1, last))
            if holder == own:
                stream = self._stages[self._indices.index(index)](stream, **named).contiguous()
            if holder != following:
                if own == holder:
                    distributed.send(stream, group=group, group_dst=following)
                elif own == following:
                    stream = torch.empty(hidden.shape, dtype=dtype, device=first.device)
                    distributed.recv(stream, group=group, group_src=holder)
        if own != self._holder(last):
            stream = torch.empty(left.shape, dtype=dtype, device=first.device)
        distributed.broadcast(stream, group=group, group_src=self._holder(last))
        for module in (module for stage in self._stages for module in stage.modules()):
            if isinstance(module, FSDPModule):
                module.reshard()  # kept for a backward pass, which does not come
        return stream

    def _holder(self, index: int) -> int:
        """Which rank of axis pp has a stage."""
        return next(rank for rank in range(self._layout.pp) if index in stages_of(self._layout, rank))

    def _shapes(self, inputs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """The whole stream and the output of these inputs, on the meta device."""
        hidden = self._whole.enter(*(torch.empty_like(each, device="meta") for each in inputs))
        return hidden, self._whole.leave(hidden)

    def _piece(self, hidden: Tensor) -> Tensor:
        """What a stage hands on of a whole stream, which not every rank has seen."""
        return hidden if self._positions is None else self._positions.enter(hidden)

    def _given(self, batch: Batch) -> tuple[Tensor, ...]:
        assert self._loss_of is not None
        try:
            self._loss_of(Asking(), batch)
        except Given as given:
            return given.inputs
        raise AssertionError("an objective calls its model")

    def _loss(self, output: Tensor, number: Tensor) -> Tensor:
        """Of micro-batch `number`, int64 `[1]`."""
        assert self._loss_of is not None
        return self._loss_of(Answering(output), self._pieces[int(number)])

    def _schedule(self, first: Tensor, rest: Sequence[Tensor], dtype: torch.dtype) -> Any:
        key = (first.shape, tuple(each.shape for each in rest), dtype)
        if key not in self._schedules:
            hidden, left = self._shapes(
                [each[: len(each) // self._layout.micro_batches] for each in (first, *rest)]
            )
            stages = self._pipeline_stages(first, self._piece(hidden), left, dtype)
            made = SCHEDULES[self._layout.schedule]
            single = issubclass(made, PipelineScheduleSingle)
            schedule = made(stages[0] if single else stages, self._layout.micro_batches, loss_fn=self._loss)
            self._schedules[key] = (schedule, hidden.shape[1])
        schedule, length = self._schedules[key]
        if self._positions is not None:
            self._positions.length = length
        return schedule

    def _pipeline_stages(
        self, first: Tensor, hidden: Tensor, left: Tensor, dtype: torch.dtype
    ) -> list[PipelineStage]:
        """torch's stages with their shapes said: `hidden` between them and `left` at the end."""
        entering = torch.empty_like(first[: len(hidden)], device="meta")

        def like(tensor: Tensor) -> Tensor:
            return torch.empty(tensor.shape, dtype=dtype, device="meta", requires_grad=True)

        last = self._layout.stages - 1
        return [
            PipelineStage(
                stage,
                index,
                self._layout.stages,
                first.device,
                input_args=(entering if index == 0 else like(hidden),),
                output_args=(like(left if index == last else hidden),),
                group=self._mesh.get_group(),
            )
            for stage, index in zip(self._stages, self._indices, strict=True)
        ]
