"""Scan reports: counts and masked examples, sealed, bound to the source, and always the same."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from stoker.core.progress import SILENT
from stoker.intake.errors import BrokenRecord
from stoker.intake.importing import import_source
from stoker.intake.scan_report import (
    EXAMPLES,
    ScanReport,
    decode_report,
    encode_report,
    examples_by_kind,
    read_report,
    report_key,
    scan_and_seal,
    scan_source,
)
from stoker.intake.source_reader import SourceReader
from stoker.keys.partition import BackendKeySource
from stoker.ledger.records import SourceRecord
from stoker.spec.recipe import ImportSpec, Kind
from stoker.store.errors import CorruptStream, ObjectMissing
from support.intake_home import IntakeHome, intake_home


@pytest.fixture
def home(tmp_path: Path) -> Iterator[IntakeHome]:
    with intake_home(tmp_path / "home") as made:
        yield made


@pytest.fixture
def record(home: IntakeHome, tmp_path: Path) -> SourceRecord:
    folder = tmp_path / "letters"
    folder.mkdir()
    for number in range(30):
        (folder / f"{number}.txt").write_text(
            f"intro\nask ada{number}@example.org or +49 30 9018{number:02}\n"
        )
    (folder / "\x1b[2J.txt").write_text("ünü 192.0.2.1\n")
    report = import_source(
        "letters",
        folder,
        ImportSpec(),
        actor="asker",
        ledger=home.ledger,
        backend=home.backend,
        store=home.store,
        progress=SILENT,
        clock=home.clock,
        locks=home.locks,
    )
    return report.record


def scan(home: IntakeHome, record: SourceRecord, processes: int) -> ScanReport:
    keys = BackendKeySource(home.backend)
    with SourceReader.open(record, home.store, keys, home.backend.signer("manifest").public_key) as reader:
        return scan_source(reader, SILENT, processes)


def seal(home: IntakeHome, record: SourceRecord) -> ScanReport:
    return scan_and_seal(
        record, actor="asker", ledger=home.ledger, backend=home.backend, store=home.store, progress=SILENT
    )


def test_counts_by_kind_and_by_file(home: IntakeHome, record: SourceRecord) -> None:
    report = scan(home, record, 2)
    expected = dict.fromkeys((kind.value for kind in Kind), 0)
    assert dict(report.counts) == {**expected, "email": 30, "phone": 30, "ipv4": 1}
    assert dict(report.files_with) == dict(report.counts)
    assert (report.files, report.manifest_root) == (31, record.manifest_root)


def test_examples_are_masked_have_a_place_and_never_show_a_finding(
    home: IntakeHome, record: SourceRecord
) -> None:
    report = scan(home, record, 1)
    shown = dict(examples_by_kind(report))
    assert [len(examples) for examples in shown.values()] == [EXAMPLES, EXAMPLES, 1]
    first = shown[Kind.EMAIL][0]
    assert (first.offset, first.file.endswith(".txt")) == (10, True)
    assert first.text.startswith("ask <EMAIL xxx9")
    assert not any("example.org" in example.text or "9018" in example.text for example in report.examples)
    strange = shown[Kind.IPV4][0]
    assert (strange.file, strange.offset) == (r"\x1b[2J.txt", 6)
    assert strange.text == "ünü <IPV4 999.9.9.9>"


def test_the_report_is_the_same_whatever_the_number_of_processes(
    home: IntakeHome, record: SourceRecord
) -> None:
    assert scan(home, record, 1).digest == scan(home, record, 3).digest == seal(home, record).digest


def test_a_sealed_report_is_found_again_and_recorded_once(home: IntakeHome, record: SourceRecord) -> None:
    report = seal(home, record)
    size = home.ledger.audit.size
    assert seal(home, record) == report == read_report(record, backend=home.backend, store=home.store)
    assert home.ledger.audit.size == size
    entry = list(home.ledger.audit.entries())[-1]
    assert (entry.action, entry.detail["scan_digest"]) == ("source.scan", report.digest)


def test_a_report_that_was_changed_or_is_missing_is_an_error(home: IntakeHome, record: SourceRecord) -> None:
    with pytest.raises(ObjectMissing, match="was not scanned") as error:
        read_report(record, backend=home.backend, store=home.store)
    assert error.value.hint == f"Run: stoker review scan {record.name}"
    seal(home, record)
    path = home.store_dir / report_key(record)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptStream, match="scan"):
        read_report(record, backend=home.backend, store=home.store)


def test_reports_that_break_their_format_are_refused(home: IntakeHome, record: SourceRecord) -> None:
    data = encode_report(scan(home, record, 1))
    assert encode_report(decode_report(data, "here")) == data
    for broken in (b"", b"[]", b"{}", data[:-1], b" " + data, data.replace(b"report 3", b"report 2")):
        with pytest.raises(BrokenRecord, match="here"):
            decode_report(broken, "here")
