"""Records from a source: pictures, clips, texts and labels stay together, and what is broken is counted."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import signal
import struct
import wave
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stoker.core.progress import SILENT
from stoker.feed.dataset import Dataset
from stoker.feed.feed import Feed
from stoker.intake.errors import LabelMismatch, RecordFault, TooLittleText
from stoker.intake.executors.local import LocalExecutor
from stoker.intake.importing import import_source
from stoker.intake.prepare import PrepareReport, prepare_dataset
from stoker.intake.records import decoding
from stoker.intake.records.decoding import Decoder
from stoker.intake.records.grouping import group
from stoker.intake.review_request import review_digest
from stoker.intake.source_index import SourceFile
from stoker.keys.partition import BackendKeySource
from stoker.spec.recipe import ImportSpec, Kind, RecipeSpec
from stoker.spec.records import RecordPart, RecordsSpec, TextAs
from stoker.spec.source import Form, OnFault
from stoker.store.ragged import Ragged
from support.intake_home import IntakeHome, approve_source, intake_home

IMAGE, AUDIO, TEXT, LABEL = RecordPart
SMALL = {"records_per_block": 4, "blocks_per_shard": 2}


def recipe_of(*parts: RecordPart, **settings: Any) -> RecipeSpec:
    return RecipeSpec(
        vocabulary=300,
        tokenizer_sample_bytes=4000,
        heldout_fraction=0.25,
        chunk_log2=14,
        records=RecordsSpec(parts=parts, **{**SMALL, **settings}),
    )


def picture(number: int, kind: str = "JPEG") -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def clip(number: int, frames: int = 400) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(8000)
        samples = np.random.default_rng(number).integers(-9000, 9000, frames, dtype="<i2")
        writer.writeframes(samples.tobytes())
    return file.getvalue()


@pytest.fixture
def home(tmp_path: Path) -> Iterator[IntakeHome]:
    with intake_home(tmp_path / "home") as found:
        yield found


def bring(home: IntakeHome, folder: Path, files: Mapping[str, bytes], recipe: RecipeSpec) -> None:
    """Import, scan and approve."""
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    import_source(
        "clips",
        folder,
        ImportSpec(form=Form.RECORDS, on_fault=OnFault.LEAVE_OUT),
        actor="asker",
        ledger=home.ledger,
        backend=home.backend,
        store=home.store,
        progress=SILENT,
        clock=home.clock,
        locks=home.locks,
    )
    approve_source(home, "clips", recipe.policy)


def prepare(home: IntakeHome, recipe: RecipeSpec, **options: Any) -> PrepareReport:
    return prepare_dataset(
        "aligned",
        "clips",
        recipe,
        purpose="research",
        actor="asker",
        ledger=home.ledger,
        backend=home.backend,
        store=home.store,
        progress=SILENT,
        clock=home.clock,
        locks=home.locks,
        **{"page_bytes": 4000, **options},
    )


def opened(home: IntakeHome) -> Dataset:
    record = home.ledger.catalogue.latest_dataset("aligned")
    review = home.ledger.catalogue.review(record.review)
    return Dataset.open(
        home.store,
        None,
        name=record.name,
        version=record.version,
        root=record.root,
        public_key=home.backend.signer("manifest").public_key,
        keys=BackendKeySource(home.backend),
        review_digest=review_digest(review),
        clock=home.clock,
    )


def rows_of(dataset: Dataset) -> list[dict[str, Any]]:
    """Every record of both splits, in stored order."""
    found = []
    for split in ("train", "heldout"):
        for batch in dataset.split(split).sequential():
            for row in range(len(batch.numbers)):
                record = {}
                for field in dataset.superblock.schema.fields:  # type: ignore[union-attr]
                    column = batch.columns[field.name]
                    value = column.row(row) if isinstance(column, Ragged) else column[row]
                    record[field.name] = (
                        np.array(value).tobytes() if field.kind == "bytes" else np.array(value)
                    )
                found.append(record)
    return found


def aligned(count: int) -> dict[str, bytes]:
    files = {}
    for number in range(count):
        files[f"set/{number:03}.jpg"] = picture(number)
        files[f"set/{number:03}.wav"] = clip(number)
        files[f"set/{number:03}.txt"] = f"picture number {number}, ask person{number}@example.org".encode()
        files[f"set/{number:03}.cls"] = str(number % 5).encode()
    return files


def test_aligned_records_stay_aligned(home: IntakeHome, tmp_path: Path) -> None:
    recipe, files = recipe_of(IMAGE, AUDIO, TEXT, LABEL), aligned(30)
    bring(home, tmp_path / "raw", files, recipe)
    record = prepare(home, recipe).record
    assert record.figures["left_out"] == {}
    assert record.figures["redactions"] == {kind.value: 30 if kind is Kind.EMAIL else 0 for kind in Kind}
    dataset = opened(home)
    rows = rows_of(dataset)
    by_image = {files[f"set/{number:03}.jpg"]: number for number in range(30)}
    assert sorted(by_image[row["image"]] for row in rows) == list(range(30))
    tokenizer = _tokenizer(dataset)
    for row in rows:
        number = by_image[row["image"]]
        assert row["audio"] == files[f"set/{number:03}.wav"]
        assert int(row["label"]) == number % 5
        assert tokenizer(row["text"]) == f"picture number {number}, ask <EMAIL>"


def _tokenizer(dataset: Dataset) -> Callable[[Any], str]:
    from tokenizers import Tokenizer

    found = Tokenizer.from_str(bytes(dataset.artefact("tokenizer")).decode())
    return lambda tokens: str(found.decode(np.asarray(tokens).tolist(), skip_special_tokens=True))


def test_a_feed_gives_records_of_a_prepared_source(home: IntakeHome, tmp_path: Path) -> None:
    recipe, files = recipe_of(IMAGE, LABEL), aligned(30)
    bring(home, tmp_path / "raw", files, recipe)
    prepare(home, recipe)
    labels = {files[f"set/{number:03}.jpg"]: number % 5 for number in range(30)}
    with Feed(opened(home), global_batch=4, seed=3) as feed:
        assert feed.samples_per_epoch + opened(home).split("heldout").samples == 30
        seen = []
        for _ in range(feed.samples_per_epoch // 4):
            batch = feed.next_array()
            images, classes = batch.columns["image"], batch.columns["label"]
            for row in range(4):
                image = np.array(images.row(row)).tobytes()
                assert labels[image] == int(classes[row])
                seen.append(image)
        assert len(set(seen)) == len(seen)
    with Feed(opened(home), global_batch=4, seed=3) as feed:
        one_by_one = [row["image"].tobytes() for row in islice(feed.samples(), len(seen))]
        assert one_by_one == seen


def test_class_names_become_numbers_and_are_kept(home: IntakeHome, tmp_path: Path) -> None:
    recipe = recipe_of(IMAGE, LABEL)
    names = ("zebra", "ant", "mole")
    files = {}
    for number in range(12):
        files[f"{number:03}.png"] = picture(number, "PNG")
        files[f"{number:03}.label"] = names[number % 3].encode()
    bring(home, tmp_path / "raw", files, recipe)
    prepare(home, recipe)
    dataset = opened(home)
    classes = json.loads(bytes(dataset.artefact("classes")))
    assert classes == ["ant", "mole", "zebra"]
    by_image = {files[f"{number:03}.png"]: names[number % 3] for number in range(12)}
    assert all(classes[int(row["label"])] == by_image[row["image"]] for row in rows_of(dataset))


def test_texts_can_stay_texts(home: IntakeHome, tmp_path: Path) -> None:
    recipe, files = recipe_of(TEXT, LABEL, text_as=TextAs.UTF8), aligned(12)
    bring(home, tmp_path / "raw", files, recipe)
    prepare(home, recipe)
    dataset = opened(home)
    assert {row["text"] for row in rows_of(dataset)} == {
        f"picture number {number}, ask <EMAIL>".encode() for number in range(12)
    }
    assert dataset.superblock.artefacts == ()


BROKEN: dict[str, tuple[Callable[[dict[str, bytes]], object], str]] = {
    "a picture is missing": (lambda files: files.pop("set/003.jpg"), "no image"),
    "a picture is cut": (lambda files: files.update({"set/003.jpg": picture(3)[:-80]}), "broken image"),
    "a picture claims more pixels than import takes": (
        lambda files: files.update({"set/003.jpg": _claiming(picture(3), 60_000)}),
        "no image",
    ),
    "a picture claims more pixels than the recipe takes": (
        lambda files: files.update({"set/003.jpg": _claiming(picture(3), 10_000)}),
        "image too large",
    ),
    "there are two pictures": (
        lambda files: files.update({"set/003.png": picture(99, "PNG")}),
        "more than one image",
    ),
    "a picture is none": (lambda files: files.update({"set/003.jpg": b"just words"}), "no image"),
    "a label is missing": (lambda files: files.pop("set/003.cls"), "no label"),
    "a label is a word": (lambda files: files.update({"set/003.cls": b"five"}), "no label"),
    "a clip is cut": (lambda files: files.update({"set/003.wav": clip(3)[:-100]}), "no audio"),
    "a clip is too long": (
        lambda files: files.update({"set/003.wav": clip(3, 30_000)}),
        "audio too large",
    ),
}


def _claiming(jpeg: bytes, size: int) -> bytes:
    """The picture with another size in its frame header."""
    at = jpeg.index(b"\xff\xc0") + 5
    return jpeg[:at] + struct.pack(">HH", size, size) + jpeg[at + 4 :]


@pytest.mark.parametrize("what", list(BROKEN))
def test_a_broken_record_is_counted_and_the_rest_stays(what: str, home: IntakeHome, tmp_path: Path) -> None:
    recipe, files = recipe_of(IMAGE, AUDIO, LABEL, max_samples=20_000), aligned(12)
    whole = files["set/003.jpg"]
    spoil, reason = BROKEN[what]
    spoil(files)
    bring(home, tmp_path / "raw", files, recipe)
    record = prepare(home, recipe).record
    assert record.figures["left_out"] == {reason: 1}
    rows = rows_of(opened(home))
    assert len(rows) == 11
    assert whole not in [row["image"] for row in rows]


def test_a_broken_record_is_named_where_the_recipe_refuses_it(home: IntakeHome, tmp_path: Path) -> None:
    recipe, files = recipe_of(IMAGE, LABEL, on_fault=OnFault.REFUSE), aligned(12)
    del files["set/007.cls"]
    bring(home, tmp_path / "raw", files, recipe)
    with pytest.raises(RecordFault, match=r"set/007.*no label"):
        prepare(home, recipe)
    assert home.ledger.catalogue.datasets("aligned") == ()


def test_names_and_numbers_do_not_mix(home: IntakeHome, tmp_path: Path) -> None:
    recipe, files = recipe_of(IMAGE, LABEL), aligned(12)
    del files["set/007.cls"]
    files["set/007.label"] = b"seven"
    bring(home, tmp_path / "raw", files, recipe)
    with pytest.raises(LabelMismatch, match="names and labels that are"):
        prepare(home, recipe)


def test_a_source_without_usable_records_is_refused(home: IntakeHome, tmp_path: Path) -> None:
    recipe, files = recipe_of(IMAGE, TEXT), aligned(6)
    bring(home, tmp_path / "raw", {n: d for n, d in files.items() if not n.endswith(".txt")}, recipe)
    with pytest.raises(TooLittleText, match="has a text"):
        prepare(home, recipe)


def test_any_number_of_processes_gives_the_same_records(home: IntakeHome, tmp_path: Path) -> None:
    recipe = recipe_of(IMAGE, TEXT, LABEL)
    bring(home, tmp_path / "raw", aligned(20), recipe)
    prepare(home, recipe, executor=LocalExecutor(1))
    one = rows_of(opened(home))
    other = dataclasses.replace(recipe, seed=recipe.seed, expires_after_days=29.0)
    prepare(home, other, executor=LocalExecutor(2), page_bytes=1500)
    two = rows_of(opened(home))
    assert [row["image"] for row in one] == [row["image"] for row in two]


def test_a_decoder_that_is_killed_or_hangs_is_a_fault_of_that_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def die(data: bytes, spec: RecordsSpec) -> None:
        if data == picture(1):
            os.kill(os.getpid(), signal.SIGKILL)
        if data == picture(2):
            signal.pause()

    monkeypatch.setattr(decoding, "_try_image", die)
    with Decoder(RecordsSpec(parts=(IMAGE,), worker_s=1.0)) as decoder:
        found = [decoder.fault(IMAGE, picture(number)) for number in (0, 1, 0, 2, 0)]
    assert found == [None, "image killed its decoder", None, "image too slow", None]


def test_a_decoder_has_no_more_memory_than_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    def swell(data: bytes, spec: RecordsSpec) -> None:
        bytearray(1 << 30)

    monkeypatch.setattr(decoding, "_try_image", swell)
    with Decoder(RecordsSpec(parts=(IMAGE,), worker_bytes=1 << 26)) as decoder:
        assert decoder.fault(IMAGE, picture(0)) == "image takes too much memory"


def test_records_are_files_of_one_name() -> None:
    def file(path: str, content: int) -> SourceFile:
        return SourceFile(path, 1, bytes([content]) * 32, 0, 0)

    records = group(
        [
            file("a/1.jpg", 1),
            file("b/1.jpg", 1),
            file("a/1.cls", 2),
            file("a/1.json", 3),
            file("b/1.png", 4),
            file("b/1.cls", 2),
        ]
    )
    assert [record.key for record in records] == ["a/1", "b/1"]
    assert [set(record.parts) for record in records] == [{IMAGE, LABEL}] * 2
    assert [record.twice for record in records] == [frozenset(), {IMAGE}]
    assert records[0].sha256 == records[1].sha256


@pytest.mark.parametrize(
    ("recipe", "name"),
    [
        (recipe_of(IMAGE, IMAGE), "parts"),
        (recipe_of(IMAGE, records_per_block=0), "records_per_block"),
        (recipe_of(IMAGE, worker_bytes=1), "worker_bytes"),
        (recipe_of(IMAGE, worker_s=0.0), "worker_s"),
        (recipe_of(IMAGE, max_pixels=0), "max_pixels"),
    ],
)
def test_wrong_settings_are_named(recipe: RecipeSpec, name: str) -> None:
    assert any(name in problem for problem in recipe.records.problems())
