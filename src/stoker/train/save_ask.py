"""A checkpoint that is asked for from outside: SIGUSR1 to rank 0, when the time on a node is nearly up.

The signal sets a mark, and after its step rank 0 tells all ranks, so that all of them save the same step. See
docs/design/slurm.md, "Before the time is up".
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType

import torch

from stoker.train.watch.together import said_by_first

Asked = Callable[[torch.device], bool]
"""Whether a checkpoint was asked for since the last call; all ranks call it after each step."""


class SaveAsk:
    """Hears SIGUSR1 in this process from now on. Only in a process's main thread."""

    def __init__(self) -> None:
        self._heard = False
        signal.signal(signal.SIGUSR1, self._hear)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self._heard = True

    def __call__(self, device: torch.device) -> bool:
        heard, self._heard = self._heard, False
        return said_by_first(heard, device)


def nobody_asks(device: torch.device) -> bool:
    """For callers whom nobody can ask."""
    return False
