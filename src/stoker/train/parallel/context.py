"""Context parallelism: a sequence over several ranks, and attention across them. See docs/design/layout.md.

Zig-zag: the sequence is cut into 2·cp pieces, and rank r has pieces r and 2·cp - 1 - r, an early and a late
one, so that under the causal mask all have the same work (Dubey et al. 2024, section 3.3.2). Keys and values
are gathered; they are small where few key heads serve many query heads. Ulysses (Jacobs et al. 2023): each
rank has one piece and exchanges it for its share of the heads over the whole sequence, and back.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Placement, Shard
from torch.nn.attention.bias import causal_lower_right

from stoker.spec.layout import ContextParallelism
from stoker.train.models.decoder import Attend, attend


def positions(kind: ContextParallelism, rank: int, ranks: int, length: int, device: torch.device) -> Tensor:
    """Where the `length` tokens of `rank` stand in the whole sequence, int64 `[length]`."""
    if kind is ContextParallelism.ULYSSES:
        return torch.arange(rank * length, (rank + 1) * length, device=device)
    piece = length // 2
    late = 2 * ranks - 1 - rank
    starts = (rank * piece, late * piece)
    return torch.cat([torch.arange(start, start + piece, device=device) for start in starts])


def all_positions(kind: ContextParallelism, ranks: int, length: int, device: torch.device) -> Tensor:
    """The same of all ranks, one after another, `[ranks · length]`."""
    return torch.cat([positions(kind, rank, ranks, length, device) for rank in range(ranks)])


def attention_across(kind: ContextParallelism, mesh: DeviceMesh) -> Attend:
    """The attention of a rank's part of the sequence; `mesh` is the axis cp."""
    return Ulysses(mesh) if kind is ContextParallelism.ULYSSES else ZigZag(mesh)


class ZigZag:
    """Causal attention of an early and a late piece of the sequence over all keys that came before."""

    def __init__(self, mesh: DeviceMesh) -> None:
        self._mesh = mesh

    def __call__(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Query, key and value `[batch, length, heads, head_width]` of this rank's tokens."""
        rank, ranks, piece = self._mesh.get_local_rank(), self._mesh.size(), query.shape[1] // 2
        # One collective for both; pieces come in order of rank and are put in order of the sequence.
        together = torch.stack((key, value)).transpose(0, 2).contiguous()  # [length, batch, 2, heads, width]
        spread = DTensor.from_local(together, self._mesh, [Shard(0)], run_check=False)
        pieces = torch.split(spread.full_tensor(grad_placements=[Partial()]), piece)
        early, late = pieces[0::2], pieces[1::2]
        key, value = torch.cat((*early, *reversed(late))).transpose(0, 2).unbind()
        seen = ((rank + 1) * piece, (2 * ranks - rank) * piece)
        parts = zip(torch.split(query, piece, dim=1), seen, strict=True)
        return torch.cat([_attend_last(part, key[:, :n], value[:, :n]) for part, n in parts], dim=1)


class Ulysses:
    """Causal attention of all tokens with a share of the heads, between two exchanges."""

    def __init__(self, mesh: DeviceMesh) -> None:
        self._mesh = mesh

    def __call__(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Query, key and value `[batch, length, heads, head_width]` of this rank's tokens."""
        mixed = attend(*(exchange(each, self._mesh, Shard(1), Shard(2)) for each in (query, key, value)))
        return exchange(mixed, self._mesh, Shard(2), Shard(1))


def exchange(share: Tensor, mesh: DeviceMesh, having: Placement, wanting: Placement) -> Tensor:
    """A rank's share of a tensor that lies over `mesh` as `having`, to its share as `wanting`."""
    spread = DTensor.from_local(share.contiguous(), mesh, [having], run_check=False)
    return spread.redistribute(placements=[wanting]).to_local()


def _attend_last(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention of the last tokens of a sequence: the query's last token sees every key."""
    length, seen = query.shape[1], key.shape[1]
    # The subclass lets CUDA's kernels skip what is masked; others would only unfold it.
    mask: Any = (
        causal_lower_right(length, seen)
        if query.device.type == "cuda"
        else torch.ones(length, seen, dtype=torch.bool, device=query.device).tril(diagonal=seen - length)
    )
    mixed = functional.scaled_dot_product_attention(
        query.transpose(1, 2),
        key.transpose(1, 2),
        value.transpose(1, 2),
        attn_mask=mask,
        enable_gqa=query.shape[2] != key.shape[2],
    )
    return mixed.transpose(1, 2)
