"""A rank that was started ahead: it loads what any attempt needs, and waits at its gate.

It has no job, no key and no data by then. See docs/design/fleet.md, "Started ahead".
"""

from __future__ import annotations

import faulthandler
import os
import socket
from typing import Final

from stoker.core.gates import LOADED, STACK_SIGNAL, rank_let_through

_MAX_LINE_BYTES: Final = 64


def wait_at_gate(descriptor: int) -> int | None:
    """Load all, say so, and wait. The rank that this process is then; None when no attempt begins.

    Raises OSError on what is no socket.
    """
    with socket.socket(fileno=descriptor) as gate:
        load()
        gate.sendall(LOADED)
        with gate.makefile("rb") as said:
            return rank_let_through(said.readline(_MAX_LINE_BYTES))


def tell_stacks_into(descriptor: int) -> None:
    """From now on this process writes where its threads stand when it is asked: files, lines, functions."""
    faulthandler.register(STACK_SIGNAL, file=descriptor, all_threads=True)


def load() -> None:
    """Import what an attempt imports, and let torch start its threads, without autograd or process group."""
    import torch
    import torch.distributed.fsdp
    import torch.distributed.tensor

    import stoker.feed.dataset
    import stoker.store.handed
    import stoker.train.attempt
    import stoker.train.records_task  # noqa: F401

    torch.ones(64, 64) @ torch.ones(64, 64)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
