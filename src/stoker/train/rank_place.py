"""Where a rank stands among its peers, and what makes it compute the same bits again."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

import torch
import torch.distributed as distributed
from torch.utils import deterministic

from stoker.spec.layout import LayoutSpec
from stoker.train.parallel.mesh import data_rank_of

DEVICE: Final = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class RankPlace:
    """Which of how many ranks this is."""

    rank: int
    world_size: int

    @property
    def leads(self) -> bool:
        """Rank 0 alone writes the commit log and tells of steps."""
        return self.rank == 0

    def data_share(self, layout: LayoutSpec) -> tuple[int, int]:
        """Which of how many shares of each global batch this rank works on."""
        resolved = layout.resolved(self.world_size)
        return data_rank_of(resolved, self.rank, self.world_size), resolved.data_ranks


def make_deterministic(seed: int, threads: int) -> None:
    """The same bits on every run: fixed threads, no nondeterministic kernel, a known random state."""
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    # Only debugging needs memory to be filled before it is written.
    deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a property
    torch.manual_seed(seed)


def seed_step(seed: int, step: int, rank: int) -> None:
    """Put torch's generators where step `step` finds them in every life of the run, on this rank.

    The state of a generator is thus a function of three numbers and needs no place in a checkpoint.
    """
    digest = hashlib.sha256(f"stoker step {seed}/{step}/{rank}".encode()).digest()
    torch.manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def leave_process_group() -> None:
    """End the process group, if there is one; peers that are still working would see a lost connection."""
    if distributed.is_initialized():
        distributed.destroy_process_group()
