"""What a training step costs on one core, and our small operations beside torch's own.

Run `python bench/train_step.py`, or with `--json` for one object. See docs/design/train-model.md, "Measured".
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Final

import torch
import torch.distributed as distributed
import torch.nn.functional as functional
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh

from measuring.command import Size, run
from measuring.figures import Figure, Measured, at_most, median_of, rate_of, ratio_of, versions_of
from measuring.turns import Probe, processor_s, take_turns
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
METHOD: Final = (
    "One thread, deterministic algorithms on, as a rank of the quickstart has it. Each operation forward "
    "and backward in bf16 at the default model's sizes (8 samples of the recipe's length), ours and "
    "torch's, by processor time of the one thread. A step is the default model's, sharded by FSDP2 over one "
    "rank, 8 samples, with bf16 and with fp32 products, by processor time of the process. All in rotating "
    "order; medians and quartiles of the rounds; ratios are ours over torch's times, round by round."
)
Operation = Callable[[], Tensor]


def operations() -> dict[str, tuple[Operation, Operation]]:
    """Ours and torch's, forward and backward, by name."""
    model, recipe = ModelSpec(), RecipeSpec()
    length, width = recipe.sequence_tokens, model.head_elements
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

    def both_ways() -> None:
        result = operation()
        torch.autograd.backward(result, torch.ones_like(result))

    return processor_s(both_ways)


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


def measure(rounds: int) -> Measured:
    """Milliseconds of each operation and step, and their ratios."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # as ranks do
    torch.manual_seed(0)
    pairs = operations()
    probes: dict[str, Probe] = {}
    for name, (ours, torchs) in pairs.items():
        probes[name] = partial(both_ways_s, ours)
        probes[f"torch_{name}"] = partial(both_ways_s, torchs)
    with tempfile.TemporaryDirectory() as folder:
        rendezvous = distributed.FileStore(  # type: ignore[attr-defined]
            f"{folder}/rendezvous", 1
        )
        distributed.init_process_group("gloo", store=rendezvous, rank=0, world_size=1)
        probes |= {f"step_{precision}": step_of(precision) for precision in Precision}
        seconds = take_turns(probes, rounds)
        distributed.destroy_process_group()
    figures: dict[str, Figure] = {
        name: median_of([1e3 * took_s for took_s in taken], "ms") for name, taken in seconds.items()
    }
    for name in pairs:
        figures[f"{name}_to_torch"] = ratio_of(seconds[name], seconds[f"torch_{name}"], at_most(1.0))
    figures["step_bf16_to_fp32"] = ratio_of(seconds["step_bf16"], seconds["step_fp32"], at_most(1.0))
    tokens = ROWS * RecipeSpec().sequence_tokens
    figures["tokens_per_core_second"] = rate_of(tokens, seconds["step_bf16"], "tokens/s")
    return Measured(
        figures,
        METHOD,
        versions_of("torch"),
        {"cpu_capability": torch.backends.cpu.get_cpu_capability()},
    )


SIZES: Final = (Size("rounds", 7, 1, "rounds of all cases"),)

if __name__ == "__main__":
    sys.exit(run("train_step", __doc__, SIZES, measure))
