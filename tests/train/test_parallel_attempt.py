"""A run file's [layout] really runs: attempts on two ranks reproduce the run that shards alone."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from stoker.core.events import Event, EventKind
from stoker.spec.job import CommitRef
from stoker.spec.layout import ContextParallelism, LayoutSpec, Schedule
from stoker.spec.run import Precision, RunSpec
from support.ranks import RankFailed
from support.run_places import RUN_SPEC, Killed, RunPlace

PLAIN = replace(
    RUN_SPEC,
    model=replace(RUN_SPEC.model, layers=4, tied_embeddings=False, kv_heads=RUN_SPEC.model.heads),
    train=replace(RUN_SPEC.train, precision=Precision.FP32),
)
LAYOUTS = {
    "tp": LayoutSpec(tp=2),
    "cp by zig-zag": LayoutSpec(cp=2),
    "cp by ulysses": LayoutSpec(cp=2, context=ContextParallelism.ULYSSES),
    "micro-batches and a loss in chunks": LayoutSpec(micro_batches=2, loss_chunks=2),
    "pp": LayoutSpec(pp=2, micro_batches=2),
    "pp zbv": LayoutSpec(pp=2, micro_batches=4, schedule=Schedule.ZBV),
}


def losses(events: list[Event]) -> list[float]:
    return [event.number("loss") for event in events if event.kind is EventKind.STEP]


def evaluations(events: list[Event]) -> dict[str, tuple[float, float]]:
    return {
        event.text("name"): (event.number("bits_per_byte"), event.number("bytes"))
        for event in events
        if event.kind is EventKind.EVALUATION
    }


def exposure(events: list[Event]) -> list[float]:
    return [event.number("bits") for event in events if event.kind is EventKind.EXPOSURE]


def sample(events: list[Event]) -> list[str]:
    return [event.text("text") for event in events if event.kind is EventKind.SAMPLE]


def run(layout: LayoutSpec, spec: RunSpec = PLAIN) -> list[Event]:
    with tempfile.TemporaryDirectory() as folder:
        return RunPlace.make(Path(folder)).attempt(spec=replace(spec, layout=layout))


@pytest.fixture(scope="module")
def plain() -> Iterator[list[Event]]:
    yield run(LayoutSpec())


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_run_on_a_layout_is_the_run_that_shards_alone(name: str, plain: list[Event]) -> None:
    found = run(LAYOUTS[name])
    assert losses(found) == pytest.approx(losses(plain), rel=1e-3)
    expected = evaluations(plain)
    for what, (bits, counted) in evaluations(found).items():
        assert counted == expected[what][1], what
        assert bits == pytest.approx(expected[what][0], rel=1e-3), what
    assert sample(found) == sample(plain)
    assert exposure(found) == pytest.approx(exposure(plain), abs=0.1)


@pytest.mark.parametrize(
    ("before", "after"),
    [("tp", "tp"), ("pp", "tp"), ("plain", "pp zbv"), ("pp zbv", "cp by zig-zag")],
)
def test_a_run_goes_on_from_its_checkpoint_on_the_same_layout_or_another(
    before: str, after: str, plain: list[Event]
) -> None:
    layouts = {**LAYOUTS, "plain": LayoutSpec()}
    with tempfile.TemporaryDirectory() as folder:
        place = RunPlace.make(Path(folder))
        with pytest.raises(RankFailed, match=Killed.__name__):
            place.attempt(spec=replace(PLAIN, layout=layouts[before]), die_after=5)
        begun = losses(place.told)
        (committed,) = (event for event in place.told if event.kind is EventKind.CHECKPOINT_COMMITTED)
        reference = CommitRef(
            int(committed.number("sequence")), int(committed.number("step")), committed.text("digest")
        )
        resumed = losses(place.attempt(reference, spec=replace(PLAIN, layout=layouts[after])))
    if before == after:
        assert resumed[:2] == begun[3:]
    assert begun == pytest.approx(losses(plain)[:5], rel=1e-4)
    assert resumed == pytest.approx(losses(plain)[3:], rel=1e-4)
