"""The contract of the engine for ViT and Conformer: every layout trains as one process does.

Losses of five steps within 1e-4 of themselves in fp32 and 1e-2 in bf16, the first gradient of every parameter
within ten times that of its norm, and all ranks see the same figures.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh

from stoker.spec.layout import CompileUnit, ContextParallelism, LayoutSpec, Recompute, Schedule
from stoker.spec.run import Precision
from stoker.train.models.speech import surround
from stoker.train.parallel import recompute
from stoker.train.parallel.encoder_context import SharedPositions
from support.layouts import (
    CLIPS,
    HIDDEN,
    PICTURES,
    Case,
    Course,
    courses_of,
    differences,
    train_alone,
    train_over,
)
from support.ranks import run_ranks

ULYSSES = ContextParallelism.ULYSSES
# 17 positions of a picture and 6 of a clip: of cp 4's pieces one is not full, or empty.
BOTH = {"pictures": PICTURES, "clips": CLIPS}

AXES = {
    "dp_shard": Case(LayoutSpec()),
    "dp_replicate": Case(LayoutSpec(dp_replicate=2)),
    "tp": Case(LayoutSpec(tp=2)),
    "cp by gathered keys": Case(LayoutSpec(cp=2)),
    "cp by ulysses": Case(LayoutSpec(cp=2, context=ULYSSES)),
    "pp 1f1b": Case(LayoutSpec(pp=2, micro_batches=4)),
    "pp interleaved": Case(LayoutSpec(pp=2, micro_batches=4, schedule=Schedule.INTERLEAVED)),
    "pp zero bubble": Case(LayoutSpec(pp=2, micro_batches=4, schedule=Schedule.ZERO_BUBBLE)),
    "pp zbv": Case(LayoutSpec(pp=2, micro_batches=4, schedule=Schedule.ZBV)),
    "pp dualpipev": Case(LayoutSpec(pp=2, micro_batches=4, schedule=Schedule.DUALPIPEV)),
    "accumulation": Case(LayoutSpec(micro_batches=4)),
    "recompute": Case(LayoutSpec(recompute=Recompute.FULL)),
}
MIXES = {
    "hsdp, accumulation": Case(LayoutSpec(dp_replicate=2, micro_batches=2), 4),
    "tp in dp_shard": Case(LayoutSpec(tp=2), 4),
    "tp in dp_replicate, accumulation": Case(LayoutSpec(tp=2, dp_replicate=2, micro_batches=2), 4),
    "cp in dp_shard, selective recompute": Case(LayoutSpec(cp=2, recompute=Recompute.SELECTIVE), 4),
    "cp 4 in host memory": Case(LayoutSpec(cp=4, cpu_offload=True), 4),
    "cp by ulysses and dp_replicate": Case(LayoutSpec(cp=2, context=ULYSSES, dp_replicate=2), 4),
    "cp and tp, full recompute": Case(LayoutSpec(cp=2, tp=2, recompute=Recompute.FULL), 4),
    "cp by ulysses and tp, accumulation": Case(LayoutSpec(cp=2, tp=2, context=ULYSSES, micro_batches=2), 4),
    "cp and accumulation, compiled": Case(LayoutSpec(cp=2, micro_batches=2, compile=CompileUnit.BLOCK)),
    "pp and tp": Case(LayoutSpec(pp=2, tp=2, micro_batches=2), 4),
    "pp and dp_replicate, selective recompute": Case(
        LayoutSpec(pp=2, dp_replicate=2, micro_batches=2, recompute=Recompute.SELECTIVE), 4
    ),
    "pp interleaved and dp_shard, full recompute": Case(
        LayoutSpec(pp=2, micro_batches=4, schedule=Schedule.INTERLEAVED, recompute=Recompute.FULL), 4
    ),
    "pp zbv and cp": Case(LayoutSpec(pp=2, cp=2, micro_batches=4, schedule=Schedule.ZBV), 4),
    "pp zero bubble and tp": Case(LayoutSpec(pp=2, tp=2, micro_batches=4, schedule=Schedule.ZERO_BUBBLE), 4),
    "pp dualpipev, cp and tp": Case(
        LayoutSpec(pp=2, cp=2, tp=2, micro_batches=4, schedule=Schedule.DUALPIPEV), 8
    ),
    "dp_replicate, dp_shard and cp by ulysses": Case(
        LayoutSpec(dp_replicate=2, dp_shard=2, cp=2, context=ULYSSES), 8
    ),
}
IN_BF16 = {
    f"{name} in bf16": replace(case, precision=Precision.BF16)
    for name, case in {**AXES, **MIXES}.items()
    if name in {"tp", "cp by gathered keys", "pp 1f1b", "pp zbv and cp"}
}
# It has two ways through its blocks, so neither pp nor cp.
OF_HIDDEN = ("dp_shard", "tp", "accumulation", "recompute", "tp in dp_replicate, accumulation")
# Its decoder's blocks are narrower than its encoder's, and share their code.
HIDDEN_COMPILED = Case(LayoutSpec(tp=2, compile=CompileUnit.BLOCK), model=HIDDEN)
CASES = {
    f"{what}, {name}": replace(case, model=model)
    for what, model in BOTH.items()
    for name, case in {**AXES, **MIXES, **IN_BF16}.items()
} | {f"hidden patches, {name}": replace({**AXES, **MIXES}[name], model=HIDDEN) for name in OF_HIDDEN}
CASES["hidden patches, tp, compiled"] = HIDDEN_COMPILED


@pytest.fixture(scope="module")
def courses() -> dict[str, list[Course]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recompute, "BACKEND", "aot_eager")  # all of torch.compile but the C++ compiler
        return courses_of(CASES)


@pytest.fixture(scope="module")
def alone() -> dict[str, Course]:
    def train(rank: int) -> dict[str, Course]:
        whole = {what: train_alone(model) for what, model in {**BOTH, "hidden patches": HIDDEN}.items()}
        for what, model in BOTH.items():
            whole[f"{what} in bf16"] = train_over(
                Case(LayoutSpec(), 1, model=model, precision=Precision.BF16)
            )
        return whole

    return run_ranks(1, train)[0]


@pytest.mark.parametrize("name", CASES)
def test_a_layout_trains_as_one_process_does(
    name: str, courses: dict[str, list[Course]], alone: dict[str, Course]
) -> None:
    what = name.split(",")[0]
    if CASES[name].precision is Precision.FP32:
        assert differences(courses[name], alone[what], 1e-4) == []
    else:
        assert differences(courses[name], alone[f"{what} in bf16"], 1e-2) == []


@pytest.mark.parametrize("name", CASES)
def test_every_layout_of_the_contract_is_legal(name: str) -> None:
    case = CASES[name]
    rows = case.train.global_batch
    assert list(case.layout.problems(case.model, None, None, rows, case.ranks)) == []


@pytest.mark.parametrize("reach", [0, 1, 3, 5])
def test_a_convolution_has_its_neighbours_from_other_ranks(reach: int) -> None:
    whole = torch.arange(1.0, 15.0).view(1, 7, 2)  # in pieces of 3, the last of which is filled up

    def surrounded(rank: int) -> tuple[torch.Tensor, torch.Tensor]:
        positions = SharedPositions(init_device_mesh("cpu", (3,)))
        leaf = positions.enter(whole).requires_grad_()
        found = positions.surround(leaf, reach)
        (found * (rank + 1)).sum().backward()
        assert leaf.grad is not None
        return found.detach(), leaf.grad[0, :, 0]

    expected = surround(torch.nn.functional.pad(whole, (0, 0, 0, 2)), reach)
    received = torch.zeros(9 + 2 * reach)
    results = run_ranks(3, surrounded)
    for rank, (found, _) in enumerate(results):
        assert torch.equal(found, expected[:, 3 * rank : 3 * rank + 3 + 2 * reach])
        received[3 * rank : 3 * rank + 3 + 2 * reach] += rank + 1
    assert torch.equal(torch.cat([gradient for _, gradient in results]), received[reach : reach + 9])
