"""A few ranks on this machine for a benchmark: forked from its process, joined by gloo over loopback."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import tempfile
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any


def on_ranks(world_size: int, function: Callable[[int], Any]) -> Any:
    """`function(rank)` on every rank, one thread each; what rank 0 returned. The caller runs no torch."""
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        receiving, sending = context.Pipe(duplex=False)
        arguments = (world_size, Path(folder) / "rendezvous", function, sending)
        ranks = [context.Process(target=_rank, args=(rank, *arguments)) for rank in range(world_size)]
        for each in ranks:
            each.start()
        sending.close()
        try:
            return pickle.loads(receiving.recv_bytes())
        except EOFError:
            raise SystemExit("a rank of the benchmark failed; see above") from None
        finally:
            for each in ranks:
                each.join(timeout=60)
                each.kill()


def _rank(
    rank: int, world_size: int, meeting: Path, function: Callable[[int], Any], sending: Connection
) -> None:
    import torch
    import torch.distributed as distributed

    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    store = distributed.FileStore(str(meeting), world_size)  # type: ignore[attr-defined]  # not listed
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=world_size)
    found = function(rank)
    distributed.barrier()
    if rank == 0:
        sending.send_bytes(pickle.dumps(found))
    distributed.destroy_process_group()
