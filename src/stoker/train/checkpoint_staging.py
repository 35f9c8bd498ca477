"""Copies of a rank's pieces in host memory that is used again and again. See docs/design/train.md."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import torch
from torch import Tensor

from stoker.train.checkpoint_pieces import Piece

_ALIGNED: Final = 64


class HostBuffers:
    """One block of host memory as large as a rank's pieces, kept from one checkpoint to the next.

    It is pinned when the pieces are on a CUDA device, so that the copies run beside each other and beside the
    device's work. Not for two checkpoints at once: a copy is good until the next one is taken.
    """

    def __init__(self) -> None:
        self._block: Tensor | None = None

    def copies_of(self, pieces: Sequence[Piece]) -> list[Piece]:
        """The same pieces, their data as it is now; whole when this returns."""
        begins, total = [], 0
        for piece in pieces:
            begins.append(total)
            total += -(-piece.data.nbytes // _ALIGNED) * _ALIGNED
        on_device = any(piece.data.is_cuda for piece in pieces)
        block = self._room(total, pinned=on_device)
        copies = []
        with torch.no_grad():
            for piece, begin in zip(pieces, begins, strict=True):
                room = block[begin : begin + piece.data.nbytes].view(piece.data.dtype).view(piece.data.shape)
                room.copy_(piece.data, non_blocking=True)
                copies.append(replace(piece, data=room))
        if on_device:
            torch.cuda.synchronize()
        return copies

    def _room(self, total: int, *, pinned: bool) -> Tensor:
        if self._block is None or self._block.numel() < total or (pinned and not self._block.is_pinned()):
            self._block = None  # given back before the next is asked for
            self._block = torch.empty(total, dtype=torch.uint8, pin_memory=pinned)
        return self._block
