"""The contract of the engine for ViT and Conformer: every layout trains as one process does."""

from __future__ import annotations

from dataclasses import replace

import pytest

from stoker.spec.layout import LayoutSpec, Recompute, Schedule
from stoker.spec.run import Precision
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

MODELS = {"pictures": PICTURES, "hidden patches": HIDDEN, "clips": CLIPS}
LAYOUTS = {
    "dp_shard": (LayoutSpec(), 2),
    "dp_replicate": (LayoutSpec(dp_replicate=2), 2),
    "tp": (LayoutSpec(tp=2), 2),
    "accumulation": (LayoutSpec(micro_batches=4), 2),
    "recompute": (LayoutSpec(recompute=Recompute.FULL), 2),
    "pp 1f1b": (LayoutSpec(pp=2, micro_batches=4), 2),
    "tp in dp_shard": (LayoutSpec(tp=2), 4),
    "tp in dp_replicate": (LayoutSpec(tp=2, dp_replicate=2, micro_batches=2), 4),
    "pp zbv": (LayoutSpec(pp=2, micro_batches=4, schedule=Schedule.ZBV), 2),
    "pp interleaved and dp_shard": (LayoutSpec(pp=2, micro_batches=4, schedule=Schedule.INTERLEAVED), 4),
    "pp and tp": (LayoutSpec(pp=2, tp=2, micro_batches=2), 4),
    "pp and dp_replicate": (LayoutSpec(pp=2, dp_replicate=2, micro_batches=2), 4),
}
CASES = {
    f"{what}, {name}": Case(layout, ranks, model=model)
    for what, model in MODELS.items()
    for name, (layout, ranks) in LAYOUTS.items()
    if not (what == "hidden patches" and layout.pp > 1)  # it has two ways through its blocks
}
IN_BF16 = {
    f"{name} in bf16": replace(CASES[name], precision=Precision.BF16)
    for name in ("pictures, tp", "pictures, pp 1f1b", "clips, tp", "clips, pp 1f1b")
}
ALL = {**CASES, **IN_BF16}


@pytest.fixture(scope="module")
def courses() -> dict[str, list[Course]]:
    return courses_of(ALL)


@pytest.fixture(scope="module")
def alone() -> dict[str, Course]:
    def train(rank: int) -> dict[str, Course]:
        whole = {what: train_alone(model) for what, model in MODELS.items()}
        for what in ("pictures", "clips"):
            one_rank = Case(LayoutSpec(), 1, model=MODELS[what], precision=Precision.BF16)
            whole[f"{what} in bf16"] = train_over(one_rank)
        return whole

    return run_ranks(1, train)[0]


@pytest.mark.parametrize("name", ALL)
def test_a_layout_trains_as_one_process_does(
    name: str, courses: dict[str, list[Course]], alone: dict[str, Course]
) -> None:
    what = name.split(",")[0]
    if ALL[name].precision is Precision.FP32:
        assert differences(courses[name], alone[what], 1e-4) == []
        return
    for course in courses[name]:
        assert course.losses == pytest.approx(alone[f"{what} in bf16"].losses, rel=1e-2)
