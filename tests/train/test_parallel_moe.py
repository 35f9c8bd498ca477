"""The contract of the engine for a decoder with experts: every layout trains as one process does."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.distributed as distributed

from stoker.spec.layout import ContextParallelism, LayoutSpec
from stoker.spec.run import Precision
from stoker.train.parallel.expert import exchange
from support.layouts import MIXTURE, SEQUENCE, VOCABULARY, Case, Course, courses_of, differences, train_alone
from support.ranks import run_ranks

CAPPED = replace(MIXTURE, moe=replace(MIXTURE.moe, capacity_factor=1.0))

AXES = {
    "dp_shard": Case(LayoutSpec()),
    "dp_replicate": Case(LayoutSpec(dp_replicate=2)),
    "tp with sequence parallelism": Case(LayoutSpec(tp=2)),
    "tp without": Case(LayoutSpec(tp=2, sequence_parallel=False)),
    "cp": Case(LayoutSpec(cp=2)),
    "ep": Case(LayoutSpec(ep=2)),
    "pp": Case(LayoutSpec(pp=2, micro_batches=4)),
    "accumulation": Case(LayoutSpec(micro_batches=4)),
}
MIXES = {
    "ep in dp_shard": Case(LayoutSpec(ep=2), 4),
    "ep 4": Case(LayoutSpec(ep=4), 4),
    "ep and tp": Case(LayoutSpec(ep=2, tp=2), 4),
    "ep and tp without sequence parallelism": Case(LayoutSpec(ep=2, tp=2, sequence_parallel=False), 4),
    "ep in cp": Case(LayoutSpec(ep=2, cp=2), 4),
    "ep over dp_shard and cp": Case(LayoutSpec(ep=4, cp=2), 4),
    "ep and dp_replicate": Case(LayoutSpec(ep=2, dp_replicate=2), 4),
    "ep and pp": Case(LayoutSpec(ep=2, pp=2, micro_batches=2), 4),
    "ep, accumulation, loss in chunks": Case(LayoutSpec(ep=2, micro_batches=2, loss_chunks=2), 4),
    "tp and cp by ulysses": Case(LayoutSpec(tp=2, cp=2, context=ContextParallelism.ULYSSES), 4),
    "pp and tp": Case(LayoutSpec(pp=2, tp=2, micro_batches=2), 4),
    "pp and cp": Case(LayoutSpec(pp=2, cp=2, micro_batches=2), 4),
    "ep, tp and pp": Case(LayoutSpec(ep=2, tp=2, pp=2, micro_batches=2), 8),
    "ep, dp_replicate and cp": Case(LayoutSpec(ep=2, dp_replicate=2, cp=2), 8),
}
IN_BF16 = {
    f"{name} in bf16": replace(case, precision=Precision.BF16)
    for name, case in {**AXES, **MIXES}.items()
    if name in {"dp_shard", "ep", "ep and tp", "ep and pp"}
}
CASES = {name: replace(case, model=MIXTURE) for name, case in {**AXES, **MIXES, **IN_BF16}.items()}


@pytest.fixture(scope="module")
def courses() -> dict[str, list[Course]]:
    return courses_of(CASES)


@pytest.fixture(scope="module")
def alone() -> Course:
    return run_ranks(1, lambda rank: train_alone(MIXTURE))[0]


@pytest.mark.parametrize("name", CASES)
def test_a_layout_trains_as_one_process_does(
    name: str, courses: dict[str, list[Course]], alone: Course
) -> None:
    case = CASES[name]
    if case.precision is Precision.FP32:
        assert differences(courses[name], alone, 1e-4) == []
        return
    # In bf16 a token near the border goes to another expert, so only the figures of all are near.
    for course in courses[name]:
        assert course.losses == pytest.approx(alone.losses, rel=1e-2)


@pytest.mark.parametrize("name", CASES)
def test_every_layout_of_the_contract_is_legal(name: str) -> None:
    case = CASES[name]
    rows = case.train.global_batch
    assert list(case.layout.problems(case.model, VOCABULARY, SEQUENCE, rows, case.ranks)) == []


def test_biases_move_against_the_load_of_all_ranks(alone: Course) -> None:
    biases = [value for name, value in alone.buffers.items() if name.endswith("selection_bias")]
    assert len(biases) == MIXTURE.moe_layers
    assert all(bias.abs().max() > 0 for bias in biases)


def test_experts_with_a_capacity_train_with_ep_too() -> None:
    # A capacity counts each rank's own tokens, so losses are near those of one process, not equal to them.
    def losses(rank: int) -> list[float]:
        from support.layouts import train_over

        return train_over(Case(LayoutSpec(ep=2), model=CAPPED)).losses

    expected = run_ranks(1, lambda rank: train_alone(CAPPED))[0].losses
    first, second = run_ranks(2, losses)
    assert first == second
    assert first == pytest.approx(expected, rel=2e-2)


def test_rows_travel_to_their_rank_and_gradients_travel_back() -> None:
    sizes = [[1, 3], [0, 2]]  # by sender, then by receiver

    def travelled(rank: int) -> tuple[torch.Tensor, torch.Tensor]:
        rows = torch.arange(sum(sizes[rank]), dtype=torch.float32).add_(10 * rank).unsqueeze(1)
        rows.requires_grad_()
        received = [of_sender[rank] for of_sender in sizes]
        group = distributed.group.WORLD
        assert group is not None
        arrived = exchange(rows, sizes[rank], received, group)
        (arrived * (rank + 1)).sum().backward()
        assert rows.grad is not None
        return arrived.detach().flatten(), rows.grad.flatten()

    (first, first_gradient), (second, second_gradient) = run_ranks(2, travelled)
    assert first.tolist() == [0.0]
    assert second.tolist() == [1.0, 2.0, 3.0, 10.0, 11.0]
    assert first_gradient.tolist() == [1.0, 2.0, 2.0, 2.0]
    assert second_gradient.tolist() == [2.0, 2.0]
