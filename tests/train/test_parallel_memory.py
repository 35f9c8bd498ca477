"""Ways to save memory or time change no loss: recompute, compile, chunks of the loss, host memory."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as functional

from stoker.spec.layout import CompileUnit, LayoutSpec, Recompute, Schedule
from stoker.spec.run import RunSpec
from stoker.train.models import build_model, materialise
from stoker.train.parallel import recompute, vocabulary
from stoker.train.parallel.mesh import Meshes
from stoker.train.parallel.vocabulary import LinearCrossEntropy
from stoker.train.parallelize import parallelize
from support.layouts import DENSE, MIXTURE, VOCABULARY, Case, Course, courses_of, differences, train_alone
from support.ranks import run_ranks

CASES = {
    "full": Case(LayoutSpec(recompute=Recompute.FULL)),
    "selective": Case(LayoutSpec(recompute=Recompute.SELECTIVE)),
    "selective, tp": Case(LayoutSpec(recompute=Recompute.SELECTIVE, tp=2)),
    "selective, cp": Case(LayoutSpec(recompute=Recompute.SELECTIVE, cp=2)),
    "selective, ep": Case(LayoutSpec(recompute=Recompute.SELECTIVE, ep=2), model=MIXTURE),
    "full, ep": Case(LayoutSpec(recompute=Recompute.FULL, ep=2), model=MIXTURE),
    "full, pp zbv": Case(LayoutSpec(recompute=Recompute.FULL, pp=2, micro_batches=4, schedule=Schedule.ZBV)),
    "in host memory": Case(LayoutSpec(cpu_offload=True)),
}
COMPILED = {
    "by block, tp": Case(LayoutSpec(compile=CompileUnit.BLOCK, tp=2)),
    "by block": Case(LayoutSpec(compile=CompileUnit.BLOCK)),
    "by block within a budget": Case(
        LayoutSpec(compile=CompileUnit.BLOCK, recompute=Recompute.BUDGET, recompute_budget=0.3)
    ),
}


@pytest.fixture(scope="module")
def courses() -> dict[str, list[Course]]:
    return courses_of(CASES)


@pytest.fixture(scope="module")
def alone() -> dict[bool, Course]:
    dense, mixture = run_ranks(1, lambda rank: (train_alone(DENSE), train_alone(MIXTURE)))[0]
    return {False: dense, True: mixture}


@pytest.fixture
def quick_compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Everything of torch.compile but the C++ compiler, which would take a minute."""
    monkeypatch.setattr(recompute, "BACKEND", "aot_eager")
    yield


@pytest.mark.parametrize("name", CASES)
def test_a_way_to_save_memory_changes_no_loss(
    name: str, courses: dict[str, list[Course]], alone: dict[bool, Course]
) -> None:
    assert differences(courses[name], alone[CASES[name].model.moe is not None], 1e-4) == []


def test_compiled_parts_train_as_they_are(quick_compiler: None, alone: dict[bool, Course]) -> None:
    for name, found in courses_of(COMPILED).items():
        assert differences(found, alone[False], 1e-4) == [], name


def test_full_recompute_keeps_a_fraction_of_what_a_forward_pass_saves() -> None:
    def saved(rank: int) -> list[int]:
        found = []
        for way in (Recompute.NONE, Recompute.FULL):
            run = RunSpec(dataset="none", model=DENSE, layout=LayoutSpec(recompute=way))
            laid = parallelize(build_model(DENSE, VOCABULARY), Meshes.build(run.layout, "cpu", 1), run)
            model = materialise(laid, 0, torch.device("cpu"))
            held: list[int] = []

            def pack(tensor: torch.Tensor, held: list[int] = held) -> torch.Tensor:
                held.append(tensor.numel() * tensor.element_size())
                return tensor

            with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
                model(torch.zeros((2, 16), dtype=torch.int64))
            found.append(sum(held))
        return found

    everything, inputs = run_ranks(1, saved)[0]
    assert 0 < inputs < everything / 4


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
