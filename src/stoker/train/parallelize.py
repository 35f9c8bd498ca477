"""How a plain model is laid over ranks: one recipe, in a fixed order. See docs/design/layout.md.

The axes' own files are in `stoker.train.parallel`; each step knows nothing of those after it.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
)

from stoker.spec.layout import LayoutSpec
from stoker.spec.run import Kernels, Precision, RunSpec
from stoker.train.float8 import use_eight_bits
from stoker.train.loss import RowLosses
from stoker.train.models.decoder import Attention, Decoder
from stoker.train.models.moe import GroupedExperts
from stoker.train.parallel.context import attention_across, positions
from stoker.train.parallel.encoder_context import share_positions
from stoker.train.parallel.encoder_pipeline import EncoderPipeline, cut_encoder, run_stage
from stoker.train.parallel.expert import spread_experts
from stoker.train.parallel.mesh import Meshes
from stoker.train.parallel.pipeline import Pipeline, cut
from stoker.train.parallel.recompute import compile_parts, recompute_blocks
from stoker.train.parallel.tensor import shard_encoders, shard_tensors
from stoker.train.parallel.vocabulary import SpreadHead

UNIT_PARAMETERS: Final = 4_000_000
"""What is gathered at once, at least: smaller blocks share a unit, for every collective has its price."""


@dataclass(frozen=True, slots=True)
class Spread:
    """A model laid over its ranks. `model` holds every part of this rank under its name in the whole."""

    model: nn.Module
    meshes: Meshes
    pipeline: Pipeline | None
    encoder_pipeline: EncoderPipeline | None
    precision: Precision

    @property
    def layout(self) -> LayoutSpec:
        """The layout, its `dp_shard` said."""
        return self.meshes.layout

    def keep_rows(self, rows: RowLosses) -> None:
        """From now on `rows` is told of the loss of each row, wherever this rank has a decoder's head."""
        for decoder in (self.model, *(self.pipeline.stages if self.pipeline is not None else ())):
            assert isinstance(decoder, Decoder)
            decoder.output.rows = rows


def parallelize(model: nn.Module, mesh: DeviceMesh | Meshes, spec: RunSpec) -> nn.Module:
    """`spread` for a caller that needs the module alone; a mesh with one axis is sharded data parallelism."""
    return spread(model, mesh if isinstance(mesh, Meshes) else Meshes.of(mesh), spec).model


def spread(model: nn.Module, meshes: Meshes, spec: RunSpec) -> Spread:
    """Lay `model`, on the meta device, over `meshes`: pipeline, tensors, context, FSDP; in place.

    Parameters, gradients and optimizer state stay fp32. Under bf16 a unit's parameters are cast when they
    are gathered, so activations and matrix products are bf16, and gradients are summed over ranks in fp32.
    """
    layout = meshes.layout
    stages: list[nn.Module] = [model]
    pipeline: Pipeline | None = None
    encoder_pipeline: EncoderPipeline | None = None
    if isinstance(model, Decoder):
        if meshes.pp is not None:
            model, cuts = cut(model, layout, meshes.pp.get_local_rank())
            stages = list(cuts)
            pipeline = Pipeline(cuts, layout, meshes.pp)
        sequence_parallel = layout.sequence_parallel and layout.tp > 1
        if meshes.tp is not None:
            shard_tensors(
                model,
                meshes.tp,
                sequence_parallel=sequence_parallel,
                experts_elsewhere=meshes.experts is not None,
            )
        if meshes.experts is not None:
            spread_experts(model, meshes)
        plug_in(model, stages, meshes)
    else:
        shared, whole = None, copy.deepcopy(model) if meshes.pp is not None else model
        if meshes.context is not None:
            shared = share_positions(model, layout.context, meshes.context["cp"])
        if meshes.pp is not None:
            model, parts = cut_encoder(model, layout, meshes.pp.get_local_rank(), shared)
            stages = list(parts)
            encoder_pipeline = EncoderPipeline(whole, parts, layout, meshes.pp, shared)
        elif shared is not None:
            model.forward = partial(run_stage, model, True, True, shared)
        if meshes.tp is not None:
            shard_encoders(model, meshes.tp)
    blocks = [block for stage in stages for block in blocks_of(stage)]
    if spec.train.kernels is Kernels.FUSED:
        from stoker.train.fused.plug import use_fused_kernels

        use_fused_kernels(dict.fromkeys((model, *stages)), layout, spec.train.precision)
    else:
        use_eight_bits(blocks, spec.train.precision)
        recompute_blocks(blocks, layout)
        compile_parts(model, blocks, layout.compile)
    for stage in stages:
        shard(stage, meshes, spec)
    return Spread(model, meshes, pipeline, encoder_pipeline, spec.train.precision)


def plug_in(model: Decoder, stages: Sequence[nn.Module], meshes: Meshes) -> None:
    """Put the layout's own loss, attention and positions where the decoder has a place for them."""
    layout = meshes.layout
    sequence_parallel = layout.sequence_parallel and layout.tp > 1
    if meshes.context is not None:
        attend = attention_across(layout.context, meshes.context["cp"])
        for module in model.modules():
            if isinstance(module, Attention):
                module.attend = attend
    for each in {id(stage): stage for stage in (model, *stages)}.values():
        assert isinstance(each, Decoder)
        if layout.tp > 1 or layout.loss_chunks > 1:
            each.output = SpreadHead(layout.loss_chunks, meshes.tp, sequence_parallel=sequence_parallel)
        # The first stage gets tokens; a later one gets the stream, of which a rank of tp may have a part.
        parts = layout.tp if sequence_parallel and each.embedding is None else 1
        if parts > 1 or layout.cp > 1:
            each.positions_of = partial(_positions, layout, meshes.cp_rank, parts)


def _positions(
    layout: LayoutSpec, cp_rank: int, parts: int, length: int, device: torch.device
) -> torch.Tensor:
    if layout.cp == 1:
        return torch.arange(length * parts, device=device)
    return positions(layout.context, cp_rank, layout.cp, length * parts, device)


def shard(model: nn.Module, meshes: Meshes, spec: RunSpec) -> None:
    """FSDP over the blocks in order, unit by unit, then over the rest."""
    policy = precision_policy(spec.train.precision)
    offload = offload_policy(meshes.layout, meshes.dense.device_type)
    # A pipeline runs a stage many times a step: gathering it once and keeping it is cheaper than the memory.
    keep = False if meshes.layout.pp > 1 else None
    mesh = meshes.fsdp
    if meshes.experts is not None:
        for module in model.modules():
            if isinstance(module, GroupedExperts):
                fully_shard(
                    module,
                    mesh=meshes.expert_fsdp,
                    mp_policy=policy,
                    offload_policy=offload,
                    reshard_after_forward=keep,
                )
    for unit in units(model):
        fully_shard(unit, mesh=mesh, mp_policy=policy, offload_policy=offload, reshard_after_forward=keep)
    fully_shard(model, mesh=mesh, mp_policy=policy, offload_policy=offload, reshard_after_forward=keep)


def units(model: nn.Module) -> list[list[nn.Module]]:
    """The blocks in order, as many together as have UNIT_PARAMETERS; what is left over goes with the root."""
    found: list[list[nn.Module]] = []
    open_unit: list[nn.Module] = []
    for block in blocks_of(model):
        open_unit.append(block)
        if (
            sum(parameter.numel() for module in open_unit for parameter in module.parameters())
            >= UNIT_PARAMETERS
        ):
            found.append(open_unit)
            open_unit = []
    return found


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The units of sharding, recompute, compile and pipelines, in order."""
    assert isinstance(model.blocks, nn.ModuleList)
    return list(model.blocks)


def precision_policy(precision: Precision) -> MixedPrecisionPolicy:
    """FSDP2's policy for a run's precision."""
    if precision is not Precision.FP32:
        return MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    return MixedPrecisionPolicy()


def offload_policy(layout: LayoutSpec, device_type: str) -> OffloadPolicy:
    """Shards, gradients and optimizer state in host memory, or where the model runs."""
    if not layout.cpu_offload:
        return OffloadPolicy()
    return CPUOffloadPolicy(pin_memory=device_type != "cpu")


def forget_gathered(model: nn.Module) -> None:
    """Drop what FSDP has gathered and would use again; call it before weights change by other than a step.

    An evaluation gathers for a backward pass that does not come.
    """
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
