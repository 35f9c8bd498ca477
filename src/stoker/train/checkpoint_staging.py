"""Copies of a rank's pieces in host memory that is used again and again. See docs/design/train.md.

From a device the copies run on a stream of their own, beside its work: the host does not wait for them, and
the device waits only where its work would change what is being copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from torch import Tensor

from stoker.train.checkpoint_pieces import Piece
from stoker.train.device import HOST

_ALIGNED: Final = 64


@dataclass(frozen=True, slots=True)
class Staged:
    """Pieces in host memory; from a device they may still be on their way there."""

    pieces: Sequence[Piece]
    device: torch.device
    copied: Any
    """The device's event behind the last copy; None on the host, where they were whole at once."""

    def settle(self) -> None:
        """What is handed to the device from now on runs behind the copies: it may change what they are of."""
        if self.copied is not None:
            torch.get_device_module(self.device).current_stream().wait_event(self.copied)

    def whole(self) -> Sequence[Piece]:
        """The pieces, once all of them have arrived."""
        if self.copied is not None:
            self.copied.synchronize()
        return self.pieces


class HostBuffers:
    """One block of host memory as large as a rank's pieces, kept from one checkpoint to the next.

    It is page-locked when pieces are on a CUDA device, so that the copies run beside its work. Not for two
    checkpoints at once: a copy is good until the next one is taken.
    """

    def __init__(self) -> None:
        self._block: Tensor | None = None
        self._stream: Any = None

    def copies_of(self, pieces: Sequence[Piece]) -> Staged:
        """The same pieces, their data as it is now for the device's stream of work."""
        begins, total = [], 0
        for piece in pieces:
            begins.append(total)
            total += -(-piece.data.nbytes // _ALIGNED) * _ALIGNED
        device = next((piece.data.device for piece in pieces if piece.data.device != HOST), HOST)
        block = self._room(total, pinned=device.type == "cuda")
        rooms = [
            block[begin : begin + piece.data.nbytes].view(piece.data.dtype).view(piece.data.shape)
            for piece, begin in zip(pieces, begins, strict=True)
        ]
        copied = self._copy(pieces, rooms, device)
        copies = [replace(piece, data=room) for piece, room in zip(pieces, rooms, strict=True)]
        return Staged(copies, device, copied)

    def _copy(self, pieces: Sequence[Piece], rooms: Sequence[Tensor], device: torch.device) -> Any:
        with torch.no_grad():
            if device == HOST:
                for piece, room in zip(pieces, rooms, strict=True):
                    room.copy_(piece.data)
                return None
            module = torch.get_device_module(device)
            self._stream = self._stream or module.Stream(device=device)
            self._stream.wait_stream(module.current_stream())  # for the step that made this state
            with module.stream(self._stream):
                for piece, room in zip(pieces, rooms, strict=True):
                    room.copy_(piece.data, non_blocking=True)
                copied = module.Event()
                copied.record(self._stream)
            return copied

    def _room(self, total: int, *, pinned: bool) -> Tensor:
        if self._block is None or self._block.numel() < total or (pinned and not self._block.is_pinned()):
            self._block = None  # given back before the next is asked for
            self._block = torch.empty(total, dtype=torch.uint8, pin_memory=pinned, device=HOST)
        return self._block
