"""Ways to save memory or time change no loss: recompute, compile, chunks of the loss, host memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from stoker.spec.layout import CompileUnit, LayoutSpec, Recompute, Schedule
from stoker.spec.model import ModelSpec
from stoker.spec.run import Precision, RunSpec
from stoker.train.models import build_model, materialise
from stoker.train.parallel import recompute, vocabulary
from stoker.train.parallel.mesh import Meshes
from stoker.train.parallel.vocabulary import LinearCrossEntropy
from stoker.train.parallelize import parallelize
from support.layouts import DENSE, MIXTURE, VOCABULARY, Case, Course, courses_of, differences, train_alone
from support.ranks import run_ranks

BF16 = Precision.BF16
SHALLOW = replace(DENSE, layers=2)
FEW_EXPERTS = replace(MIXTURE, layers=2)
CASES = {
    "full": Case(LayoutSpec(recompute=Recompute.FULL)),
    "selective": Case(LayoutSpec(recompute=Recompute.SELECTIVE)),
    "selective, tp": Case(LayoutSpec(recompute=Recompute.SELECTIVE, tp=2)),
    "selective, cp": Case(LayoutSpec(recompute=Recompute.SELECTIVE, cp=2)),
    "selective, ep": Case(LayoutSpec(recompute=Recompute.SELECTIVE, ep=2), model=MIXTURE),
    "full, ep": Case(LayoutSpec(recompute=Recompute.FULL, ep=2), model=MIXTURE),
    "full, pp zbv": Case(LayoutSpec(recompute=Recompute.FULL, pp=2, micro_batches=4, schedule=Schedule.ZBV)),
    "in host memory": Case(LayoutSpec(cpu_offload=True)),
    "full in bf16": Case(LayoutSpec(recompute=Recompute.FULL), precision=BF16),
    "selective in bf16": Case(LayoutSpec(recompute=Recompute.SELECTIVE), precision=BF16),
    "selective, ep in bf16": Case(
        LayoutSpec(recompute=Recompute.SELECTIVE, ep=2), model=MIXTURE, precision=BF16
    ),
}
COMPILED = {
    "by block, tp": Case(LayoutSpec(compile=CompileUnit.BLOCK, tp=2)),
    "whole, tp, experts": Case(LayoutSpec(compile=CompileUnit.WHOLE, tp=2), model=FEW_EXPERTS),
    "whole, cp, loss in chunks": Case(
        LayoutSpec(compile=CompileUnit.WHOLE, cp=2, loss_chunks=2), model=SHALLOW
    ),
    "by block": Case(LayoutSpec(compile=CompileUnit.BLOCK)),
    "by block within a budget": Case(
        LayoutSpec(compile=CompileUnit.BLOCK, recompute=Recompute.BUDGET, recompute_budget=0.3)
    ),
    "by block within a budget, tp": Case(
        LayoutSpec(compile=CompileUnit.BLOCK, recompute=Recompute.BUDGET, tp=2), model=SHALLOW
    ),
    "by block within a budget, cp": Case(
        LayoutSpec(compile=CompileUnit.BLOCK, recompute=Recompute.BUDGET, cp=2), model=SHALLOW
    ),
}


@pytest.fixture(scope="module")
def courses() -> dict[str, list[Course]]:
    return courses_of(CASES)


@pytest.fixture(scope="module")
def alone() -> dict[ModelSpec, Course]:
    models = (DENSE, MIXTURE, SHALLOW, FEW_EXPERTS)
    return run_ranks(1, lambda rank: {model: train_alone(model) for model in models})[0]


@pytest.fixture
def quick_compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Everything of torch.compile but the C++ compiler, which would take a minute."""
    monkeypatch.setattr(recompute, "BACKEND", "aot_eager")
    yield


@pytest.mark.parametrize("name", CASES)
def test_a_way_to_save_memory_changes_no_loss(
    name: str, courses: dict[str, list[Course]], alone: dict[ModelSpec, Course]
) -> None:
    case = CASES[name]
    assert isinstance(case.model, ModelSpec)
    if case.precision is Precision.FP32:
        assert differences(courses[name], alone[case.model], 1e-4) == []
        return
    for course in courses[name]:
        assert course.losses == pytest.approx(alone[case.model].losses, rel=1e-2)


def test_compiled_parts_train_as_they_are(quick_compiler: None, alone: dict[ModelSpec, Course]) -> None:
    for name, found in courses_of(COMPILED).items():
        model = COMPILED[name].model
        assert isinstance(model, ModelSpec)
        assert differences(found, alone[model], 1e-4) == [], name


def on_one_rank(layout: LayoutSpec, precision: Precision = Precision.FP32) -> torch.nn.Module:
    """The dense decoder with weights; all ranks of a process group of one call it."""
    run = RunSpec(dataset="none", model=DENSE, layout=layout)
    run = replace(run, train=replace(run.train, precision=precision))
    laid = parallelize(build_model(DENSE, VOCABULARY), Meshes.build(run.layout, "cpu", 1), run)
    return materialise(laid, 0, torch.device("cpu"))


def saved_bytes(layout: LayoutSpec) -> int:
    """What a forward pass saves for the way back."""
    held: list[int] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        held.append(tensor.numel() * tensor.element_size())
        return tensor

    model = on_one_rank(layout)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(torch.zeros((2, 16), dtype=torch.int64))
    return sum(held)


def test_full_recompute_keeps_a_fraction_of_what_a_forward_pass_saves() -> None:
    ways = [LayoutSpec(recompute=way) for way in (Recompute.NONE, Recompute.FULL)]
    everything, inputs = run_ranks(1, lambda rank: [saved_bytes(way) for way in ways])[0]
    assert 0 < inputs < everything / 4


def test_a_smaller_budget_keeps_less(quick_compiler: None) -> None:
    def saved(rank: int) -> list[int]:
        found = []
        for budget in (0.9, 0.5, 0.1):
            torch._dynamo.reset()
            found.append(
                saved_bytes(
                    LayoutSpec(recompute=Recompute.BUDGET, recompute_budget=budget, compile=CompileUnit.BLOCK)
                )
            )
        return found

    much, some, little = run_ranks(1, saved)[0]
    assert much > some > little > 0


class Counting(TorchDispatchMode):
    """Counts operators by name."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.found[function.overloadpacket.__name__] += 1
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("precision", [Precision.FP32, BF16])
def test_selective_recompute_repeats_what_is_cheap_and_no_product(precision: Precision) -> None:
    products = ("mm", "bmm", "baddbmm", "_scaled_dot_product_flash_attention_for_cpu")

    def counted(rank: int) -> list[tuple[int, int]]:
        found = []
        for way in (Recompute.NONE, Recompute.SELECTIVE, Recompute.FULL):
            model = on_one_rank(LayoutSpec(recompute=way), precision)
            with Counting() as counting:
                torch.autograd.backward(model(torch.zeros((2, 16), dtype=torch.int64)).float().sum())
            found.append((sum(counting.found[name] for name in products), counting.found["silu"]))
        return found

    none, selective, full = run_ranks(1, counted)[0]
    assert none[1] == DENSE.layers
    assert selective == (none[0], 2 * DENSE.layers)
    assert full[0] > none[0]
    assert full[1] == 2 * DENSE.layers


def test_what_full_recompute_does_again_is_what_hfu_counts() -> None:
    def counted(rank: int) -> list[int]:
        found = []
        for way in (Recompute.NONE, Recompute.FULL):
            model = on_one_rank(LayoutSpec(recompute=way))
            with FlopCounterMode(display=False) as counting:
                torch.autograd.backward(model(torch.zeros((2, 16), dtype=torch.int64)).sum())
            found.append(counting.get_flop_counts()["Global"][torch.ops.aten.mm])
        return found

    once, again = run_ranks(1, counted)[0]
    assert once == 32 * DENSE.training_flops_per_token(VOCABULARY, 0)  # of products alone: no pairs
    assert again - once == 32 * DENSE.recomputed_flops_per_token(0)


def expected(hidden: torch.Tensor, matrix: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return functional.cross_entropy(functional.linear(hidden, matrix).float(), targets)


@pytest.mark.parametrize("chunks", [1, 3, 50])
def test_a_loss_in_chunks_is_the_whole_one_and_never_holds_the_logits(
    chunks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    plain = vocabulary._cross_entropy

    def noting(logits: torch.Tensor, *rest: object) -> tuple[torch.Tensor, torch.Tensor]:
        seen.append(len(logits))
        return plain(logits, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(vocabulary, "_cross_entropy", noting)

    def both(rank: int) -> tuple[list[torch.Tensor], list[torch.Tensor], list[int]]:
        generator = torch.Generator().manual_seed(1)
        hidden = torch.randn(37, 8, generator=generator).requires_grad_()
        matrix = torch.randn(50, 8, generator=generator).requires_grad_()
        targets = torch.randint(0, 50, (37,), generator=generator)
        found = LinearCrossEntropy.apply(hidden, matrix, targets, chunks, None, 0)
        (found * 3).backward()
        ours = [found.detach(), hidden.grad, matrix.grad]
        hidden.grad = matrix.grad = None
        whole = expected(hidden, matrix, targets)
        (whole * 3).backward()
        theirs = [whole.detach(), hidden.grad, matrix.grad]
        return ours, theirs, seen  # type: ignore[return-value]

    ours, theirs, sizes = run_ranks(1, both)[0]
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    assert sum(sizes) == 37
    assert max(sizes) == -(-37 // chunks)
