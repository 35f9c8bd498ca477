"""What all ranks must know alike: small tensors over the process group, never pickled objects."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Final

import torch
import torch.distributed as distributed
from torch import Tensor

from stoker.spec.job import CommitRef

_DIGEST_BYTES: Final = 32


def digest_over_ranks(batch: Tensor | Mapping[str, Tensor]) -> str:
    """SHA-256, in hex, of the SHA-256 of every rank's share of a batch, in the order of ranks.

    Of a batch of columns, they go into the digest in the order of their names.
    """
    hasher = hashlib.sha256()
    columns = [batch] if isinstance(batch, Tensor) else [batch[name] for name in sorted(batch)]
    for column in columns:
        hasher.update(column.detach().cpu().contiguous().numpy().tobytes())
    own = hasher.digest()
    if not distributed.is_initialized():
        return hashlib.sha256(own).hexdigest()
    mine = torch.frombuffer(bytearray(own), dtype=torch.uint8)
    each = [torch.empty_like(mine) for _ in range(distributed.get_world_size())]
    distributed.all_gather(each, mine)
    return hashlib.sha256(b"".join(one.numpy().tobytes() for one in each)).hexdigest()


def told_to_all(reference: CommitRef | None, group: distributed.ProcessGroup | None = None) -> CommitRef:
    """The checkpoint that rank 0 has just committed, on all ranks of `group`; rank 0 alone gives it."""
    told = torch.zeros(2 + _DIGEST_BYTES, dtype=torch.int64)
    if reference is not None:
        told[0], told[1] = reference.sequence, reference.step
        told[2:] = torch.tensor(list(bytes.fromhex(reference.digest)), dtype=torch.int64)
    if distributed.is_initialized():
        distributed.broadcast(told, 0, group=group)
    sequence, step, *digest = told.tolist()
    return CommitRef(sequence=sequence, step=step, digest=bytes(digest).hex())


def said_by_first(said: bool, device: torch.device) -> bool:
    """What rank 0 says, on all ranks; what others say does not count."""
    if not distributed.is_initialized() or distributed.get_world_size() == 1:
        return said
    told = torch.tensor([said], dtype=torch.int32, device=device)
    distributed.broadcast(told, 0)
    return bool(told.item())
