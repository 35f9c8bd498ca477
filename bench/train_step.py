"""What a training step costs on one core, and our small operations beside torch's own.

Run `python bench/train_step.py`, or with `--json` for one object. See docs/design/train-model.md, "Measured".
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import torch
import torch.distributed as distributed
import torch.nn.functional as functional
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh

from stoker.spec.model import ModelSpec
from stoker.spec.recipe import RecipeSpec
from stoker.spec.run import Precision, RunSpec, TrainSpec
from stoker.train.loss import CrossEntropy
from stoker.train.models import build_model, materialise
from stoker.train.models.decoder import attend
from stoker.train.models.norm import RMSNorm, rotate, rotation
from stoker.train.optimizer import build_optimizer
from stoker.train.parallelize import parallelize
from stoker.train.step import train_step

ROWS: Final = 8
ROUNDS: Final = 7
METHOD: Final = (
    "One thread, deterministic algorithms on, as a rank of the quickstart has it. Each operation forward and "
    "backward in bf16 at the default model's sizes (8 samples of the recipe's length): ours and torch's in "
    "turn, by the thread's processor time, so that other load matters less; medians of the rounds; ratio is "
    "ours over torch's. A step is the default model's, sharded by FSDP2 over one rank, 8 samples, by the "
    "process's processor time, with bf16 and with fp32 products in turn."
)
Operation = Callable[[], Tensor]


def operations() -> dict[str, tuple[Operation, Operation]]:
    """Ours and torch's, forward and backward, by name."""
    model, recipe = ModelSpec(), RecipeSpec()
    length, width = recipe.sequence_tokens, model.head_width
    kv_heads = model.kv_heads

    def leaf(*shape: int) -> Tensor:
        return torch.randn(shape).bfloat16().requires_grad_()

    query = leaf(ROWS, length, model.heads, width)
    key, value = leaf(ROWS, length, kv_heads, width), leaf(ROWS, length, kv_heads, width)
    hidden, logits = leaf(ROWS, length, model.width), leaf(ROWS * length, recipe.vocabulary)
    targets = torch.randint(0, recipe.vocabulary, (ROWS * length,))
    norm = RMSNorm(model.width, model.norm_epsilon).bfloat16()
    cosine, sine = (angles.bfloat16() for angles in rotation(length, width, 1e4, torch.device("cpu")))

    def torch_attend() -> Tensor:
        return functional.scaled_dot_product_attention(
            query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), is_causal=True, enable_gqa=True
        )

    def torch_rotate() -> Tensor:
        first, second = query.chunk(2, dim=-1)
        return torch.cat((first * cosine - second * sine, second * cosine + first * sine), dim=-1)

    return {
        "attention": (lambda: attend(query, key, value), torch_attend),
        "norm": (
            lambda: norm(hidden),
            lambda: functional.rms_norm(hidden, (model.width,), norm.weight, model.norm_epsilon),
        ),
        "rotation": (lambda: rotate(query, cosine, sine), torch_rotate),
        "loss": (
            lambda: CrossEntropy.apply(logits, targets),  # type: ignore[no-untyped-call]
            lambda: functional.cross_entropy(logits.float(), targets),
        ),
    }


def both_ways_s(operation: Operation) -> float:
    """Seconds of processor time for one forward and backward pass."""
    began_s = time.thread_time()
    result = operation()
    torch.autograd.backward(result, torch.ones_like(result))
    return time.thread_time() - began_s


def step_of(precision: Precision) -> Callable[[], float]:
    """A function that takes a step of the default model and returns its processor seconds."""
    train = replace(TrainSpec(), precision=precision)
    spec, recipe = RunSpec(dataset="none", train=train), RecipeSpec()
    mesh = init_device_mesh("cpu", (1,), mesh_dim_names=("dp_shard",))
    model = parallelize(build_model(spec.model, recipe.vocabulary), mesh, spec)
    materialise(model, 0, torch.device("cpu"))
    optimizer = build_optimizer(model, train)
    batch = torch.randint(0, recipe.vocabulary, (ROWS, recipe.sequence_tokens + 1))

    def step() -> float:
        began_s = time.process_time()
        train_step(model, optimizer, batch, train, 1)
        return time.process_time() - began_s

    return step


def measure(rounds: int) -> dict[str, Any]:
    """The benchmark's whole result."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # as ranks do
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        rendezvous = distributed.FileStore(  # type: ignore[attr-defined]
            f"{folder}/rendezvous", 1
        )
        distributed.init_process_group("gloo", store=rendezvous, rank=0, world_size=1)
        probes: dict[str, Callable[[], float]] = {}
        for name, (ours, torchs) in operations().items():
            probes[name] = lambda operation=ours: both_ways_s(operation)  # type: ignore[misc]
            probes[f"torch_{name}"] = lambda operation=torchs: both_ways_s(operation)  # type: ignore[misc]
        for precision in Precision:
            probes[f"step_{precision}"] = step_of(precision)
        found: dict[str, list[float]] = {name: [] for name in probes}
        for turn in range(rounds + 1):
            for name, probe in probes.items():
                took_s = probe()
                if turn:
                    found[name].append(took_s)
        distributed.destroy_process_group()
    medians = {name: statistics.median(took) for name, took in found.items()}
    figures = {name: _figure(1e3 * took_s, "ms") for name, took_s in medians.items()}
    for name in operations():
        ratio = medians[name] / medians[f"torch_{name}"]
        figures[f"{name}_to_torch"] = _figure(ratio, "ratio", 1.0, ratio <= 1.0)
    ratio = medians["step_bf16"] / medians["step_fp32"]
    figures["step_bf16_to_fp32"] = _figure(ratio, "ratio", 1.0, ratio <= 1.0)
    tokens = ROWS * RecipeSpec().sequence_tokens
    figures["tokens_per_core_second"] = _figure(tokens / medians["step_bf16"], "tokens/s")
    return {
        "bench": "train_step",
        "figures": figures,
        "peers": {"torch": torch.__version__},
        "environment": {
            "python": platform.python_version(),
            "machine": platform.machine(),
            "cpu_capability": torch.backends.cpu.get_cpu_capability(),
            "cpus": os.cpu_count(),
            "rounds": rounds,
        },
        "method": METHOD,
    }


def _figure(value: float, unit: str, goal: float | None = None, holds: bool | None = None) -> dict[str, Any]:
    return {"value": round(value, 4), "unit": unit, "goal": goal, "holds": holds}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="how often each is measured")
    options = parser.parse_args()
    result = measure(options.rounds)
    if options.json:
        print(json.dumps(result))
        return 0
    for name, figure in result["figures"].items():
        goal = "" if figure["goal"] is None else f"   goal {figure['goal']}: {figure['holds']}"
        print(f"{name:28} {figure['value']:>12,.3f} {figure['unit']}{goal}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
