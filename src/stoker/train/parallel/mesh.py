"""The meshes of a layout: which rank is where on which axis. See docs/design/layout.md.

Axes lie in one order, outermost first: pp, dp_replicate, dp_shard, cp, tp. Neighbouring ranks share a node,
so the axes that speak most are innermost. FSDP shards over dp_shard and cp together: ranks that share a
sequence hold different shards of the weights too.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.distributed as distributed
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from stoker.spec.layout import LayoutSpec


@dataclass(frozen=True, slots=True)
class Meshes:
    """A layout's meshes on this rank. `layout` has its `dp_shard` said.

    `dense` has the axes pp, dp_replicate, dp_shard (called dp_shard_cp with cp) and tp, those of one rank
    left out but for dp_shard. `context` has cp and tp; `experts`, where experts are spread, has pp,
    dp_replicate, expert_shard, ep and tp.
    """

    layout: LayoutSpec
    dense: DeviceMesh
    context: DeviceMesh | None
    experts: DeviceMesh | None

    @classmethod
    def build(cls, layout: LayoutSpec, device_type: str, world_size: int) -> Meshes:
        """All ranks call this, with a process group in place. Raises InvalidLayout when sizes disagree."""
        layout = layout.resolved(world_size)
        shards = layout.dp_shard * layout.cp
        shard_name = "dp_shard_cp" if layout.cp > 1 else "dp_shard"
        sizes = {"pp": layout.pp, "dp_replicate": layout.dp_replicate, shard_name: shards, "tp": layout.tp}
        dense = _mesh(device_type, sizes, keep=(shard_name,))
        context = experts = None
        if layout.cp > 1:
            outer = world_size // (layout.cp * layout.tp)
            context = _mesh(device_type, {"outer": outer, "cp": layout.cp, "tp": layout.tp}, keep=("cp",))
        if layout.ep > 1:
            inner = {"expert_shard": shards // layout.ep, "ep": layout.ep, "tp": layout.tp}
            outer_sizes = {"pp": layout.pp, "dp_replicate": layout.dp_replicate}
            experts = _mesh(device_type, outer_sizes | inner, keep=("expert_shard", "ep"))
        return cls(layout, dense, context, experts)

    @classmethod
    def of(cls, mesh: DeviceMesh) -> Meshes:
        """Sharded data parallelism alone, over a mesh that exists."""
        return cls(LayoutSpec(dp_shard=mesh.size()), mesh, None, None)

    @property
    def shard_name(self) -> str:
        """The axis over which FSDP shards what is dense."""
        return "dp_shard_cp" if self.layout.cp > 1 else "dp_shard"

    @property
    def fsdp(self) -> DeviceMesh:
        """The mesh for FSDP: one axis, or two when shards are replicated."""
        if self.dense.ndim == 1:
            return self.dense
        if self.layout.dp_replicate > 1:
            return self.dense["dp_replicate", self.shard_name]
        return self.dense[self.shard_name]

    @property
    def expert_fsdp(self) -> DeviceMesh:
        """The mesh for FSDP of experts that are spread over ep."""
        assert self.experts is not None
        if self.layout.dp_replicate > 1:
            return self.experts["dp_replicate", "expert_shard"]
        return self.experts["expert_shard"]

    @property
    def tp(self) -> DeviceMesh | None:
        """The axis of tensor parallelism."""
        return self.dense["tp"] if self.layout.tp > 1 else None

    @property
    def pp(self) -> DeviceMesh | None:
        """The axis of the pipeline."""
        return self.dense["pp"] if self.layout.pp > 1 else None

    @property
    def data_rank(self) -> int:
        """Whose share of the global batch this rank works on; `layout.data_ranks` of them."""
        names = self.dense.mesh_dim_names or ()
        shard = self.dense.get_local_rank(self.shard_name) if names else self.dense.get_local_rank()
        replica = self.dense.get_local_rank("dp_replicate") if "dp_replicate" in names else 0
        return replica * self.layout.dp_shard + shard // self.layout.cp

    @property
    def cp_rank(self) -> int:
        """Which part of its sequences this rank has."""
        return self.context.get_local_rank("cp") if self.context is not None else 0


def data_rank_of(layout: LayoutSpec, rank: int, world_size: int) -> int:
    """`Meshes.data_rank` of any rank, from the order of the axes alone."""
    layout = layout.resolved(world_size)
    inner = layout.cp * layout.tp
    return rank // inner % layout.data_ranks


def _mesh(device_type: str, sizes: dict[str, int], keep: tuple[str, ...]) -> DeviceMesh:
    kept = {name: size for name, size in sizes.items() if size > 1 or name in keep}
    return init_device_mesh(device_type, tuple(kept.values()), mesh_dim_names=tuple(kept))


def world_size() -> int:
    """How many ranks there are; 1 without a process group."""
    return distributed.get_world_size() if distributed.is_initialized() else 1
