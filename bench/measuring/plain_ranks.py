"""What a researcher starts with torchrun: FSDP2 around each block and the rest, AdamW, a loop.

    python plain_ranks.py launch RANKS JOB      torchrun, in a network of its own that has loopback alone
    torchrun ... plain_ranks.py rank JOB        a rank; rank 0 prints seconds of each step by model, as JSON

JOB is a JSON object: `tokens`, a file of int64 `[steps, global_batch, length + 1]`; `model`, `vocabulary`;
`train`, settings of AdamW; `models`, in the order of their turns: "same", the engine's modules, or "plain",
torch's own operations. torchrun's store listens on every address, hence the network. See bench/ranks.py.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

SINGLE_NODE = ("--nnodes=1", "--master-addr=127.0.0.1", "--master-port=29501")


def launch(ranks: str, job: str) -> None:
    """Become torchrun. Exit code 3 where no network of its own is to be had."""
    from stoker.core.isolation import IsolationState, isolate

    closed = isolate(datagrams=True)
    if closed.state is not IsolationState.ISOLATED:
        print(closed.reason, file=sys.stderr)
        sys.exit(3)
    torchrun = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={ranks}", *SINGLE_NODE]
    os.execv(sys.executable, [*torchrun, __file__, "rank", job])


def rank(job_file: str) -> None:
    """Train each model in turn on the same batches."""
    import numpy as np
    import torch
    import torch.distributed as distributed
    from torch.distributed.device_mesh import init_device_mesh

    job = json.loads(Path(job_file).read_text())
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    distributed.init_process_group("gloo")
    number, count = distributed.get_rank(), distributed.get_world_size()
    mesh = init_device_mesh("cpu", (count,))
    tokens = np.load(job["tokens"], mmap_mode="r")
    rows = tokens.shape[1] // count
    taken: dict[str, list[float]] = {}
    for name in job["models"]:
        torch.manual_seed(0)
        taken[name] = []
        step = _trainer(name, job, mesh)
        for batch in tokens:
            began_s = time.perf_counter()
            step(torch.from_numpy(batch[number * rows : (number + 1) * rows].copy()))
            taken[name].append(time.perf_counter() - began_s)
    if number == 0:
        print(json.dumps(taken))
    distributed.barrier()
    distributed.destroy_process_group()


def _trainer(name: str, job: dict[str, Any], mesh: Any) -> Any:
    """A function that takes a step on this rank's rows."""
    import torch
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    from measuring.plain_decoder import PlainDecoder
    from stoker.spec.model import ModelSpec
    from stoker.train.loss import next_token_loss
    from stoker.train.models import build_model

    spec, train = ModelSpec(**job["model"]), job["train"]
    plain = name == "plain"
    model = PlainDecoder(spec, job["vocabulary"]) if plain else build_model(spec, job["vocabulary"])
    if not plain:
        model.to_empty(device="cpu")
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.02) if parameter.dim() > 1 else torch.nn.init.ones_(parameter)
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    for block in model.blocks:
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=train["learning_rate"],
        betas=(train["beta1"], train["beta2"]),
        weight_decay=train["weight_decay"],
        fused=True,
    )

    def step(batch: torch.Tensor) -> float:
        loss = model(batch) if plain else next_token_loss(model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), train["gradient_clip"])
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.item())

    return step


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    if sys.argv[1] == "launch":
        launch(*sys.argv[2:])
    else:
        rank(sys.argv[2])
