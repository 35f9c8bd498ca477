"""Scan a source, seal what was found under its own KEK, and find it again.

What a report holds is in report_format; how it is made in scanning. See docs/design/measured.md.
"""

from __future__ import annotations

from typing import Final

from stoker.core.canonical import JsonValue
from stoker.core.errors import ConfigError
from stoker.core.progress import Progress
from stoker.intake.detect.patterns import PATTERNS_DIGEST
from stoker.intake.errors import BrokenRecord
from stoker.intake.importing import NO_REVIEW, source_prefix
from stoker.intake.measures import Measures as Measures
from stoker.intake.report_format import EXAMPLES as EXAMPLES
from stoker.intake.report_format import MAX_REPORT_BYTES as MAX_REPORT_BYTES
from stoker.intake.report_format import REPORT_FORMAT as REPORT_FORMAT
from stoker.intake.report_format import ScanReport as ScanReport
from stoker.intake.report_format import decode_report as decode_report
from stoker.intake.report_format import encode_report as encode_report
from stoker.intake.report_format import examples_by_kind as examples_by_kind
from stoker.intake.scanning import scan_source as scan_source
from stoker.intake.source_reader import SourceReader
from stoker.keys.backend import KeyBackend
from stoker.keys.partition import BackendKeySource
from stoker.keys.refs import KekRef, Purpose
from stoker.keys.rotation import sealing_kek
from stoker.ledger.ledger import Ledger
from stoker.ledger.records import SourceRecord
from stoker.store.errors import ObjectExists, ObjectMissing
from stoker.store.header import StreamKind, StreamLabel
from stoker.store.objects import ObjectStore, StoredObject
from stoker.store.reader import StreamReader
from stoker.store.sealed import PartitionSeal, SealedBytes

REPORT_SCHEMA: Final = 1


def report_key(record: SourceRecord, measures: Measures | None = None) -> str:
    """Where the report of these patterns and measures over this source version lies in the store."""
    asked = (measures or Measures()).key
    end = f"-{asked}" if asked else ""
    return f"{source_prefix(record.name, record.version)}/scan/{PATTERNS_DIGEST[:32]}{end}.stk"


def scan_and_seal(
    record: SourceRecord,
    *,
    actor: str,
    ledger: Ledger,
    backend: KeyBackend,
    store: ObjectStore,
    progress: Progress,
    processes: int = 2,
    measures: Measures | None = None,
) -> ScanReport:
    """Scan a source version and keep the sealed report beside it; finds the report that is there already.

    Raises ConfigError for measures that cannot be, WorkerLost, MissingExtra, DiskFull and what reading the
    source raises.
    """
    measures = measures or Measures()
    wrong = list(measures.problems())
    if wrong:
        raise ConfigError(" ".join(wrong), hint="See: stoker review scan --help")
    keys = BackendKeySource(backend)
    key = report_key(record, measures)
    if store.exists(key):
        return _read(key, record, backend=backend, store=store)
    with SourceReader.open(record, store, keys, backend.signer("manifest").public_key) as reader:
        report = scan_source(reader, progress, processes, measures)
    with PartitionSeal(keys, sealing_kek(backend, KekRef.parse(record.kek)), Purpose.SOURCE) as seal:
        sealed = seal.seal(_label(record), encode_report(report))
    detail: dict[str, JsonValue] = {
        "version": record.version,
        "scan_digest": report.digest,
        "patterns_digest": report.patterns_digest,
        "counts": dict(report.counts),
        "quarantined": dict(report.quarantined),
        "measures": measures.key,
    }
    try:
        with ledger.act(actor=actor, action="source.scan", subject=f"source/{record.name}", detail=detail):
            store.create(key, sealed.data)
    except ObjectExists:
        return _read(key, record, backend=backend, store=store)
    except BaseException:
        _take_back(key, sealed, store)
        raise
    return report


def _take_back(key: str, sealed: SealedBytes, store: ObjectStore) -> None:
    """Remove a report that was not recorded, but never another scan's: no two have the same sealed bytes."""
    if store.exists(key) and store.size(key) == len(sealed.data) and store.get(key) == sealed.data:
        store.delete(key)


def read_report(
    record: SourceRecord, *, backend: KeyBackend, store: ObjectStore, digest: str | None = None
) -> ScanReport:
    """The sealed report of this source version of that digest; without one, the report that measured most.

    Only reports by today's patterns are found without a digest. Raises ObjectMissing when there is none.
    """
    folder = f"{source_prefix(record.name, record.version)}/scan"
    keys = sorted(key for key in store.list(folder) if key.endswith(".stk"))
    if digest is None:
        today = [key for key in keys if key.startswith(f"{folder}/{PATTERNS_DIGEST[:32]}")]
        found = [_read(key, record, backend=backend, store=store) for key in today]
        if found:
            return max(found, key=_measured)
    else:
        for key in keys:
            report = _read(key, record, backend=backend, store=store)
            if report.digest == digest:
                return report
    about = f"Source {record.name}, version {record.version[:12]},"
    raise ObjectMissing(
        f"{about} was not scanned for today's patterns yet."
        if digest is None
        else f"{about} has no scan report named {digest[:12]}.",
        hint=f"Run: stoker review scan {record.name}",
    )


def _measured(report: ScanReport) -> tuple[int, int, bool, bool, str]:
    """An order in which the report that measured most is the last; its key breaks ties."""
    measures = report.measures
    return (measures.canaries, measures.sample, measures.names, measures.faces, measures.key)


def _read(key: str, record: SourceRecord, *, backend: KeyBackend, store: ObjectStore) -> ScanReport:
    stream = StreamReader.open(
        StoredObject(store, key),
        BackendKeySource(backend),
        _label(record),
        kek=KekRef.parse(record.kek),
        place=key,
    )
    report = decode_report(stream.read_all(MAX_REPORT_BYTES), key)
    if (report.source_version, report.manifest_root) != (record.version, record.manifest_root):
        raise BrokenRecord(f"{key} is the report of another source.", hint="Scan the source again.")
    return report


def _label(record: SourceRecord) -> StreamLabel:
    return StreamLabel(
        StreamKind.REPORT, f"source/{record.name}", record.version, 0, REPORT_SCHEMA, NO_REVIEW
    )
