"""Which part of a matrix each rank has, whatever axes it lies on. See docs/design/layout.md."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Final

from torch import Tensor
from torch.distributed import ProcessGroup
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows `[top, bottom)` and columns `[left, right)` of a matrix."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.bottom - self.top, self.right - self.left

    @property
    def elements(self) -> int:
        """How many there are."""
        return (self.bottom - self.top) * (self.right - self.left)

    def of(self, whole: Tensor) -> Tensor:
        """The piece of a whole matrix, as a view."""
        return whole[self.top : self.bottom, self.left : self.right]


@dataclass(frozen=True, slots=True)
class ShardGroup:
    """The ranks that together have a matrix once: those along the `axes` of `mesh` that shard it."""

    mesh: DeviceMesh
    axes: tuple[int, ...]
    processes: ProcessGroup
    rank: int
    size: int

    def pieces(self, matrix: Tensor) -> list[Piece]:
        """What each rank of the group has of a matrix, in order of rank."""
        assert isinstance(matrix, DTensor)
        placements = [matrix.placements[axis] for axis in self.axes]
        sizes = [self.mesh.size(axis) for axis in self.axes]
        shape = (int(matrix.shape[0]), int(matrix.shape[1]))
        return [
            _piece(shape, placements, sizes, place) for place in product(*(range(size) for size in sizes))
        ]


_GROUPS: Final[dict[tuple[int, tuple[int, ...]], ShardGroup]] = {}


def shard_group(parameter: Tensor) -> ShardGroup | None:
    """The group of a parameter; None for what one rank has whole."""
    if not isinstance(parameter, DTensor):
        return None
    axes = tuple(
        axis
        for axis, placement in enumerate(parameter.placements)
        if not isinstance(placement, Replicate) and parameter.device_mesh.size(axis) > 1
    )
    return _group(parameter.device_mesh, axes) if axes else None


def _group(mesh: DeviceMesh, axes: tuple[int, ...]) -> ShardGroup:
    # By identity: meshes compare by their ranks, and one of an earlier process group would be found again.
    known = _GROUPS.get((id(mesh), axes))
    if known is None or known.mesh is not mesh:
        known = _GROUPS[id(mesh), axes] = _made(mesh, axes)
    return known


def _made(mesh: DeviceMesh, axes: tuple[int, ...]) -> ShardGroup:
    if mesh.ndim == 1:
        return ShardGroup(mesh, axes, mesh.get_group(), mesh.get_local_rank(), mesh.size())
    names = mesh.mesh_dim_names
    assert names is not None, "a mesh of several axes names them"
    part = mesh[tuple(names[axis] for axis in axes)]
    flat = part if part.ndim == 1 else part._flatten()
    return ShardGroup(mesh, axes, flat.get_group(), flat.get_local_rank(), flat.size())


def _piece(
    shape: tuple[int, int], placements: Sequence[Placement], sizes: Sequence[int], place: Sequence[int]
) -> Piece:
    """tp, the innermost axis, cuts first and FSDP cuts what tp has left, whatever the placements' order."""
    bounds = [[0, shape[0]], [0, shape[1]]]
    for placement, size, index in reversed(list(zip(placements, sizes, place, strict=True))):
        dimension = placement.dim if isinstance(placement, Shard) else getattr(placement, "dim", 0)
        first, last = bounds[dimension]
        each = -(-(last - first) // size)
        bounds[dimension] = [min(first + index * each, last), min(first + (index + 1) * each, last)]
    return Piece(*bounds[0], *bounds[1])
