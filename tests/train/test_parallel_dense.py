"""The contract of the engine for a dense decoder: every layout trains as one process does.

Losses of five steps within 1e-4 of themselves in fp32 and 1e-2 in bf16, the first gradient of every parameter
within ten times that of its norm, and all ranks see the same figures.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from stoker.spec.layout import ContextParallelism, LayoutSpec, Schedule
from stoker.spec.run import Precision
from support.layouts import DENSE, SEQUENCE, VOCABULARY, Case, Course, courses_of, differences, train_alone
from support.ranks import run_ranks

ULYSSES = ContextParallelism.ULYSSES
TIED = replace(DENSE, tied_embeddings=True)

AXES = {
    "dp_shard": Case(LayoutSpec()),
    "dp_replicate": Case(LayoutSpec(dp_replicate=2)),
    "tp with sequence parallelism": Case(LayoutSpec(tp=2)),
    "tp without": Case(LayoutSpec(tp=2, sequence_parallel=False)),
    "tp, tied": Case(LayoutSpec(tp=2), model=TIED),
    "cp by zig-zag": Case(LayoutSpec(cp=2)),
    "cp by ulysses": Case(LayoutSpec(cp=2, context=ULYSSES)),
    "pp 1f1b": Case(LayoutSpec(pp=2, micro_batches=4)),
    "pp interleaved": Case(LayoutSpec(pp=2, micro_batches=4, schedule=Schedule.INTERLEAVED)),
    "pp zero bubble": Case(LayoutSpec(pp=2, micro_batches=4, schedule=Schedule.ZERO_BUBBLE)),
    "pp zbv": Case(LayoutSpec(pp=2, micro_batches=4, schedule=Schedule.ZBV)),
    "pp dualpipev": Case(LayoutSpec(pp=2, micro_batches=4, schedule=Schedule.DUALPIPEV)),
    "accumulation": Case(LayoutSpec(micro_batches=4)),
    "loss in chunks": Case(LayoutSpec(loss_chunks=3)),
}
MIXES = {
    "hsdp": Case(LayoutSpec(dp_replicate=2, micro_batches=2), 4),
    "tp in dp_shard": Case(LayoutSpec(tp=2), 4),
    "tp in dp_replicate": Case(LayoutSpec(tp=2, dp_replicate=2), 4),
    "tp 4": Case(LayoutSpec(tp=4, loss_chunks=2), 4),
    "cp in dp_shard": Case(LayoutSpec(cp=2), 4),
    "cp 4 by zig-zag": Case(LayoutSpec(cp=4), 4),
    "cp 4 by ulysses": Case(LayoutSpec(cp=4, context=ULYSSES), 4),
    "cp and tp": Case(LayoutSpec(cp=2, tp=2, loss_chunks=2), 4),
    "cp by ulysses and tp": Case(LayoutSpec(cp=2, tp=2, context=ULYSSES), 4),
    "pp 4": Case(LayoutSpec(pp=4, micro_batches=4), 4),
    "pp and dp_shard": Case(LayoutSpec(pp=2, micro_batches=4), 4),
    "pp and dp_replicate": Case(LayoutSpec(pp=2, dp_replicate=2, micro_batches=2), 4),
    "pp and tp": Case(LayoutSpec(pp=2, tp=2, micro_batches=2), 4),
    "pp interleaved and cp": Case(LayoutSpec(pp=2, cp=2, micro_batches=2, schedule=Schedule.INTERLEAVED), 4),
    "pp zbv and tp": Case(LayoutSpec(pp=2, tp=2, micro_batches=4, schedule=Schedule.ZBV), 4),
    "pp zero bubble and dp_shard": Case(
        LayoutSpec(pp=2, micro_batches=4, schedule=Schedule.ZERO_BUBBLE, loss_chunks=2), 4
    ),
    "pp dualpipev, cp and tp": Case(
        LayoutSpec(pp=2, cp=2, tp=2, micro_batches=4, schedule=Schedule.DUALPIPEV), 8
    ),
    "pp, dp_replicate and tp": Case(LayoutSpec(pp=2, dp_replicate=2, tp=2, micro_batches=2), 8),
    "dp_replicate, dp_shard and cp": Case(LayoutSpec(dp_replicate=2, dp_shard=2, cp=2), 8),
}
IN_BF16 = {
    f"{name} in bf16": replace(case, precision=Precision.BF16)
    for name, case in {**AXES, **MIXES}.items()
    if name in {"dp_shard", "tp with sequence parallelism", "cp by zig-zag", "pp 1f1b", "pp zbv", "cp and tp"}
}
CASES = {**AXES, **MIXES, **IN_BF16}


@pytest.fixture(scope="module")
def courses() -> dict[str, list[Course]]:
    return courses_of(CASES)


@pytest.fixture(scope="module")
def alone() -> dict[bool, Course]:
    tied, untied = run_ranks(1, lambda rank: (train_alone(TIED), train_alone(DENSE)))[0]
    return {True: tied, False: untied}


@pytest.mark.parametrize("name", CASES)
def test_a_layout_trains_as_one_process_does(
    name: str, courses: dict[str, list[Course]], alone: dict[bool, Course]
) -> None:
    case = CASES[name]
    tolerance = 1e-2 if case.precision is Precision.BF16 else 1e-4
    assert differences(courses[name], alone[case.model.tied_embeddings], tolerance) == []


@pytest.mark.parametrize("name", CASES)
def test_every_layout_of_the_contract_is_legal(name: str) -> None:
    case = CASES[name]
    rows = case.train.global_batch
    assert list(case.layout.problems(case.model, VOCABULARY, SEQUENCE, rows, case.ranks)) == []


def test_one_process_learns_something(alone: dict[bool, Course]) -> None:
    assert len(set(alone[False].losses)) == len(alone[False].losses)
    assert all(norm > 0.1 for norm in alone[False].norms)
