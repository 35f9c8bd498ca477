"""A run of a mixture on real ranks: killed and gone on with on fewer, it equals the uninterrupted one."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from stoker.core.events import Event, EventKind
from stoker.spec.job import CommitRef
from stoker.spec.layout import LayoutSpec, Schedule
from stoker.spec.run import Precision
from stoker.train.commit_store import read_commit
from support.ranks import RankFailed
from support.run_places import RUN_SPEC, Killed, RunPlace
from support.small_datasets import NAME
from support.small_runs import open_objects


def losses(events: list[Event]) -> dict[int, float]:
    return {int(e.number("step")): e.number("loss") for e in events if e.kind is EventKind.STEP}


def commits(events: list[Event]) -> list[CommitRef]:
    return [
        CommitRef(int(event.number("sequence")), int(event.number("step")), event.text("digest"))
        for event in events
        if event.kind is EventKind.CHECKPOINT_COMMITTED
    ]


def mixed_place(folder: Path) -> RunPlace:
    place = RunPlace.make(folder)
    place.heldout_weight = 0.25
    return place


def test_a_mixture_goes_on_exactly_on_another_number_of_ranks(tmp_path: Path) -> None:
    straight = losses(mixed_place(tmp_path / "whole").attempt())
    alone = losses(RunPlace.make(tmp_path / "alone").attempt())
    assert straight != alone
    place = mixed_place(tmp_path / "killed")
    with pytest.raises(RankFailed, match=Killed.__name__):
        place.attempt(die_after=5)
    assert losses(place.told) == {step: straight[step] for step in range(1, 6)}
    (reference,) = commits(place.told)
    with open_objects(place.dataset.store_folder, place.keys) as objects:
        state = read_commit(objects, reference).extra["feed"]
    assert isinstance(state, dict)
    assert (state["format"], state["consumed"]) == (2, 3 * 4)
    assert [part["thousandths"] for part in state["parts"]] == [750, 250]
    events = place.attempt(reference, world_size=1)
    # One rank sums what two summed apart: the same batches, and floats in another order.
    assert losses(events) == pytest.approx({step: straight[step] for step in range(4, 9)}, rel=1e-3)
    names = [event.text("name") for event in events if event.kind is EventKind.EVALUATION]
    assert names == ["model", "bigram", "zlib-9", "xz", "model on other"]


WIDE = replace(RUN_SPEC, model=replace(RUN_SPEC.model, layers=4, kv_heads=2, tied_embeddings=False))
SHORT = replace(WIDE, train=replace(WIDE.train, steps=3, precision=Precision.FP32))


def domains(events: list[Event]) -> dict[str, float]:
    """The loss of each dataset in each step."""
    return {
        f"{int(event.number('step'))} {name}": value
        for event in events
        if event.kind is EventKind.STEP
        for name, value in event.fields.get("loss_of", {}).items()  # type: ignore[union-attr]
    }


@pytest.fixture(scope="module")
def by_dataset() -> Iterator[dict[str, float]]:
    with tempfile.TemporaryDirectory() as folder:
        yield domains(mixed_place(Path(folder)).attempt(spec=SHORT))


@pytest.mark.parametrize(
    "layout",
    [
        LayoutSpec(micro_batches=2, loss_chunks=3),
        LayoutSpec(dp_shard=1, tp=2),
        LayoutSpec(dp_shard=1, cp=2),
        LayoutSpec(dp_shard=1, pp=2, micro_batches=4),
        LayoutSpec(dp_shard=1, pp=2, micro_batches=4, schedule=Schedule.ZBV),
    ],
    ids=["micro-batches in chunks", "tp", "cp", "pp", "zbv"],
)
def test_the_loss_of_each_dataset_is_the_same_on_every_layout(
    layout: LayoutSpec, by_dataset: dict[str, float], tmp_path: Path
) -> None:
    found = domains(mixed_place(tmp_path).attempt(spec=replace(SHORT, layout=layout)))
    assert len(by_dataset) > SHORT.train.steps
    assert found == pytest.approx(by_dataset, rel=1e-4)


def test_each_step_tells_the_loss_of_each_dataset_and_they_make_up_the_whole(tmp_path: Path) -> None:
    """Four rows a step, three quarters of them of the first dataset: weighted by rows, they are the loss."""
    place = mixed_place(tmp_path)
    told = [event for event in place.attempt() if event.kind is EventKind.STEP]
    of = [event.fields["loss_of"] for event in told]
    assert all(isinstance(each, dict) and set(each) <= {NAME, "other"} for each in of)
    assert {"other"} <= {name for each in of if isinstance(each, dict) for name in each}
    for event, parts in zip(told, of, strict=True):
        assert isinstance(parts, dict)
        values = [float(value) for value in parts.values() if isinstance(value, float)]
        assert min(values) - 1e-6 <= event.number("loss") <= max(values) + 1e-6
    mixed = [(e, p) for e, p in zip(told, of, strict=True) if isinstance(p, dict) and len(p) == 2]
    assert mixed
    for event, parts in mixed:
        shares = [
            rows / 4 * float(parts[NAME]) + (4 - rows) / 4 * float(parts["other"]) for rows in (1, 2, 3)
        ]  # type: ignore[arg-type]
        assert any(share == pytest.approx(event.number("loss"), rel=1e-5) for share in shares)
