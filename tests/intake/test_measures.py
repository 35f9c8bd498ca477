"""What a scan measures beside the exact findings, on a real source and with the real name model."""

from __future__ import annotations

import itertools
import os
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from stoker.core.errors import ConfigError
from stoker.core.progress import SILENT
from stoker.intake import audit_sample, sampled, scanning
from stoker.intake.audit_sample import NEAR_BYTES, WINDOW_BYTES, draw, near_hits, windows_of
from stoker.intake.detect.scan import Finding
from stoker.intake.errors import BrokenRecord
from stoker.intake.importing import import_source
from stoker.intake.measures import Measures
from stoker.intake.proportion import share
from stoker.intake.scan_report import (
    ScanReport,
    decode_report,
    encode_report,
    read_report,
    scan_and_seal,
    scan_source,
)
from stoker.intake.source_reader import SourceReader
from stoker.keys.partition import BackendKeySource
from stoker.ledger.records import SourceRecord
from stoker.spec.recipe import ImportSpec, Kind
from stoker.store.errors import ObjectMissing
from support.intake_home import IntakeHome, intake_home

PROSE = "The committee met twice in spring and agreed on little. Rain fell on the fields for days.\n"
NAMED = "Yesterday Thorvald Grimsrud and Oonagh Quillfeather walked to the harbour and spoke for hours.\n"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[IntakeHome]:
    with intake_home(tmp_path_factory.mktemp("measures") / "home") as made:
        yield made


@pytest.fixture(scope="module")
def record(home: IntakeHome, tmp_path_factory: pytest.TempPathFactory) -> SourceRecord:
    folder = tmp_path_factory.mktemp("texts")
    for number in range(12):
        (folder / f"plain{number}.txt").write_text(f"{number}\n" + PROSE * 12)
    for number in range(4):
        (folder / f"named{number}.txt").write_text(f"{number}\n" + NAMED + PROSE * 10)
        (folder / f"same{number}.txt").write_text("write to ada@example.org\n")
    (folder / "boom.txt").write_text("boom goes the recogniser\n")
    return import_source(
        "texts",
        folder,
        ImportSpec(),
        actor="asker",
        ledger=home.ledger,
        backend=home.backend,
        store=home.store,
        progress=SILENT,
        clock=home.clock,
        locks=home.locks,
    ).record


def scan(
    home: IntakeHome, record: SourceRecord, measures: Measures | None = None, processes: int = 2
) -> ScanReport:
    keys = BackendKeySource(home.backend)
    with SourceReader.open(record, home.store, keys, home.backend.signer("manifest").public_key) as reader:
        return scan_source(reader, SILENT, processes, measures)


def test_the_same_text_is_scanned_once_and_counted_as_often_as_it_stands_there(
    home: IntakeHome, record: SourceRecord
) -> None:
    report = scan(home, record)
    assert (report.counts["email"], report.files_with["email"], report.duplicates) == (4, 4, 3)
    assert [example.file for example in report.examples if example.finding is Kind.EMAIL] == ["same0.txt"]


@pytest.mark.parametrize(("fault", "why"), [("crash", "died"), ("hang", "timed_out"), ("fail", "failed")])
def test_atk_043_a_text_on_which_a_recogniser_crashes_hangs_or_fails_is_held_back(
    home: IntakeHome, record: SourceRecord, monkeypatch: pytest.MonkeyPatch, fault: str, why: str
) -> None:
    """Everything else in the same batch is scanned, and nothing about the one is said to be clean."""
    real = scanning.find_each

    def find_each(texts: Sequence[bytes]) -> list[tuple[Finding, ...]]:
        if any(b"boom" in data for data in texts):
            if fault == "crash":
                os.kill(os.getpid(), signal.SIGSEGV)
            if fault == "hang":
                time.sleep(600)
            raise ValueError("a personal text")
        return real(texts)

    monkeypatch.setattr(scanning, "find_each", find_each)
    # A limit is for a hang only: a slow machine must not lose another text.
    monkeypatch.setattr(
        scanning, "limit_of", lambda texts, _: 2.0 if any(b"boom" in one.data for one in texts) else 120.0
    )
    report = scan(home, record)
    assert dict(report.quarantined) == {why: 1}
    assert [(each.file, each.why) for each in report.held_back] == [("boom.txt", why)]
    assert report.counts["email"] == 4
    assert report.not_covered[0].startswith("1 texts were held back")


def test_names_that_no_list_has_are_seen_in_the_sample_and_bound_what_is_left(
    home: IntakeHome, record: SourceRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exact recognisers are told to see nothing: then what the model sees is what is left."""
    monkeypatch.setattr(audit_sample, "find", lambda data: ())
    every = scan(home, record, Measures(names=True, sample=1000)).left
    assert every is not None
    assert (
        every.windows_with.of
        == every.of_windows
        == windows_of([one.size_bytes for one in unique(home, record)])
    )
    assert every.by_kind["person"].found == 4
    some = scan(home, record, Measures(names=True, sample=20)).left
    assert some is not None
    assert some.windows_with.of == 20
    true_share = every.windows_with.found / every.of_windows
    assert some.windows_with.low <= true_share <= some.windows_with.high


def unique(home: IntakeHome, record: SourceRecord) -> list[scanning.SourceFile]:
    keys = BackendKeySource(home.backend)
    with SourceReader.open(record, home.store, keys, home.backend.signer("manifest").public_key) as reader:
        return list({file.sha256: file for file in reader.files}.values())


def test_near_hits_the_model_sees_what_stands_beside_them(home: IntakeHome, tmp_path: Path) -> None:
    (tmp_path / "mail.txt").write_text(PROSE * 30 + NAMED + "Write to them: q@example.org\n" + PROSE * 30)
    source = import_source(
        "mails",
        tmp_path,
        ImportSpec(),
        actor="asker",
        ledger=home.ledger,
        backend=home.backend,
        store=home.store,
        progress=SILENT,
        clock=home.clock,
        locks=home.locks,
    ).record
    names = scan(home, source, Measures(names=True)).names
    assert names is not None
    assert names.spans == names.looked_into >= 1
    assert names.spans_with.of == names.looked_into


def test_a_name_model_that_dies_holds_the_text_back_and_counts_it_as_not_clean(
    home: IntakeHome, record: SourceRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(task: audit_sample.LookTask) -> audit_sample.Looked:
        if b"boom" in task.data:
            os.kill(os.getpid(), signal.SIGKILL)
        return audit_sample.Looked(
            tuple({} for _ in task.near),
            tuple({} for _ in task.drawn),
        )

    monkeypatch.setattr(sampled, "look", dies)
    report = scan(home, record, Measures(names=True, sample=1000))
    assert report.left is not None
    assert dict(report.quarantined) == {"died": 1}
    assert report.left.windows_with.found == 1


def test_canaries_give_recall_by_kind_with_intervals_and_change_no_count(
    home: IntakeHome, record: SourceRecord
) -> None:
    plain, planted = scan(home, record), scan(home, record, Measures(canaries=60))
    assert plain.counts == planted.counts
    assert set(planted.recall) == {kind.value for kind in Kind}
    email = planted.recall["email"]
    assert email == share(email.found, email.of)
    assert email.of >= 30
    assert set(planted.recall_by) == {"language", "form", "writing"}
    assert planted.digest == scan(home, record, Measures(canaries=60), processes=1).digest


def test_every_set_of_measures_has_its_report_and_the_fullest_is_shown(
    home: IntakeHome, record: SourceRecord
) -> None:
    def seal(measures: Measures) -> ScanReport:
        return scan_and_seal(
            record,
            actor="asker",
            ledger=home.ledger,
            backend=home.backend,
            store=home.store,
            progress=SILENT,
            measures=measures,
        )

    plain, planted = seal(Measures()), seal(Measures(canaries=20))
    size = home.ledger.audit.size
    assert seal(Measures(canaries=20)) == planted
    assert home.ledger.audit.size == size
    assert read_report(record, backend=home.backend, store=home.store) == planted
    assert read_report(record, backend=home.backend, store=home.store, digest=plain.digest) == plain
    with pytest.raises(ObjectMissing, match="no scan report named"):
        read_report(record, backend=home.backend, store=home.store, digest="0" * 64)
    with pytest.raises(ConfigError, match="ask for names too"):
        seal(Measures(sample=5))


def test_older_reports_are_read_and_keep_their_digests(home: IntakeHome, record: SourceRecord) -> None:
    """Bytes as version 1 and 2 wrote them."""
    old = (
        b'{"content_bytes":5,"counts":{"email":1},"examples":[{"file":"a","kind":"email","offset":0,"text":"x"}],'
        b'"files":1,"files_with":{"email":1},"format":"stoker scan report 1","manifest_root":"r",'
        b'"patterns_digest":"p","source":"s","source_version":"v"}'
    )
    newer = old.replace(b"report 1", b"report 2").replace(
        b'"patterns', b'"not_looked_into":{"image":2},"patterns'
    )
    for data in (old, newer):
        assert encode_report(decode_report(data, "here")) == data
    assert dict(decode_report(newer, "here").not_looked_into) == {"image": 2}
    assert decode_report(old, "here").recall == {}


def test_an_interval_that_does_not_fit_its_counts_breaks_a_report(
    home: IntakeHome, record: SourceRecord
) -> None:
    """Nobody can write a better lower bound into a report than its counts give."""
    report = scan(home, record, Measures(canaries=20))
    email = report.recall["email"]
    better = replace(report, recall={**report.recall, "email": replace(email, low=0.9999)})
    with pytest.raises(BrokenRecord, match="no scan report"):
        decode_report(encode_report(better), "here")


def test_the_draw_takes_every_window_with_the_same_chance_and_none_twice() -> None:
    sizes = [WINDOW_BYTES * 3, 10, WINDOW_BYTES + 1, 0]
    assert windows_of(sizes) == 6
    every = draw(sizes, 100, "seed")
    assert len(set(every)) == 6
    assert [place.end - place.start for place in every] == [1024, 1024, 1024, 10, 1024, 1]
    smaller, larger = draw(sizes, 2, "other"), draw(sizes, 4, "other")
    assert set(smaller) < set(larger)
    hits = [draw(sizes, 1, str(number))[0] for number in range(1200)]
    assert all(140 <= hits.count(place) <= 265 for place in every)


def test_pieces_near_hits_do_not_overlap_and_hold_every_hit() -> None:
    found = [Finding(start, start + 10, Kind.EMAIL) for start in (0, 300, 5000, 5200, 9990)]
    places = near_hits(7, 10_000, found)
    assert all(left.end <= right.start for left, right in itertools.pairwise(places))
    assert all(any(one.start <= hit.start and hit.end <= one.end for one in places) for hit in found)
    assert places[0].start == 0
    assert places[-1].end == 10_000
    assert places[1].start == 5000 - NEAR_BYTES
