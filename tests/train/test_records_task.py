"""Models of other families on real ranks and sealed records: as one process trains, stopped or not."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from stoker.core.clock import SystemClock
from stoker.core.events import Event, EventKind, read_events
from stoker.core.ids import ReviewId, RunId
from stoker.keys.refs import KekRef
from stoker.spec.job import CommitRef, Job
from stoker.spec.layout import LayoutSpec
from stoker.spec.run import Precision, RunSpec, TrainSpec
from stoker.spec.speech import SpeechSpec
from stoker.spec.vision import VisionSpec
from stoker.spec.watch import WatchSpec
from stoker.store.record_schema import FieldKind, RecordField, RecordSchema
from stoker.train.attempt import run_attempt
from stoker.train.device import HOST
from stoker.train.objectives.gather import gather_rows
from stoker.train.objectives.objective import UnfitBatch
from stoker.train.rank_place import RankPlace
from stoker.train.records_task import records_of
from support import other_device
from support.ranks import RankFailed, run_ranks
from support.run_places import Killed, RunPlace, telling
from support.sealed_records import NAME, REVIEW, VERSION, SealedRecords, sealed_records
from support.sealed_samples import KEK, MemoryKeys
from support.small_runs import RUN, open_objects

RUN_KEK = KekRef(f"run/{RUN}", 1)
SCHEMA = RecordSchema(
    (
        RecordField("image", FieldKind.BYTES, "uint8", media="image/*"),
        RecordField("label", FieldKind.NUMBER, "int64"),
    ),
    records_per_block=4,
    blocks_per_shard=2,
    chunk_log2=14,
)
SPEC = RunSpec(
    dataset="pictures",
    vision=VisionSpec(image_size=8, patch=4, layers=2, width=16, heads=2, ffn_width=32, classes=2),
    train=TrainSpec(
        steps=6,
        global_batch=4,
        learning_rate=1e-2,
        warmup_steps=1,
        checkpoint_every_steps=2,
        precision=Precision.FP32,
        seed=3,
    ),
)


def picture(number: int) -> dict[str, Any]:
    """Class 1 is bright above, class 0 below."""
    pixels = np.random.default_rng(number).integers(0, 100, (8, 8, 3), dtype=np.uint8)
    label = number % 2
    pixels[:4] += np.uint8(120 * label)
    pixels[4:] += np.uint8(120 * (1 - label))
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return {"image": file.getvalue(), "label": label}


@dataclass
class Place:
    """A store with sealed records, and how attempts are made on them."""

    folder: Path
    keys: MemoryKeys
    records: SealedRecords
    attempts: int = 0
    told: list[Event] = field(default_factory=list)

    def attempt(
        self,
        resume: CommitRef | None = None,
        *,
        spec: RunSpec = SPEC,
        world_size: int = 2,
        die_after: int | None = None,
        take_device: Callable[[], torch.device] = lambda: HOST,
    ) -> list[Event]:
        """The events of rank 0, which `told` keeps when it fails."""
        self.attempts += 1
        job = Job(
            run=RunId(RUN),
            attempt=self.attempts,
            world_size=world_size,
            node="n0",
            spec=spec,
            spec_digest="0" * 64,
            store_url=self.records.folder.as_uri(),
            cache_folder=str(self.folder / "cache"),
            run_folder=str(self.folder),
            rendezvous="",
            dataset=NAME,
            dataset_version=VERSION,
            dataset_root=self.records.root,
            dataset_public_key=self.records.public_key.hex(),
            review=ReviewId("rev-00000000000000000000"),
            review_digest=REVIEW.hex(),
            checkpoint_kek=str(RUN_KEK),
            resume=resume,
        )
        path = self.folder / f"events-{self.attempts}"

        def one_rank(rank: int) -> None:
            dataset = self.records.open()
            with (
                telling(path.with_suffix(f".{rank}"), job, rank) as telemetry,
                records_of(spec, dataset) as records,
                open_objects(self.records.folder, self.keys) as objects,
            ):
                telemetry.last_step = telemetry.last_step if die_after is None else die_after
                place = RankPlace(rank, world_size, take_device())
                clock = SystemClock()
                run_attempt(job, place, objects=objects, dataset=records, telemetry=telemetry, clock=clock)

        try:
            run_ranks(world_size, one_rank)
        finally:
            self.told = list(read_events(path.with_suffix(".0")).events)
        return self.told


def make_place(folder: Path) -> Place:
    keys = MemoryKeys(KEK, RUN_KEK)
    rows = [picture(number) for number in range(40)]
    splits = {"train": rows[:29], "heldout": rows[29:]}
    return Place(folder, keys, sealed_records(folder / "store", keys, SCHEMA, splits))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    place = make_place(tmp_path_factory.mktemp("whole"))
    place.attempt()
    yield place


def of_kind(events: list[Event], kind: EventKind) -> list[Event]:
    return [event for event in events if event.kind is kind]


def losses(events: list[Event]) -> dict[int, float]:
    return {int(event.number("step")): event.number("loss") for event in of_kind(events, EventKind.STEP)}


def figures(events: list[Event]) -> dict[str, float]:
    return {event.text("name"): event.number("value") for event in of_kind(events, EventKind.FIGURE)}


def test_a_run_on_pictures_tells_steps_rates_and_the_figures_of_its_objective(whole: Place) -> None:
    events = whole.told
    assert sorted(losses(events)) == [1, 2, 3, 4, 5, 6]
    assert set(figures(events)) == {"loss", "accuracy"}
    assert {event.number("rows") for event in of_kind(events, EventKind.FIGURE)} == {11.0}
    assert figures(events)["accuracy"] * 11 == pytest.approx(round(figures(events)["accuracy"] * 11))
    (ready,) = of_kind(events, EventKind.RANK_READY)
    assert ready.number("parameters") == SPEC.vision.parameters() if SPEC.vision else 0
    steps = of_kind(events, EventKind.STEP)
    assert {event.number("tokens") for event in steps} == {4.0}
    assert all(event.number("mfu") > 0 for event in steps)


def test_one_rank_trains_as_two_do(whole: Place, tmp_path: Path) -> None:
    alone = make_place(tmp_path).attempt(world_size=1)
    assert losses(alone) == pytest.approx(losses(whole.told), rel=1e-4)
    assert figures(alone) == pytest.approx(figures(whole.told), rel=1e-3)


@pytest.mark.parametrize(
    ("layout", "ranks"),
    [
        (LayoutSpec(tp=2), 2),
        (LayoutSpec(dp_replicate=2, micro_batches=2), 2),
        (LayoutSpec(pp=2, micro_batches=2), 2),
        (LayoutSpec(pp=2, cp=2, micro_batches=2), 4),
    ],
)
def test_a_run_on_pictures_on_another_layout_is_the_same(
    layout: LayoutSpec, ranks: int, whole: Place, tmp_path: Path
) -> None:
    found = make_place(tmp_path).attempt(spec=replace(SPEC, layout=layout), world_size=ranks)
    assert losses(found) == pytest.approx(losses(whole.told), rel=1e-4)
    assert figures(found) == pytest.approx(figures(whole.told), rel=1e-3)


@pytest.mark.fresh_process
def test_a_run_on_another_device_trains_and_evaluates_as_on_the_host(whole: Place, tmp_path: Path) -> None:
    found = make_place(tmp_path).attempt(take_device=other_device.install)
    assert losses(found) == pytest.approx(losses(whole.told), rel=1e-4)
    assert figures(found) == pytest.approx(figures(whole.told), rel=1e-3)


def test_a_resumed_run_goes_on_as_if_it_had_never_stopped(whole: Place, tmp_path: Path) -> None:
    place = make_place(tmp_path)
    with pytest.raises(RankFailed, match=Killed.__name__):
        place.attempt(die_after=3)
    (saved,) = of_kind(place.told, EventKind.CHECKPOINT_COMMITTED)
    reference = CommitRef(int(saved.number("sequence")), int(saved.number("step")), saved.text("digest"))
    after = losses(place.attempt(reference))
    assert sorted(after) == [3, 4, 5, 6]
    assert after == {step: losses(whole.told)[step] for step in after}


def test_evaluations_within_a_run_are_of_the_objectives_loss(tmp_path: Path) -> None:
    watch = WatchSpec(evaluate_every_steps=2, patience=1, min_improvement=50.0)
    events = make_place(tmp_path).attempt(spec=replace(SPEC, watch=watch), world_size=1)
    within = [event for event in of_kind(events, EventKind.FIGURE) if "step" in event.fields]
    assert [event.number("step") for event in within if event.text("name") == "loss"] == [2, 4]
    (stopped,) = of_kind(events, EventKind.STOPPED_EARLY)
    assert stopped.number("best") == within[0].number("value")


def test_labels_beyond_the_models_classes_are_refused_by_name(tmp_path: Path) -> None:
    assert SPEC.vision is not None
    spec = replace(SPEC, vision=replace(SPEC.vision, image_size=8, patch=2, classes=2))
    place = make_place(tmp_path)
    rows = [{**picture(number), "label": number} for number in range(12)]
    place.records = sealed_records(
        tmp_path / "other", place.keys, SCHEMA, {"train": rows, "heldout": rows[:2]}
    )
    with pytest.raises(RankFailed, match=r"UnfitBatch: Column labels holds numbers from \d+ to \d+"):
        place.attempt(spec=spec, world_size=1)


def test_a_model_of_sound_on_pictures_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    place = make_place(tmp_path)
    with pytest.raises(RankFailed, match="NotDecodable"):
        place.attempt(spec=replace(SPEC, vision=None, speech=SpeechSpec()), world_size=1)
    assert of_kind(place.told, EventKind.STEP) == []


def test_rows_of_all_ranks_are_gathered_in_order_however_many_each_has() -> None:
    def rows(rank: int) -> tuple[list[int], list[bool]]:
        mine = torch.arange(3 * rank) + 10 * rank
        return gather_rows(mine).tolist(), gather_rows(mine > 10).tolist()

    found = run_ranks(3, rows)
    assert found[0] == found[1] == found[2]
    assert found[0][0] == [10, 11, 12, 20, 21, 22, 23, 24, 25]
    assert found[0][1] == [False, True, True, *[True] * 6]


def test_the_error_of_a_text_dataset_names_what_to_do(tmp_path: Path) -> None:
    place = RunPlace.make(tmp_path)
    with (
        pytest.raises(UnfitBatch, match=r"\[vision\] learns from records, and dataset/.* holds text"),
        records_of(SPEC, place.dataset.open(place.keys)),
    ):
        raise AssertionError("entered")
