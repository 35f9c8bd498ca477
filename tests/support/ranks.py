"""Runs a function on several gloo ranks, forked from the test's process, and brings their results back.

Forking with gloo takes 0.7 s for two ranks. The parent creates no process group and runs no autograd: both
start threads that a fork does not carry over.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TypeVar

Result = TypeVar("Result")


class RankFailed(AssertionError):
    """A rank raised, or died without a word; the message holds its traceback."""


def run_ranks(
    world_size: int, function: Callable[[int], Result], *, timeout_s: float = 120.0
) -> list[Result]:
    """`function(rank)` on each of `world_size` ranks with a gloo process group; results in order of rank.

    Results are pickled. Raises RankFailed with the traceback of the first rank that failed; the others are
    killed, since they would wait for it.
    """
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        rendezvous = Path(folder) / "rendezvous"
        links: dict[Connection, int] = {}
        processes = []
        for rank in range(world_size):
            receiving, sending = context.Pipe(duplex=False)
            process = context.Process(
                target=_rank_main, args=(rank, world_size, rendezvous, function, sending), daemon=True
            )
            process.start()
            sending.close()
            links[receiving] = rank
            processes.append(process)
        try:
            return _collect(links, world_size, timeout_s)
        finally:
            for process in processes:
                process.kill()
                process.join()


def _collect(links: dict[Connection, int], world_size: int, timeout_s: float) -> list[Result]:
    results: dict[int, Result] = {}
    pending = dict(links)
    while pending:
        ready = wait(list(pending), timeout=timeout_s)
        if not ready:
            raise RankFailed(f"Ranks {sorted(pending.values())} gave no result within {timeout_s} s.")
        for link in ready:
            assert isinstance(link, Connection)
            rank = pending.pop(link)
            try:
                # Plain pickle: torch's own sends tensors as shared memory of a process that has ended.
                fine, value = pickle.loads(link.recv_bytes())
            except EOFError:
                raise RankFailed(f"Rank {rank} died without a word.") from None
            if not fine:
                raise RankFailed(f"Rank {rank} failed:\n{value}")
            results[rank] = value
    return [results[rank] for rank in range(world_size)]


def _rank_main(
    rank: int, world_size: int, rendezvous: Path, function: Callable[[int], Result], sending: Connection
) -> None:
    import torch
    import torch.distributed as distributed

    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    try:
        distributed.init_process_group(
            "gloo",
            store=distributed.FileStore(str(rendezvous), world_size),
            rank=rank,
            world_size=world_size,
            timeout=timedelta(seconds=60),
        )
        value = function(rank)
        distributed.barrier()
        distributed.destroy_process_group()
        sending.send_bytes(pickle.dumps((True, value)))
    except BaseException:  # noqa: BLE001 - the top of a process; the parent shows it
        sending.send_bytes(pickle.dumps((False, traceback.format_exc())))
    finally:
        sending.close()
        # Leave without running the parent's exit hooks (pytest's among them).
        os._exit(0)
