"""A rank of what bench/recovery.py compares with: plain data parallel training that goes on after a fault.

    torchrun ... recovering_rank.py elastic JOB      joined by gloo; goes on from its last checkpoint
    ft_launcher ... recovering_rank.py nvrx JOB      the same, telling NVRx of each step
    recovering_rank.py torchft JOB NUMBER            a replica by itself; goes on with the others' weights

JOB is a JSON object: `told`, a file to which rank 0 (of replicas: each) adds a line for each step that was
done, and each rank one when it begins; `folder` for checkpoints; `step_s`, the least that a step takes;
`checkpoint_every`; `limit_s`, after which a silent peer counts as lost; `lighthouse`, its address.

Neither DistributedDataParallel nor an optimizer of torch's: making either imports torch's compiler, a second
of every restart, and torchft's wrapper fails where a peer is lost in the middle of a step.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

VOCABULARY, WIDTH, LENGTH, ROWS = 512, 128, 128, 4


class Telling:
    """Lines for the driver: each one write to a file that all ranks share."""

    def __init__(self, path: str, rank: int) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._rank = rank
        self.tell("began", parent=os.getppid())

    def tell(self, kind: str, **fields: float) -> None:
        line = {"kind": kind, "rank": self._rank, "pid": os.getpid(), "at_s": time.monotonic(), **fields}
        os.write(self._descriptor, json.dumps(line).encode() + b"\n")


def network() -> Any:
    """A small language model, about the size of the run that bench/recovery.py disturbs."""
    import torch
    from torch import nn

    torch.set_num_threads(1)
    torch.manual_seed(0)
    blocks = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(WIDTH, 2, 2 * WIDTH, batch_first=True, norm_first=True), 2
    )
    return nn.Sequential(nn.Embedding(VOCABULARY, WIDTH), blocks, nn.Linear(WIDTH, VOCABULARY))


def loss_of(model: Any) -> Any:
    """A batch drawn at random and its loss."""
    import torch
    from torch.nn.functional import cross_entropy

    tokens = torch.randint(VOCABULARY, (ROWS, LENGTH))
    return cross_entropy(model(tokens).flatten(0, 1), tokens.flatten())


def average(model: Any, among: Callable[[Any], object]) -> None:
    """Average the gradients in one piece, by what `among` does to it in place."""
    import torch

    gradients = [parameter.grad for parameter in model.parameters()]
    whole = torch.cat([gradient.flatten() for gradient in gradients])
    among(whole)
    at = 0
    for gradient in gradients:
        gradient.copy_(whole[at : at + gradient.numel()].view_as(gradient))
        at += gradient.numel()


def descend(model: Any) -> None:
    """A step of plain gradient descent."""
    import torch

    with torch.no_grad():
        for parameter in model.parameters():
            parameter -= 0.01 * parameter.grad
            parameter.grad = None


def elastic(job: dict[str, Any], *, nvrx: bool) -> None:
    """Train until the driver ends it; from the checkpoint that is there, as far as it was written."""
    import torch
    import torch.distributed as distributed

    client = None
    if nvrx:
        from nvidia_resiliency_ext.fault_tolerance import RankMonitorClient

        client = RankMonitorClient()
        client.init_workload_monitoring()
    rank = int(os.environ["RANK"])
    telling = Telling(job["told"], rank)
    distributed.init_process_group("gloo", timeout=timedelta(seconds=job["limit_s"]))
    world = distributed.get_world_size()
    model = network()
    path, done = Path(job["folder"]) / "checkpoint.pt", 0
    if path.exists():
        saved = torch.load(path)
        model.load_state_dict(saved["model"])
        done = saved["step"]
    while True:
        began_s = time.monotonic()
        loss_of(model).backward()
        average(model, lambda whole: distributed.all_reduce(whole.div_(world)))
        descend(model)
        done += 1
        time.sleep(max(began_s + job["step_s"] - time.monotonic(), 0.0))
        if rank == 0:
            telling.tell("step", step=done, began_s=began_s)
        if client is not None:
            client.send_heartbeat()
        if rank == 0 and done % job["checkpoint_every"] == 0:
            torch.save({"model": model.state_dict(), "step": done}, path.with_suffix(".new"))
            path.with_suffix(".new").replace(path)


def torchft(job: dict[str, Any], number: int) -> None:
    """Train as one of the replicas; a step counts where it was committed."""
    import torch.distributed as distributed
    from torchft import Manager, ProcessGroupGloo

    limit = timedelta(seconds=job["limit_s"])
    telling = Telling(job["told"], number)
    store = distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]  # not listed
    model = network()
    manager = Manager(
        pg=ProcessGroupGloo(timeout=limit),
        load_state_dict=model.load_state_dict,
        state_dict=model.state_dict,
        min_replica_size=1,
        timeout=limit,
        rank=0,
        world_size=1,
        store_addr="127.0.0.1",
        store_port=store.port,
        lighthouse_addr=job["lighthouse"],
        replica_id=f"replica_{number}",
        hostname="127.0.0.1",
        init_sync=False,
    )
    while True:
        began_s = time.monotonic()
        manager.start_quorum()
        loss_of(model).backward()
        average(model, lambda whole: manager.allreduce(whole).wait())
        committed = manager.should_commit()
        if committed:
            descend(model)
        else:
            model.zero_grad()
        time.sleep(max(began_s + job["step_s"] - time.monotonic(), 0.0))
        if committed:
            telling.tell(
                "step", step=manager.current_step(), began_s=began_s, replicas=manager.num_participants()
            )


if __name__ == "__main__":
    how, job_file, *which = sys.argv[1:]
    told_job = json.loads(Path(job_file).read_text())
    if how == "torchft":
        torchft(told_job, int(which[0]))
    else:
        elastic(told_job, nvrx=how == "nvrx")
