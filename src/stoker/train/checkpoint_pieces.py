"""Which piece of each tensor this rank holds, whatever the layout, and torch DCP's plans made of them.

DCP's own planner takes a DTensor's shard as one rectangle and writes it as one, whatever its size and whether
it is one: what PyTorch marks `_StridedShard` (FSDP over tensor parallelism) need not be. Here a shard's place
is computed by dividing in the order in which shards were made, compared with the shard's real shape, refused
when it is no rectangle, and divided when it is large. See docs/design/train.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import (
    LoadPlan,
    ReadItem,
    SavePlan,
    TensorWriteData,
    WriteItem,
    WriteItemType,
)
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.placement_types import Placement, Replicate, Shard, _StridedShard

from stoker.train.checkpoint_errors import CheckpointUnfit

PIECE_BYTES: Final = 32 << 20
"""A larger piece is saved in several, so that a part can be of bounded size."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A rectangle of the tensor `name`, whose whole shape is `whole`, and this rank's memory of it."""

    name: str
    offsets: tuple[int, ...]
    whole: tuple[int, ...]
    data: Tensor

    @property
    def index(self) -> MetadataIndex:
        """DCP's name of it."""
        return MetadataIndex(self.name, torch.Size(self.offsets))


def pieces_of(tensors: Mapping[str, Tensor], *, most_bytes: int = PIECE_BYTES) -> Iterator[Piece]:
    """What this rank holds of each tensor, in the tensors' order; large ones in several pieces.

    Pieces share the tensors' memory. Those of no elements are left out unless the whole tensor has none.
    Raises CheckpointUnfit, naming the tensor, when its layout is none of rectangles.
    """
    for name, tensor in tensors.items():
        local = local_of(tensor)
        offsets = place_of(name, tensor)
        if offsets is None or (not local.numel() and tensor.numel()):
            continue
        whole = tuple(tensor.shape)
        rows_bytes = local.nbytes // local.shape[0] if local.dim() and local.shape[0] else 0
        if local.nbytes <= most_bytes or rows_bytes == 0:
            yield Piece(name, offsets, whole, local)
            continue
        rows = max(1, most_bytes // rows_bytes)
        for first in range(0, local.shape[0], rows):
            part = local[first : first + rows]
            yield Piece(name, (offsets[0] + first, *offsets[1:]), whole, part)


def local_of(tensor: Tensor) -> Tensor:
    """This rank's memory of a tensor, without its history."""
    with torch.no_grad():
        return tensor.to_local() if isinstance(tensor, DTensor) else tensor.detach()


def place_of(name: str, tensor: Tensor) -> tuple[int, ...] | None:
    """Where this rank's shard begins in the whole tensor; None when this rank is not of its mesh.

    Raises CheckpointUnfit, naming the tensor, when the shard is not one rectangle of the whole.
    """
    if not isinstance(tensor, DTensor):
        return (0,) * tensor.dim()
    coordinate = tensor.device_mesh.get_coordinate()
    if coordinate is None:
        return None
    sizes, offsets = list(tensor.shape), [0] * tensor.dim()
    for axis in division_order(name, tensor.placements, tuple(tensor.device_mesh.shape)):
        placement = tensor.placements[axis]
        assert isinstance(placement, Shard | _StridedShard)
        dimension, ranks = placement.dim, tensor.device_mesh.size(axis)
        each = -(-sizes[dimension] // ranks)
        first = min(each * coordinate[axis], sizes[dimension])
        sizes[dimension] = min(each, sizes[dimension] - first)
        offsets[dimension] += first
    held = tuple(local_of(tensor).shape)
    if tuple(sizes) != held:
        raise CheckpointUnfit(
            f"{name!r} is laid out as {tensor.placements} over {tuple(tensor.device_mesh.shape)}: this rank "
            f"should hold {sizes} of {list(tensor.shape)}, and holds {list(held)}.",
            hint="A checkpoint holds rectangles. Choose degrees that divide this dimension.",
        )
    return tuple(offsets)


def division_order(name: str, placements: Sequence[Placement], mesh: tuple[int, ...]) -> list[int]:
    """The mesh's axes that divide the tensor, in the order in which they did.

    A plain shard divides before the axes to its right. A `_StridedShard` of split factor f divides after as
    many axes to its right as make f ranks together. Raises CheckpointUnfit for anything else.
    """
    order: list[int] = []
    for axis in reversed(range(len(placements))):
        placement = placements[axis]
        if isinstance(placement, Replicate):
            continue
        if isinstance(placement, _StridedShard):
            order.insert(_behind(name, placement, placements, order, mesh), axis)
        elif isinstance(placement, Shard):
            order.insert(0, axis)
        else:
            raise CheckpointUnfit(f"{name!r} is laid out as {placement}, which a checkpoint cannot hold.")
    return order


def _behind(
    name: str,
    placement: _StridedShard,
    placements: Sequence[Placement],
    order: Sequence[int],
    mesh: tuple[int, ...],
) -> int:
    """How many axes of `order` the strided shard comes after."""
    product = 1
    for count, axis in enumerate(order):
        if product == placement.split_factor:
            return count
        other = placements[axis]
        if isinstance(other, Shard | _StridedShard) and other.dim == placement.dim:
            product *= mesh[axis]
    if product != placement.split_factor:
        raise CheckpointUnfit(f"{name!r} is laid out as {placements} over {mesh}, which has no order.")
    return len(order)


class PieceSavePlanner(DefaultSavePlanner):
    """DCP's saving of pieces, each by one of the ranks that hold it. For one save."""

    def __init__(self, pieces: Callable[[], Sequence[Piece]]) -> None:
        """`pieces` is called when DCP plans, so that all ranks hear of an error in it."""
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)
        self._pieces_of = pieces
        self._pieces: dict[MetadataIndex, Piece] = {}

    def create_local_plan(self) -> SavePlan:
        """Every piece that this rank could write."""
        self._pieces = {piece.index: piece for piece in self._pieces_of()}
        self.plan = SavePlan([_write_item(piece) for piece in self._pieces.values()])
        return self.plan

    def resolve_data(self, write_item: WriteItem) -> Tensor:
        """The piece's memory."""
        return self._pieces[write_item.index].data


class PieceLoadPlanner(DefaultLoadPlanner):
    """DCP's loading into these pieces, from chunks of any other layout. For one load."""

    def __init__(self, pieces: Sequence[Piece]) -> None:
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)
        self._pieces = {piece.index: piece for piece in pieces}

    def create_local_plan(self) -> LoadPlan:
        """What to read of which saved chunk, for every piece."""
        assert self.metadata is not None
        items: list[ReadItem] = []
        for piece in self._pieces.values():
            saved = self.metadata.state_dict_metadata[piece.name]
            assert isinstance(saved, TensorStorageMetadata)
            chunk = ChunkStorageMetadata(torch.Size(piece.offsets), piece.data.shape)
            items += create_read_items_for_chunk_list(piece.name, saved, [chunk])
        return LoadPlan(items)

    def lookup_tensor(self, index: MetadataIndex) -> Tensor:
        """The piece's memory."""
        return self._pieces[index].data


def _write_item(piece: Piece) -> WriteItem:
    return WriteItem(
        index=piece.index,
        type=WriteItemType.SHARD,
        tensor_data=TensorWriteData(
            chunk=ChunkStorageMetadata(torch.Size(piece.offsets), piece.data.shape),
            properties=TensorProperties(dtype=piece.data.dtype),
            size=torch.Size(piece.whole),
        ),
    )
