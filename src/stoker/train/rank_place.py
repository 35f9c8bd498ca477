"""Where a rank stands among its peers, and the random state of its steps."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
import torch.distributed as distributed

from stoker.spec.layout import LayoutSpec
from stoker.train.device import HOST
from stoker.train.parallel.mesh import data_rank_of


@dataclass(frozen=True, slots=True)
class RankPlace:
    """Which of how many ranks this is, and the device that it computes on."""

    rank: int
    world_size: int
    device: torch.device = HOST

    @property
    def leads(self) -> bool:
        """Rank 0 alone writes the commit log and tells of steps."""
        return self.rank == 0

    def data_share(self, layout: LayoutSpec) -> tuple[int, int]:
        """Which of how many shares of each global batch this rank works on."""
        resolved = layout.resolved(self.world_size)
        return data_rank_of(resolved, self.rank, self.world_size), resolved.data_ranks


def seed_step(seed: int, step: int, rank: int) -> None:
    """Put the generators of all devices where step `step` finds them in every life of the run, on this rank.

    The state of a generator is thus a function of three numbers and needs no place in a checkpoint.
    """
    digest = hashlib.sha256(f"stoker step {seed}/{step}/{rank}".encode()).digest()
    torch.manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def leave_process_group() -> None:
    """End the process group, if there is one; peers that are still working would see a lost connection."""
    if distributed.is_initialized():
        distributed.destroy_process_group()
