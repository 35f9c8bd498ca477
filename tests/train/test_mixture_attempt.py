"""A run of a mixture on real ranks: killed and gone on with on fewer, it equals the uninterrupted one."""

from __future__ import annotations

from pathlib import Path

import pytest

from stoker.core.events import Event, EventKind
from stoker.spec.job import CommitRef
from stoker.train.commit_store import read_commit
from support.ranks import RankFailed
from support.run_places import Killed, RunPlace
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
