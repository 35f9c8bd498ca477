"""Rows of all ranks, one rank's behind the other's. See docs/design/families.md."""

from __future__ import annotations

import torch
import torch.distributed as distributed
from torch import Tensor


def gather_rows(rows: Tensor) -> Tensor:
    """`rows` of every rank, each `[its own number, …]`, in order of rank, the same on all; a `Gather`.

    Every rank calls it with rows of one type and shape but for their number. Without a process group the rows
    as they are.
    """
    if not distributed.is_initialized():
        return rows
    kind, home, place = rows.dtype, rows.device, _meeting_place()
    # Booleans cross as bytes: not every backend knows them.
    rows = (rows.to(torch.uint8) if kind is torch.bool else rows).to(place)
    counts = [torch.zeros(1, dtype=torch.int64, device=place) for _ in range(distributed.get_world_size())]
    distributed.all_gather(counts, torch.tensor([len(rows)], device=place))
    sizes = [int(count) for count in counts]
    padded = rows.new_zeros((max(sizes), *rows.shape[1:]))
    padded[: len(rows)] = rows
    parts = [torch.empty_like(padded) for _ in sizes]
    distributed.all_gather(parts, padded)
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)]).to(home, kind)


def _meeting_place() -> torch.device:
    """Where tensors are that ranks can exchange: the host's memory, or the device of a backend without it."""
    if "cpu" in distributed.get_backend_config():
        return torch.device("cpu")
    found = torch.accelerator.current_accelerator()
    return torch.device("cpu") if found is None else found
