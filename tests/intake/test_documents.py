"""Pictures and clips in a source: the scan says what it cannot see, a preparation of text passes them by."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from stoker.core.progress import SILENT
from stoker.intake.documents import documents
from stoker.intake.errors import BrokenRecord
from stoker.intake.review import decide_review, request_review
from stoker.intake.scan_report import decode_report, encode_report, scan_and_seal
from stoker.intake.source_index import SourceFile
from stoker.spec.recipe import Kind, PolicySpec, RecipeSpec
from stoker.spec.source import Form
from support.import_sources import NAME, bring
from support.intake_home import IntakeHome, intake_home
from support.media_samples import jpeg, png, wav


@pytest.fixture
def home(tmp_path: Path) -> Iterator[IntakeHome]:
    with intake_home(tmp_path / "home") as made:
        yield made


def test_what_is_a_document_and_what_goes_with_something_else() -> None:
    paths = {
        "a.txt": True,
        "a.json": True,
        "paper.cls": True,
        "page.html": True,
        "shot/1.jpg": False,
        "shot/1.txt": True,
        "shot/1.json": False,
        "shot/1.cls": False,
        "clip.WAV": False,
        "clip.label": False,
        "x.jsonl/000000000.txt": True,
        "x.jsonl/000000000.json": False,
        "x.jsonl/000000000.cls": False,
        "t.tar.gz/a/b.txt": True,
        "t.tar.gz/a/b.json": False,
        "t.tar.gz/a/c.json": True,
    }
    files = [SourceFile(path, 1, bytes(32), 0, number) for number, path in enumerate(paths)]
    assert {file.path for file in documents(files)} == {path for path, is_one in paths.items() if is_one}


def scanned(home: IntakeHome, folder: Path, form: Form = Form.RECORDS):  # type: ignore[no-untyped-def]
    record = bring(home, folder, form=form).record
    return record, scan_and_seal(
        record,
        actor="asker",
        ledger=home.ledger,
        backend=home.backend,
        store=home.store,
        progress=SILENT,
        processes=1,
    )


def test_the_scan_counts_what_it_cannot_look_into_and_reads_texts_labels_and_paths(
    home: IntakeHome, tmp_path: Path
) -> None:
    folder = tmp_path / "shots"
    folder.mkdir()
    hidden = b"hidden@example.org"
    (folder / "1.jpg").write_bytes(jpeg() + hidden)
    (folder / "2.png").write_bytes(png())
    (folder / "from ada@example.org.wav").write_bytes(wav())
    (folder / "1.txt").write_text("write to bob@example.org")
    (folder / "1.label").write_text("carl@example.org")
    (folder / "1.json").write_text('{"by": "dora@example.org"}')
    record, report = scanned(home, folder)
    assert dict(report.not_looked_into) == {"image": 2, "audio": 1}
    assert (report.counts["email"], report.files_with["email"]) == (4, 4)
    assert report.content_bytes == record.content_bytes
    shown = {(each.file, each.text) for each in report.examples}
    assert any(text.startswith("in the path: ") and "ada@" not in text for _, text in shown)
    data = encode_report(report)
    assert b'"stoker scan report 3"' in data
    assert decode_report(data, "here") == report
    for version in (b"report 1", b"report 2", b"report 4"):
        with pytest.raises(BrokenRecord):
            decode_report(data.replace(b"report 3", version), "here")
    pictures = report.media["image"]
    assert (pictures.files, dict(pictures.with_metadata)) == (2, {"trailing": 1})
    assert dict(pictures.findings_in_metadata) == {"email": 1}
    assert any("not listened to" in each for each in report.not_covered)


def test_text_under_a_pictures_name_is_scanned_and_a_report_on_text_is_as_before(
    home: IntakeHome, tmp_path: Path
) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "1.jpg").write_text("no picture, but eve@example.org")
    _, report = scanned(home, folder, Form.FOLDER)
    assert (report.counts["email"], dict(report.not_looked_into)) == (1, {})
    assert report.media == {}


def test_a_preparation_of_text_takes_captions_and_counts_the_rest(home: IntakeHome, tmp_path: Path) -> None:
    from stoker.intake.prepare import prepare_dataset

    folder = tmp_path / "shots"
    folder.mkdir()
    for number in range(40):
        (folder / f"{number}.jpg").write_bytes(jpeg(number))
        (folder / f"{number}.cls").write_text(str(number % 3))
        (folder / f"{number}.txt").write_text(f"picture {number} shows " + "many things " * 40)
    record, report = scanned(home, folder)
    policy = PolicySpec(redact=tuple(Kind))
    review = request_review(
        record,
        report.digest,
        policy,
        purpose="training",
        requested_by="asker",
        valid_s=1e6,
        ledger=home.ledger,
        clock=home.clock,
    )
    decide_review(
        review.id,
        approve=True,
        reason="captions only",
        decided_by="decider",
        ledger=home.ledger,
        backend=home.backend,
        clock=home.clock,
    )
    recipe = RecipeSpec(vocabulary=300, sequence_tokens=32, heldout_fraction=0.2, policy=policy)
    made = prepare_dataset(
        "captions",
        NAME,
        recipe,
        purpose="training",
        actor="asker",
        ledger=home.ledger,
        backend=home.backend,
        store=home.store,
        progress=SILENT,
        clock=home.clock,
        locks=home.locks,
        processes=1,
    )
    figures = made.record.figures
    assert figures["not_documents"] == 80
    assert figures["train"]["documents"] + figures["heldout"]["documents"] == 40  # type: ignore[index,call-overload]
    assert dict(report.not_looked_into) == {"image": 40}
    assert record.files == 120
