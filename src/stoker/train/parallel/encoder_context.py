"""Context parallelism of encoders: the positions of a stream over several ranks. See docs/design/layout.md.

Every rank of cp enters and leaves with the whole of its rows; between, in the blocks, it has one piece of the
positions. Attention sees in both directions, so a piece in one run has as much work as any other: `zigzag`
gathers keys and values of pieces in order, `ulysses` exchanges positions for heads. A convolution gets its
neighbours' edges.
"""

from __future__ import annotations

import torch
import torch.nn.functional as functional
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Shard

from stoker.spec.layout import ContextParallelism
from stoker.train.models.encoder import EncoderAttention, attend_all
from stoker.train.models.speech import Convolution
from stoker.train.parallel.context import exchange


class SharedPositions:
    """Which positions this rank has of a stream of `length`; `mesh` is the axis cp.

    Where cp does not divide the positions, zeros fill up the last pieces, and nobody looks at what comes of
    them. Every rank's loss is that of the whole rows, and FSDP takes the mean over cp: so a gradient that
    crosses from rank to rank is the sum of all ranks' gradients.
    """

    def __init__(self, mesh: DeviceMesh) -> None:
        self._mesh = mesh
        self.length = 0

    @property
    def piece(self) -> int:
        """How many positions each rank has."""
        return -(-self.length // self._mesh.size())

    def places(self, device: torch.device) -> Tensor:
        """Where this rank's positions stand in the whole, int64 `[piece]`."""
        first = self._mesh.get_local_rank() * self.piece
        return torch.arange(first, first + self.piece, device=device)

    def enter(self, whole: Tensor) -> Tensor:
        """This rank's piece `[rows, piece, width]` of `[rows, length, width]`, whose length is from now on
        the stream's."""
        self.length = whole.shape[1]
        filled = functional.pad(whole, (0, 0, 0, self.piece * self._mesh.size() - self.length))
        first = self._mesh.get_local_rank() * self.piece
        return filled[:, first : first + self.piece].contiguous()

    def whole(self, pieces: Tensor) -> Tensor:
        """`[rows, length, …]` of every rank's `[rows, piece, …]`, the same on all."""
        return self._gathered(pieces)[:, : self.length].contiguous()

    def surround(self, hidden: Tensor, reach: int) -> Tensor:
        """`[rows, piece, width]` with `reach` neighbours more on either side, zeros at the ends; a
        `Surround`."""
        rank, piece = self._mesh.get_local_rank(), self.piece
        if reach > piece:  # neighbours' neighbours are needed too
            filled = functional.pad(self._gathered(hidden), (0, 0, reach, reach))
            return filled[:, rank * piece : (rank + 1) * piece + 2 * reach]
        # Of each rank its first and its last positions; those before rank 0 and after the last are zero.
        edges = self._gathered(torch.cat((hidden[:, :reach], hidden[:, piece - reach :]), dim=1))
        filled = functional.pad(edges, (0, 0, reach, reach))
        before = filled[:, 2 * rank * reach : (2 * rank + 1) * reach]
        after = filled[:, (2 * rank + 3) * reach : (2 * rank + 4) * reach]
        return torch.cat((before, hidden, after), dim=1)

    def _gathered(self, pieces: Tensor) -> Tensor:
        spread = DTensor.from_local(pieces.contiguous(), self._mesh, [Shard(1)], run_check=False)
        return spread.full_tensor(grad_placements=[Partial()])


class GatheredKeys:
    """Attention of this rank's positions to all keys; an `AttendAll`."""

    def __init__(self, positions: SharedPositions) -> None:
        self._positions = positions

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """Query, key, value `[batch, piece, heads, head_width]`, mask `[batch, piece]` of this rank."""
        together = self._positions.whole(_beside(key, value, mask))
        return attend_all(query, *_apart(together, mask is not None))


class ExchangedHeads:
    """Attention of all positions with a share of the heads, between two exchanges; an `AttendAll`."""

    def __init__(self, mesh: DeviceMesh, positions: SharedPositions) -> None:
        self._mesh = mesh
        self._positions = positions

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """Query, key, value `[batch, piece, heads, head_width]`, mask `[batch, piece]` of this rank."""
        together = exchange(_beside(key, value, mask), self._mesh, Shard(1), Shard(2))
        there = together[:, : self._positions.length]
        mixed = attend_all(exchange(query, self._mesh, Shard(1), Shard(2)), *_apart(there, mask is not None))
        return exchange(mixed, self._mesh, Shard(2), Shard(1))


def _beside(key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """One tensor of all that is said of keys, so that one collective takes it: the mask is a column more."""
    if mask is None:
        return torch.cat((key, value), dim=-1)
    column = mask[:, :, None, None].expand(*key.shape[:-1], 1).to(key.dtype)
    return torch.cat((key, value, column), dim=-1)


def _apart(together: Tensor, masked: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    width = together.shape[-1] // 2  # a mask's column is the odd one
    key, value = together[..., :width], together[..., width : 2 * width]
    return key, value, together[:, :, 0, -1] > 0.5 if masked else None


def share_positions(model: nn.Module, kind: ContextParallelism, mesh: DeviceMesh) -> SharedPositions:
    """Let attention and convolutions of `model` work on a piece of the positions, in place."""
    positions = SharedPositions(mesh)
    attend = (
        ExchangedHeads(mesh, positions) if kind is ContextParallelism.ULYSSES else GatheredKeys(positions)
    )
    for module in model.modules():
        if isinstance(module, EncoderAttention):
            module.attend = attend
        elif isinstance(module, Convolution):
            module.surround = positions.surround
    return positions
