"""How fast one GPU trains, ours beside a plain compiled loop; without a GPU, the CPU part alone.

Run `python bench/gpu.py`, or with `--json` for one object. It builds nothing, and needs torch with its Triton
and no other package: Stoker itself is taken from beside it. See docs/design/train-gpu.md.
"""

from __future__ import annotations

import gc
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

import itertools

import torch
from torch import Tensor, nn

from measuring.command import Size, run
from measuring.figures import Figure, Goal, Measured, at_least, at_most, median_of, not_measured, ratio_of
from measuring.plain_decoder import PlainDecoder
from measuring.turns import take_turns
from stoker.spec.configurations import configuration
from stoker.spec.layout import CompileUnit, LayoutSpec
from stoker.spec.model import ModelSpec
from stoker.spec.run import Device, Kernels, Optimizer, Precision, TrainSpec
from stoker.train.device import BACKENDS
from stoker.train.watch.meter import PEAKS

VOCABULARY: Final = configuration("llama-3.2-1b").vocabulary
PEAK_FLOPS: Final = PEAKS["H100 SXM"]
"""Dense bf16 of an H100 SXM, by its data sheet; MFU is against it, in float8 too."""

SMALL: Final = ModelSpec(
    layers=4, width=128, heads=2, kv_heads=1, ffn_width=384, tied_embeddings=False, qk_norm=False
)
SMALL_VOCABULARY: Final = 1024
AS_IT_IS: Final = LayoutSpec()
METHOD: Final = (
    "On a GPU: random tokens; each case alone on the card, four steps that are not counted (compiling among "
    "them), then steps between CUDA events; medians and quartiles. Plain: bf16 parameters, torch.compile of "
    "the whole, AdamW(fused=True), clipping. Ours: bf16 products over fp32 masters (src/stoker/train/fused). "
    "Engine: a step of `stoker train` with train.kernels=fused on one rank; of experts plain, compiled by "
    "block, in two micro-batches. MFU is the model's FLOPs of a token, both passes (docs/design/spec.md), of "
    "experts those that it meets, x tokens/s over the peak. "
    "On a CPU: the same small decoder, one thread, processor time: the engine's step (FSDP2 over one rank, "
    "guard, Muon) beside a loop by hand with the same modules, loss and optimizer, in turns."
)
Step = Callable[[Tensor], Tensor]


def untied(name: str) -> ModelSpec:
    """A published shape with an output matrix of its own, and positions as they are."""
    spec = configuration(name).spec
    assert isinstance(spec, ModelSpec)
    return replace(spec, tied_embeddings=False, rope_scaling=None)


@dataclass(frozen=True, slots=True)
class Case:
    """One thing to measure on a GPU, with what it should reach."""

    name: str
    spec: ModelSpec
    make: Callable[[ModelSpec], Step]
    tokens_per_s: Goal | None = None
    mfu: Goal | None = None
    memory_gib: Goal | None = None


def plain(spec: ModelSpec) -> Step:
    """The loop by hand, compiled whole."""
    with torch.device("meta"):
        model: nn.Module = PlainDecoder(spec, VOCABULARY)
    model = first_weights(model.to_empty(device="cuda").to(torch.bfloat16))
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True
    )
    compiled = torch.compile(model)

    def step(batch: Tensor) -> Tensor:
        loss: Tensor = compiled(batch)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    return step


def fused(*, float8: bool) -> Callable[[ModelSpec], Step]:
    """Ours, with elementwise work in Triton; in float8 all products but the head's."""

    def make(spec: ModelSpec) -> Step:
        from stoker.train.fused.adamw import MasterAdamW
        from stoker.train.fused.decoder import FusedChoices, FusedDecoder

        with torch.device("meta"):
            model = FusedDecoder(spec, VOCABULARY, FusedChoices(float8=float8, fast_gradients=float8))
        first_weights(model.to_empty(device="cuda").to(torch.bfloat16))
        optimizer = MasterAdamW(model.parameters())

        def step(batch: Tensor) -> Tensor:
            loss: Tensor = model(batch)
            torch.autograd.backward(loss)
            optimizer.step(3e-4)
            return loss.detach()

        return step

    return make


def engine(
    spec: ModelSpec, vocabulary: int, train: TrainSpec, device: torch.device, layout: LayoutSpec = AS_IT_IS
) -> Step:
    """What `stoker train` does in a step, in a group of one: FSDP2, guard, schedule, optimizer."""
    from stoker.spec.run import RunSpec
    from stoker.train.models import build_model, materialise
    from stoker.train.optimizer import build_optimizer
    from stoker.train.parallel.mesh import Meshes
    from stoker.train.parallelize import spread
    from stoker.train.step import train_step

    run = RunSpec(dataset="none", model=spec, train=train, layout=layout)
    laid = spread(build_model(spec, vocabulary), Meshes.build(layout, device.type, 1), run)
    model = materialise(laid.model, 0, device)
    optimizer = build_optimizer(model, train, device)
    asked = None if laid.layout.plain else laid

    def step(batch: Tensor) -> Tensor:
        return torch.tensor(train_step(model, optimizer, batch, train, 1, spread=asked).loss)

    return step


def trained(spec: ModelSpec) -> Step:
    """The engine's step by the fused kernels, with AdamW as the loop by hand."""
    train = TrainSpec(kernels=Kernels.FUSED, optimizer=Optimizer.ADAMW, deterministic=False)
    return engine(spec, VOCABULARY, train, torch.device("cuda", 0))


def trained_experts(spec: ModelSpec) -> Step:
    """The engine's step of a mixture of experts: compiled blocks, grouped products, logits in chunks."""
    train = TrainSpec(optimizer=Optimizer.ADAMW, deterministic=False)
    layout = LayoutSpec(micro_batches=2, compile=CompileUnit.BLOCK, loss_chunks=8)
    return engine(spec, VOCABULARY, train, torch.device("cuda", 0), layout)


@contextmanager
def group_of_one(backend: str) -> Iterator[None]:
    """A process group without peers."""
    import torch.distributed as distributed

    with tempfile.TemporaryDirectory() as folder:
        store = distributed.FileStore(f"{folder}/meeting", 1)  # type: ignore[attr-defined]
        distributed.init_process_group(backend, store=store, rank=0, world_size=1)
        try:
            yield
        finally:
            distributed.destroy_process_group()


LLAMA_1B: Final = untied("llama-3.2-1b")
LLAMA_3B: Final = untied("llama-3.2-3b")
MOE: Final = untied("moe-2.3b-a1.1b")
"""8 experts, 2 a token: 1.1 B parameters work on one."""

CASES: Final = (
    Case("plain_1b", LLAMA_1B, plain),
    Case("ours_1b", LLAMA_1B, fused(float8=False), at_least(66_000), at_least(0.60), at_most(66)),
    Case("ours_1b_float8", LLAMA_1B, fused(float8=True), at_least(80_000)),
    Case("engine_1b", LLAMA_1B, trained, at_least(66_000), at_least(0.60), at_most(66)),
    Case("ours_3b", LLAMA_3B, fused(float8=False), None, at_least(0.55)),
    Case("engine_moe", MOE, trained_experts, None, at_least(0.45)),
)


def first_weights(model: nn.Module) -> nn.Module:
    """The same size of weights as the engine's, drawn on the card."""
    generator = torch.Generator(device="cuda").manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.fill_(1.0)
            else:
                drawn = torch.empty(parameter.shape, device="cuda", dtype=torch.float32)
                parameter.copy_(
                    drawn.normal_(0.0, min(0.02, parameter.shape[1] ** -0.5), generator=generator)
                )
    return model


def on_gpu(case: Case, rows: int, sequence: int, steps: int) -> dict[str, Figure]:
    """Tokens a second, MFU, memory and losses of one case."""
    goals = {"tokens_per_s": case.tokens_per_s, "mfu": case.mfu, "memory_gib": case.memory_gib}
    units = {"tokens_per_s": "tokens/s", "mfu": "of 989 TFLOP/s", "memory_gib": "GiB"}
    torch.cuda.reset_peak_memory_stats()
    try:
        times_s, losses = _timed(case.make(case.spec), rows, sequence, steps)
    except (torch.cuda.OutOfMemoryError, RuntimeError) as error:
        why = f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"
        return {f"{case.name}_{name}": not_measured(why, units[name], goal) for name, goal in goals.items()}
    finally:
        torch._dynamo.reset()
        gc.collect()
        torch.cuda.empty_cache()
    rates = [rows * sequence / taken_s for taken_s in times_s]
    per_token = case.spec.training_flops_per_token(VOCABULARY, sequence)
    return {
        f"{case.name}_tokens_per_s": median_of(rates, units["tokens_per_s"], case.tokens_per_s),
        f"{case.name}_mfu": median_of(
            [per_token * rate / PEAK_FLOPS for rate in rates], units["mfu"], case.mfu
        ),
        f"{case.name}_memory_gib": Figure(
            torch.cuda.max_memory_allocated() / 2**30, units["memory_gib"], case.memory_gib
        ),
        f"{case.name}_last_loss": Figure(losses[-1], "nats"),
    }


def _timed(step: Step, rows: int, sequence: int, steps: int) -> tuple[list[float], list[float]]:
    """Seconds of each step, and every loss."""
    generator = torch.Generator(device="cuda").manual_seed(1)

    def batches() -> Iterator[Tensor]:
        while True:
            yield torch.randint(0, VOCABULARY, (rows, sequence + 1), device="cuda", generator=generator)

    drawn = batches()
    losses = [step(next(drawn)) for _ in range(4)]
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(steps + 1)]  # type: ignore[no-untyped-call]
    marks[0].record()
    for mark in marks[1:]:
        losses.append(step(next(drawn)))
        mark.record()
    torch.cuda.synchronize()
    times_s = [first.elapsed_time(last) / 1e3 for first, last in itertools.pairwise(marks)]
    return times_s, [float(loss) for loss in losses]


def on_cpu(rounds: int) -> dict[str, Figure]:
    """What the engine adds to a step of a small model, on one thread."""
    from stoker.train.loss import next_token_loss
    from stoker.train.models import build_model, materialise
    from stoker.train.optimizer import build_optimizer, set_learning_rate
    from stoker.train.schedule import learning_rate_at

    torch.set_num_threads(1)
    train = TrainSpec(precision=Precision.FP32)
    batch = torch.randint(0, SMALL_VOCABULARY, (8, 257), generator=torch.Generator().manual_seed(0))
    by_hand = materialise(build_model(SMALL, SMALL_VOCABULARY), 0, torch.device("cpu"))
    hand_optimizer = build_optimizer(by_hand, train)

    def spent_s(work: Callable[[], object]) -> float:
        began_s = time.process_time()
        work()
        return time.process_time() - began_s

    def loop() -> None:
        hand_optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(next_token_loss(by_hand, batch))
        torch.nn.utils.clip_grad_norm_(by_hand.parameters(), train.gradient_clip)
        set_learning_rate(hand_optimizer, learning_rate_at(1, train))
        hand_optimizer.step()

    with group_of_one("gloo"):
        step = engine(SMALL, SMALL_VOCABULARY, train, torch.device("cpu"))
        seconds = take_turns(
            {"engine": lambda: spent_s(lambda: step(batch)), "loop": lambda: spent_s(loop)}, rounds
        )
    return {
        "cpu_engine_to_loop": ratio_of(seconds["engine"], seconds["loop"], at_most(1.05)),
        "cpu_engine_step_ms": Figure(1e3 * statistics.median(seconds["engine"]), "ms"),
        "cpu_loop_step_ms": Figure(1e3 * statistics.median(seconds["loop"]), "ms"),
    }


def measure(rows: int, sequence: int, steps: int, rounds: int) -> Measured:
    """Every case on the GPU at hand, and the CPU part."""
    figures: dict[str, Figure] = {}
    peers = {"torch": torch.__version__}
    facts: Mapping[str, str] = {}
    if torch.cuda.is_available():
        facts = {"device": torch.cuda.get_device_name(), "cuda": str(torch.version.cuda)}
        with group_of_one(BACKENDS[Device.CUDA]):
            for case in CASES:
                figures |= on_gpu(case, rows, sequence, steps)
    else:
        print("No CUDA device is at hand: what needs one is not measured.", file=sys.stderr)
        why = "no CUDA device at hand"
        for case in CASES:
            figures[f"{case.name}_tokens_per_s"] = not_measured(why, "tokens/s", case.tokens_per_s)
            if case.mfu is not None:
                figures[f"{case.name}_mfu"] = not_measured(why, "of 989 TFLOP/s", case.mfu)
    figures |= on_cpu(rounds)
    return Measured(figures, METHOD, peers, facts)


SIZES: Final = (
    Size("rows", 8, 1, "sequences of a batch on the GPU"),
    Size("sequence", 4096, 128, "tokens of a sequence on the GPU"),
    Size("steps", 20, 2, "counted steps of a case on the GPU"),
    Size("rounds", 21, 2, "rounds on the CPU"),
)


if __name__ == "__main__":
    sys.exit(run("gpu", __doc__, SIZES, measure))
