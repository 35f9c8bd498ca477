"""Settings that make a rank hold less: each proposed one may run, and is not what the run has already."""

from __future__ import annotations

from dataclasses import replace

from stoker.spec.layout import CompileUnit, LayoutSpec, Recompute, Schedule
from stoker.spec.memory_knobs import Knob, state_knobs, step_knobs
from stoker.spec.model import ModelSpec
from stoker.spec.run import LaunchSpec, RunSpec, TrainSpec
from stoker.spec.vision import VisionSpec

RUN = RunSpec(
    dataset="d",
    model=ModelSpec(layers=4, width=64, heads=4, kv_heads=4, ffn_width=96, tied_embeddings=False),
    train=TrainSpec(global_batch=24),
    launch=LaunchSpec(ranks=2),
)


def said(knobs: object) -> list[str]:
    assert isinstance(knobs, list)
    assert all(isinstance(knob, Knob) for knob in knobs)
    for knob in knobs:
        assert list(knob.spec.problems()) == []
    return [knob.overrides for knob in knobs]


def of_step(layout: LayoutSpec = RUN.layout, **changes: object) -> list[str]:
    return said(list(step_knobs(replace(RUN, layout=layout, **changes))))  # type: ignore[arg-type]


def of_state(layout: LayoutSpec, *, offload: bool = False) -> list[str]:
    return said(list(state_knobs(replace(RUN, layout=layout), offload=offload)))


def test_a_step_is_cut_further_and_computes_again() -> None:
    assert of_step() == [
        "layout.micro_batches=2",
        "layout.recompute=selective",
        "layout.recompute=full",
        "layout.loss_chunks=8",
    ]
    knob = next(step_knobs(RUN))
    assert str(knob) == "layout.micro_batches=2 (6 rows at a time instead of 12)"
    assert knob.spec.layout == LayoutSpec(micro_batches=2)


def test_what_a_run_has_already_is_not_proposed() -> None:
    full = LayoutSpec(micro_batches=4, recompute=Recompute.FULL, loss_chunks=8)
    assert of_step(full) == ["layout.micro_batches=6"]
    assert of_step(replace(full, micro_batches=12)) == []
    budget = LayoutSpec(micro_batches=12, recompute=Recompute.BUDGET, compile=CompileUnit.BLOCK)
    assert of_step(budget) == ["layout.recompute=full", "layout.loss_chunks=8"]


def test_what_a_layout_does_not_take_is_not_proposed() -> None:
    # A schedule that goes back twice through a block takes no selective recompute.
    zbv = LayoutSpec(pp=2, micro_batches=4, schedule=Schedule.ZBV)
    assert of_step(zbv) == [
        "layout.micro_batches=6",
        "layout.recompute=full",
        "layout.loss_chunks=8",
    ]
    assert "layout.loss_chunks=8" not in of_step(model=ModelSpec(), vision=VisionSpec())


def test_what_stays_between_steps_goes_to_more_shards_or_to_the_host() -> None:
    assert of_state(LayoutSpec()) == ["launch.ranks=4"]
    assert of_state(LayoutSpec(), offload=True) == ["layout.cpu_offload=true", "launch.ranks=4"]
    assert of_state(LayoutSpec(dp_replicate=2)) == [
        "layout.dp_replicate=1 layout.dp_shard=0",
        "launch.ranks=4",
    ]
    assert of_state(LayoutSpec(dp_shard=2)) == ["launch.ranks=4 layout.dp_shard=4"]
    # 24 rows in pieces of 12 give work to two ranks and no more.
    assert of_state(LayoutSpec(micro_batches=12)) == []
