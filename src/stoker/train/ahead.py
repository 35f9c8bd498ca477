"""A rank that was started ahead: it loads what any attempt needs, and waits at its gate.

It has no job, no key and no data by then. See docs/design/fleet.md, "Started ahead".
"""

from __future__ import annotations

import faulthandler
import os
import socket

from stoker.core.gates import GO, LOADED, STACK_SIGNAL


def wait_at_gate(descriptor: int) -> bool:
    """Load all, say so, and wait. False when no attempt begins. Raises OSError on what is no socket."""
    with socket.socket(fileno=descriptor) as gate:
        load()
        gate.sendall(LOADED)
        return gate.recv(1) == GO


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
