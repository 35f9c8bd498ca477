"""What differs between two versions, and who is told which files do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from stoker.core.progress import SILENT
from stoker.intake.difference import DifferenceReport, FileChanges, compare_datasets
from stoker.intake.importing import import_source
from stoker.keys.refs import KekRef
from stoker.ledger.records import DatasetRecord, DatasetState, SourceRecord
from stoker.spec.recipe import ImportSpec, Kind, PolicySpec
from support.life_home import LifeHome, life_home


@pytest.fixture
def home(tmp_path: Path) -> Iterator[LifeHome]:
    with life_home(tmp_path) as made:
        yield made


def diff(
    home: LifeHome, before: DatasetRecord, after: DatasetRecord, by: str | None = "asker"
) -> DifferenceReport:
    return compare_datasets(
        before,
        after,
        actor=by,
        ledger=home.ledger,
        backend=home.backend,
        store=home.store,
        clock=home.clock,
    )


def taken_in(home: LifeHome, folder: Path, texts: dict[str, str]) -> SourceRecord:
    folder.mkdir(exist_ok=True)
    for path in folder.iterdir():
        path.unlink()
    for name, text in texts.items():
        (folder / name).write_text(text)
    return import_source(
        "letters",
        folder,
        ImportSpec(),
        actor="asker",
        ledger=home.ledger,
        backend=home.backend,
        store=home.store,
        progress=SILENT,
        clock=home.clock,
        locks=home.home.locks_dir,
    ).record


@pytest.fixture
def two(home: LifeHome, tmp_path: Path) -> tuple[DatasetRecord, DatasetRecord]:
    """Two versions whose sources differ by one file of each kind."""
    first = taken_in(home, tmp_path / "letters", {"a.txt": "same", "b.txt": "old", "c.txt": "goes"})
    before, _ = home.tokens(review=home.review(first), samples=20)
    second = taken_in(home, tmp_path / "letters", {"a.txt": "same", "b.txt": "new", "d\x07.txt": "comes"})
    policy = PolicySpec((Kind.EMAIL,))
    review = home.review(second, policy=policy)
    recipe = {"vocabulary": 512, "seed": 0, "policy": {"redact": ["email"]}, "new": True}
    after, _ = home.tokens(review=review, samples=30, recipe=recipe)
    return before, after


def test_every_part_that_differs_is_told_from_old_to_new(
    home: LifeHome, two: tuple[DatasetRecord, DatasetRecord]
) -> None:
    before, after = two
    report = diff(home, before, after)
    assert not report.same
    assert [(each.field, each.before, each.after) for each in report.recipe] == [
        ("vocabulary", 300, 512),
        ("new", None, True),
    ]
    assert {each.field for each in report.source} == {"version", "root", "content_bytes"}
    assert {each.field for each in report.review} == {"id", "policy_digest"}
    assert [(each.field, each.before, each.after) for each in report.figures] == [("train.samples", 20, 30)]
    assert [(each.field, each.before, each.after) for each in report.splits] == [("train.samples", 20, 30)]
    assert report.schema == ()
    assert (report.before.root, report.after.root) == (before.root, after.root)
    assert (report.before.state, report.after.state) == ("live", "live")


def test_files_are_compared_by_their_digests_for_somebody_who_may(
    home: LifeHome, two: tuple[DatasetRecord, DatasetRecord]
) -> None:
    report = diff(home, *two)
    assert report.files == FileChanges(1, 1, 1, 1, ("d\x07.txt",), ("c.txt",), ("b.txt",))
    (act,) = home.acts("dataset.diff")
    assert (act["actor"], act["before"], act["after"]) == ("asker", two[0].root, two[1].root)
    back = diff(home, two[1], two[0]).files
    assert back == FileChanges(1, 1, 1, 1, ("c.txt",), ("d\x07.txt",), ("b.txt",))


@pytest.mark.parametrize("by", ["hands", "watcher", None])
def test_others_are_told_counts_and_roots_and_why_no_more(
    home: LifeHome, two: tuple[DatasetRecord, DatasetRecord], by: str | None
) -> None:
    report = diff(home, *two, by)
    assert report.files is None
    assert ("may not see which files" in report.files_why) == (by is not None)
    assert {"version", "root"} <= {each.field for each in report.source}
    assert home.acts("dataset.diff") == []


def test_a_source_whose_key_is_gone_is_not_compared(
    home: LifeHome, two: tuple[DatasetRecord, DatasetRecord]
) -> None:
    source = home.ledger.catalogue.sources("letters")[0]
    home.destroy(replace(two[0], kek=source.kek))
    report = diff(home, *two)
    assert report.files is None
    assert str(KekRef.parse(source.kek)) in report.files_why


def test_a_version_does_not_differ_from_itself(home: LifeHome) -> None:
    record, _ = home.tokens(samples=20)
    report = diff(home, record, record)
    assert report.same
    assert report.files_why == "both were prepared from the same source version"


def test_samples_and_records_differ_in_their_schema(home: LifeHome) -> None:
    tokens, records = home.tokens(samples=20)[0], home.records()[0]
    changed = {each.field: (each.before, each.after) for each in diff(home, tokens, records).schema}
    assert changed["dtype"] == ("uint16", None)
    assert changed["image"][0] is None
    assert changed["records_per_block"] == (None, 4)


def test_a_collected_version_is_compared_by_what_the_ledger_keeps(
    home: LifeHome, two: tuple[DatasetRecord, DatasetRecord]
) -> None:
    home.destroy(two[0])
    home.gc()
    before = home.now(two[0])
    assert before.state is DatasetState.COLLECTED
    report = diff(home, before, two[1])
    assert report.before.state == "collected"
    assert report.recipe[0].field == "vocabulary"
    assert [(each.field, each.before) for each in report.splits] == [("train", None), ("heldout", None)]
