"""Tensor parallelism: a block's matrices over several ranks, and with it norms on a share of the sequence.

torch's styles shard the linear layers of attention and feed-forward (Shoeybi et al. 2019) and of the
embedding; sequence parallelism (Korthikanti et al. 2022) keeps the stream between them as `[batch, length /
tp, width]`. What has no style of torch's, norms and experts, runs on local tensors (`LocalParameters`). See
docs/design/layout.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    PrepareModuleInput,
    RowwiseParallel,
    parallelize_module,
)

from stoker.train.models.decoder import Block, Decoder
from stoker.train.models.encoder import EncoderAttention, EncoderFeedForward
from stoker.train.models.moe import MoE


def shard_tensors(
    model: Decoder, mesh: DeviceMesh, *, sequence_parallel: bool, experts_elsewhere: bool = False
) -> None:
    """Shard a decoder on the meta device over `mesh`, the axis tp, in place.

    `experts_elsewhere`: routed experts lie on a mesh of their own and are left as they are.
    """
    stream: Placement = Shard(1) if sequence_parallel else Replicate()
    plan: dict[str, ParallelStyle] = {}
    if model.embedding is not None:
        plan["embedding"] = RowwiseParallel(input_layouts=Replicate(), output_layouts=stream)
    if model.norm is not None:
        plan["norm"] = LocalParameters(summed=sequence_parallel)
    if model.head is not None:
        plan["head"] = LocalParameters({"weight": Shard(0)})
    parallelize_module(model, mesh, plan)
    if model.embedding is not None:
        model.embedding.register_forward_hook(_arrived)
    for block in model.blocks:
        if isinstance(block, Block):  # else it lives on another rank
            parallelize_module(block, mesh, _block_plan(block, stream, experts_elsewhere))


def _arrived(_: nn.Module, __: tuple[Any, ...], output: Tensor) -> Tensor:
    """The stream as a plain tensor: it is still on its way, and a compiled block cannot go back from that."""
    return output.clone()


def shard_encoders(model: nn.Module, mesh: DeviceMesh) -> None:
    """Shard the attention and feed-forward of every encoder block over `mesh`; every rank has the stream.

    What else a block has, norms and convolutions, every rank computes for itself.
    """
    for module in model.modules():
        if isinstance(module, EncoderAttention):
            columns: tuple[str, ...] = ("query", "key", "value")
            rows = "output"
        elif isinstance(module, EncoderFeedForward):
            columns, rows = ("up",), "down"
        else:
            continue
        plan: dict[str, ParallelStyle] = {name: ColwiseParallel() for name in columns}
        parallelize_module(module, mesh, plan | {rows: RowwiseParallel()})


def _block_plan(block: Block, stream: Placement, experts_elsewhere: bool) -> dict[str, ParallelStyle]:
    norm = LocalParameters(summed=isinstance(stream, Shard))
    plan: dict[str, ParallelStyle] = {
        "attention_norm": norm,
        "feed_forward_norm": norm,
        "attention": PrepareModuleInput(
            input_layouts=(stream, None, None), desired_input_layouts=(Replicate(), None, None)
        ),
        **{f"attention.{name}": ColwiseParallel() for name in ("query", "key", "value")},
        "attention.output": RowwiseParallel(output_layouts=stream),
    }
    if block.attention.query_norm is not None:
        # One weight for all heads, of which a rank has a share: its gradient is a sum over the ranks.
        plan |= {f"attention.{name}": LocalParameters(summed=True) for name in ("query_norm", "key_norm")}
    if isinstance(block.feed_forward, MoE):
        return plan | _expert_plan(block.feed_forward, stream, experts_elsewhere)
    return plan | {
        "feed_forward": PrepareModuleInput(input_layouts=(stream,), desired_input_layouts=(Replicate(),)),
        "feed_forward.gate": ColwiseParallel(),
        "feed_forward.up": ColwiseParallel(),
        "feed_forward.down": RowwiseParallel(output_layouts=stream),
    }


def _expert_plan(experts: MoE, stream: Placement, elsewhere: bool) -> dict[str, ParallelStyle]:
    """Every rank routes every token; each expert's hidden elements are shared out."""
    plan: dict[str, ParallelStyle] = {
        "feed_forward": PartialSums(stream),
        "feed_forward.router": LocalParameters(summed=True),
    }
    if not elsewhere:
        hidden = {"gate": Shard(1), "up": Shard(1), "down": Shard(2)}
        plan["feed_forward.experts"] = LocalParameters(hidden)
    if experts.shared is not None:
        plan |= {
            f"feed_forward.shared.{name}": LocalParameters({"weight": Shard(0)}) for name in ("gate", "up")
        }
        plan["feed_forward.shared.down"] = LocalParameters({"weight": Shard(1)})
    return plan


class LocalParameters(ParallelStyle):
    """Parameters are DTensors, and the module's forward sees their local part.

    `placements` by name; what is not named every rank has. `summed`: the gradient of what every rank has is
    the sum of the ranks' gradients, as where each has seen other tokens or computed other heads.
    """

    def __init__(self, placements: Mapping[str, Placement] | None = None, *, summed: bool = False) -> None:
        super().__init__()
        self._placements = dict(placements or {})
        self._summed = summed

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        distribute_parameters(module, device_mesh, self._placements)
        see_local(module, summed=self._summed)
        return module


class PartialSums(ParallelStyle):
    """A module that computes a term of its result on each rank, from the whole stream, on local tensors."""

    def __init__(self, stream: Placement) -> None:
        super().__init__()
        self._stream = stream

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        stream = self._stream

        def enter(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
            return (gathered(inputs[0], device_mesh, stream), *inputs[1:])

        def leave(_: nn.Module, __: tuple[Any, ...], output: Tensor) -> Tensor:
            whole = DTensor.from_local(output, device_mesh, [Partial()], run_check=False)
            return whole.redistribute(placements=[stream]).to_local()

        module.register_forward_pre_hook(enter)
        module.register_forward_hook(leave)
        return module


def gathered(local: Tensor, mesh: DeviceMesh, placement: Placement) -> Tensor:
    """The whole of a tensor that lies as `placement` says; its gradients are terms of a sum over ranks."""
    whole = DTensor.from_local(local, mesh, [placement], run_check=False).redistribute(
        placements=[Replicate()]
    )
    return whole.to_local(grad_placements=[Partial()])


def distribute_parameters(
    module: nn.Module, mesh: DeviceMesh, placements: Mapping[str, Placement], recurse: bool = False
) -> None:
    """Replace a module's own parameters by DTensors over `mesh`; those not named are on every rank."""
    for name, parameter in list(module.named_parameters(recurse=recurse)):
        placement = placements.get(name, Replicate())
        spread = distribute_tensor(parameter.detach(), mesh, [placement], src_data_rank=None)
        module.register_parameter(name, nn.Parameter(spread, requires_grad=parameter.requires_grad))


def see_local(module: nn.Module, *, summed: bool, scale: float = 1.0) -> None:
    """Let `module.forward` find the local part of its own parameters in their place.

    Their gradients are multiplied by `scale`.
    """
    plain = module.forward

    def forward(*arguments: Any, **named: Any) -> Any:
        held = dict(module._parameters)
        local: dict[str, Any] = {
            name: _local_of(parameter, summed, scale) if isinstance(parameter, DTensor) else parameter
            for name, parameter in held.items()
        }
        module._parameters.update(local)
        try:
            return plain(*arguments, **named)
        finally:
            module._parameters.update(held)

    module.forward = forward


def _local_of(parameter: DTensor, summed: bool, scale: float) -> Tensor:
    replicated = all(isinstance(placement, Replicate) for placement in parameter.placements)
    terms = [Partial()] * parameter.device_mesh.ndim if summed and replicated else None
    local: Tensor = parameter.to_local(grad_placements=terms)
    if scale != 1.0 and local.requires_grad:
        local.register_hook(lambda gradient: gradient * scale)  # type: ignore[no-untyped-call]
    return local
