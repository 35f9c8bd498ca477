"""Expert parallelism: experts on several ranks, and tokens that travel to theirs and back.

A rank keeps whole experts (Lepikhin et al. 2020). Rows come sorted by expert, so those for one rank lie
together: they are sent in one exchange, put in order of the receiver's experts, worked on, and sent back. See
docs/design/layout.md.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as distributed
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Placement, Shard, distribute_tensor

from stoker.train.models.moe import GroupedExperts, MoE
from stoker.train.parallel.mesh import Meshes
from stoker.train.parallel.tensor import see_local


def spread_experts(model: nn.Module, meshes: Meshes) -> None:
    """Give each rank of ep its experts of every mixture in `model`, on the meta device, in place.

    Under tensor parallelism an expert's hidden elements are shared out over tp as well.
    """
    mesh = expert_mesh(meshes)
    group = mesh.get_group("ep")
    for module in model.modules():
        if isinstance(module, MoE):
            _spread(module.experts, mesh)
            # An expert sees the tokens of all ranks of ep, each with a mean of its own, and FSDP takes the
            # mean over the ranks that have it: what is missing is the mean over ep.
            see_local(module.experts, summed=False, scale=1.0 / group.size())
            travel(module.experts, group)


def expert_mesh(meshes: Meshes) -> DeviceMesh:
    """The axes that experts' weights lie on beside FSDP's: ep, and tp where there is one."""
    assert meshes.experts is not None
    return meshes.experts["ep", "tp"] if meshes.layout.tp > 1 else meshes.experts["ep"]


def _spread(experts: GroupedExperts, mesh: DeviceMesh) -> None:
    for name, dimension in (("gate", 1), ("up", 1), ("down", 2)):
        parameter = getattr(experts, name)
        placements: list[Placement] = [Shard(0)]
        if mesh.ndim > 1:
            placements.append(Shard(dimension))
        spread = distribute_tensor(parameter.detach(), mesh, placements, src_data_rank=None)
        experts.register_parameter(name, nn.Parameter(spread))


def travel(experts: GroupedExperts, group: ProcessGroup) -> None:
    """Wrap `experts.forward`, which sees this rank's experts alone, with the exchanges before and after."""
    own = experts.forward

    def forward(tokens: Tensor, counts: Tensor) -> Tensor:
        ranks = group.size()
        wanted = counts.view(ranks, -1)  # by rank that has them, then by its experts
        arriving = torch.empty_like(wanted)
        distributed.all_to_all_single(arriving, wanted.contiguous(), group=group)
        # How many rows travel has to be known here: the shapes depend on what the routers chose.
        sizes = torch.stack((wanted.sum(dim=1), arriving.sum(dim=1))).tolist()
        sent, received = sizes[0], sizes[1]
        rows, left = tokens.split_with_sizes([sum(sent), tokens.shape[0] - sum(sent)])
        visiting = exchange(rows, sent, received, group)
        order = _by_expert(arriving)
        results = own(visiting[order], arriving.sum(dim=0))
        back = torch.empty_like(order)
        back[order] = torch.arange(order.shape[0], device=order.device)
        # What no expert took keeps its place at the end; its result means nothing.
        return torch.cat((exchange(results[back], received, sent, group), left))

    experts.forward = forward  # type: ignore[method-assign]


def _by_expert(arriving: Tensor) -> Tensor:
    """The order that brings rows sorted by sender and expert, `arriving` of each, together by expert."""
    ranks, experts = arriving.shape
    each = torch.arange(experts, device=arriving.device).repeat(ranks)
    return each.repeat_interleave(arriving.flatten()).argsort(stable=True)


def exchange(rows: Tensor, sent: list[int], received: list[int], group: ProcessGroup) -> Tensor:
    """`sent[r]` rows to each rank r of the group, `received[r]` from it, in order of rank."""
    result: Tensor = _Exchange.apply(rows, sent, received, group)  # type: ignore[no-untyped-call]
    return result


class _Exchange(torch.autograd.Function):
    """Rows to other ranks; their gradients travel back."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, sent: list[int], received: list[int], group: ProcessGroup) -> Tensor:
        ctx.way_back = (received, sent, group)
        return _travelled(rows, sent, received, group)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        return _travelled(gradients[0], *ctx.way_back), None, None, None


def _travelled(rows: Tensor, sent: list[int], received: list[int], group: ProcessGroup) -> Tensor:
    arrived = rows.new_empty(sum(received), *rows.shape[1:])
    distributed.all_to_all_single(arrived, rows.contiguous(), received, sent, group=group)
    return arrived
