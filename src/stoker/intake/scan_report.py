"""Scan a whole source and say what is in it: counts by kind, and masked examples for the reviewer.

The report is deterministic, so its digest names what was seen; it is sealed under the source's own KEK.
Format in docs/design/intake.md, "Scan report".
"""

from __future__ import annotations

import hashlib
import heapq
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

from stoker.core.canonical import JsonValue, canonical_json
from stoker.core.progress import Progress
from stoker.intake.detect.patterns import PATTERNS_DIGEST
from stoker.intake.detect.scan import excerpt, find
from stoker.intake.errors import BrokenRecord
from stoker.intake.importing import NO_REVIEW, source_prefix
from stoker.intake.left_out import printable
from stoker.intake.source_index import SourceFile
from stoker.intake.source_reader import SourceReader
from stoker.intake.sources.media import HEAD_BYTES, is_audio, is_image, kind_of
from stoker.intake.workers import Workers, batches
from stoker.keys.backend import KeyBackend
from stoker.keys.partition import BackendKeySource
from stoker.keys.refs import KekRef, Purpose
from stoker.ledger.ledger import Ledger
from stoker.ledger.records import SourceRecord
from stoker.spec.recipe import Kind
from stoker.store.errors import ObjectExists, ObjectMissing
from stoker.store.header import StreamKind, StreamLabel
from stoker.store.objects import ObjectStore, StoredObject
from stoker.store.reader import StreamReader
from stoker.store.sealed import PartitionSeal, SealedBytes

REPORT_FORMAT: Final = "stoker scan report 1"
REPORT_FORMAT_WITH_MEDIA: Final = "stoker scan report 2"
"""The format of a report on a source that holds what no scan looks into."""

REPORT_SCHEMA: Final = 1
MAX_REPORT_BYTES: Final = 16 * 1024 * 1024
EXAMPLES: Final = 8
"""Examples kept of each kind: those whose place hashes lowest, so a sample that nobody chose."""

_BATCH_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Example:
    """One finding as a reviewer sees it: where it is, and its line with every finding masked."""

    finding: Kind
    file: str
    offset: int
    text: str


@dataclass(frozen=True, slots=True)
class ScanReport:
    """What a scan of one source version found. `digest` names the report, 64 hex digits."""

    kind: ClassVar[str] = "scan"
    version: ClassVar[int] = 1

    source: str
    source_version: str
    manifest_root: str
    patterns_digest: str
    files: int
    content_bytes: int
    counts: Mapping[str, int]
    files_with: Mapping[str, int]
    examples: tuple[Example, ...]
    not_looked_into: Mapping[str, int] = field(default_factory=dict)
    """Items whose content no pattern was tried on, by kind: `image`, `audio`. Their paths were scanned."""

    @property
    def digest(self) -> str:
        """SHA-256 of the report's canonical bytes."""
        return hashlib.sha256(encode_report(self)).hexdigest()


_Ranked = tuple[bytes, Kind, str, int, str]


@dataclass(frozen=True, slots=True)
class _BatchResult:
    counts: dict[Kind, int]
    files_with: dict[Kind, int]
    examples: list[_Ranked]
    content_bytes: int


def scan_source(reader: SourceReader, progress: Progress, processes: int = 2) -> ScanReport:
    """Scan every byte of every text, and the path of every picture and clip.

    Raises WorkerLost and what reading the source raises.
    """
    record = reader.record
    counts: dict[Kind, int] = {}
    files_with: dict[Kind, int] = {}
    ranked: list[_Ranked] = []
    media: dict[str, int] = {}
    tasks = batches(reader.files, lambda file: file.size_bytes, _BATCH_BYTES)
    with (
        Workers(processes, _start_scanning, None) as workers,
        progress.task(f"scan {record.name}", record.content_bytes, "bytes") as task,
    ):
        contents = ([_scanned(reader, file, media) for file in batch] for batch in tasks)
        for result in workers.map(contents):
            _add(counts, result.counts)
            _add(files_with, result.files_with)
            ranked = _lowest([*ranked, *result.examples])
            task.advance(result.content_bytes)
    return ScanReport(
        source=record.name,
        source_version=record.version,
        manifest_root=record.manifest_root,
        patterns_digest=PATTERNS_DIGEST,
        files=record.files,
        content_bytes=record.content_bytes,
        counts={kind.value: counts.get(kind, 0) for kind in Kind},
        files_with={kind.value: files_with.get(kind, 0) for kind in Kind},
        examples=tuple(Example(kind, path, offset, text) for _, kind, path, offset, text in ranked),
        not_looked_into=media,
    )


@dataclass(frozen=True, slots=True)
class _Scanned:
    """What is scanned of one file: its bytes, or its path where they are a picture's or a clip's."""

    path: str
    data: bytes
    size_bytes: int
    is_path: bool


def _scanned(reader: SourceReader, file: SourceFile, media: dict[str, int]) -> _Scanned:
    """By name and by first bytes: text under a picture's name is scanned like any text."""
    image, audio = is_image(file.path), is_audio(file.path)
    if (image or audio) and kind_of(bytes(reader.head(file, HEAD_BYTES))) is not None:
        kind = "image" if image else "audio"
        media[kind] = media.get(kind, 0) + 1
        return _Scanned(file.path, file.path.encode(), file.size_bytes, True)
    return _Scanned(file.path, bytes(reader.read(file)), file.size_bytes, False)


def _start_scanning(_: object) -> Callable[[list[_Scanned]], _BatchResult]:
    return _scan_batch


def _scan_batch(files: list[_Scanned]) -> _BatchResult:
    counts: dict[Kind, int] = {}
    files_with: dict[Kind, int] = {}
    ranked: list[_Ranked] = []
    for file in files:
        path, data = file.path, file.data
        found = find(data)
        for kind in {finding.kind for finding in found}:
            files_with[kind] = files_with.get(kind, 0) + 1
        places = []
        for index, finding in enumerate(found):
            counts[finding.kind] = counts.get(finding.kind, 0) + 1
            rank = hashlib.sha256(f"{finding.kind}\0{finding.start}\0{path}".encode()).digest()
            places.append((rank, finding.kind, path, finding.start, index))
        ranked += [
            (rank, kind, printable(path), start, _shown(file, excerpt(data, found, index)))
            for rank, kind, path, start, index in _lowest(places)
        ]
    return _BatchResult(counts, files_with, _lowest(ranked), sum(file.size_bytes for file in files))


def _shown(file: _Scanned, text: str) -> str:
    return f"in the path: {text}" if file.is_path else text


def _lowest(places: list[Any]) -> list[Any]:
    """The EXAMPLES places of each kind with the lowest rank, by kind and rank."""
    return [
        place
        for kind in Kind
        for place in heapq.nsmallest(EXAMPLES, (place for place in places if place[1] is kind))
    ]


def _add(total: dict[Kind, int], more: Mapping[Kind, int]) -> None:
    for kind, count in more.items():
        total[kind] = total.get(kind, 0) + count


def encode_report(report: ScanReport) -> bytes:
    """The canonical JSON that is digested and sealed."""
    examples: list[JsonValue] = [
        {"kind": example.finding.value, "file": example.file, "offset": example.offset, "text": example.text}
        for example in report.examples
    ]
    media: dict[str, JsonValue] = (
        {"not_looked_into": dict(report.not_looked_into)} if report.not_looked_into else {}
    )
    return canonical_json(
        {
            "format": REPORT_FORMAT_WITH_MEDIA if media else REPORT_FORMAT,
            **media,
            "source": report.source,
            "source_version": report.source_version,
            "manifest_root": report.manifest_root,
            "patterns_digest": report.patterns_digest,
            "files": report.files,
            "content_bytes": report.content_bytes,
            "counts": dict(report.counts),
            "files_with": dict(report.files_with),
            "examples": examples,
        }
    )


def decode_report(data: bytes | bytearray, place: str) -> ScanReport:
    """The report in `data`. Raises BrokenRecord, naming `place`, when it does not follow the format."""
    try:
        raw: Any = json.loads(bytes(data))
        if raw.pop("format") not in (REPORT_FORMAT, REPORT_FORMAT_WITH_MEDIA):
            raise ValueError("another format")
        examples = tuple(
            Example(Kind(one["kind"]), str(one["file"]), int(one["offset"]), str(one["text"]))
            for one in raw.pop("examples")
        )
        report = ScanReport(**raw, examples=examples)
        if encode_report(report) != bytes(data):
            raise ValueError("not canonical")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BrokenRecord(f"{place} is no scan report.", hint="Scan the source again.") from error
    return report


def report_key(record: SourceRecord) -> str:
    """Where the report of these patterns over this source version lies in the store."""
    return f"{source_prefix(record.name, record.version)}/scan/{PATTERNS_DIGEST[:32]}.stk"


def scan_and_seal(
    record: SourceRecord,
    *,
    actor: str,
    ledger: Ledger,
    backend: KeyBackend,
    store: ObjectStore,
    progress: Progress,
    processes: int = 2,
) -> ScanReport:
    """Scan a source version and keep the sealed report beside it; finds the report that is there already.

    Raises WorkerLost, DiskFull and what reading the source raises.
    """
    keys = BackendKeySource(backend)
    if store.exists(report_key(record)):
        return read_report(record, backend=backend, store=store)
    with SourceReader.open(record, store, keys, backend.signer("manifest").public_key) as reader:
        report = scan_source(reader, progress, processes)
    with PartitionSeal(keys, KekRef.parse(record.kek), Purpose.SOURCE) as seal:
        sealed = seal.seal(_label(record), encode_report(report))
    detail: dict[str, JsonValue] = {
        "version": record.version,
        "scan_digest": report.digest,
        "patterns_digest": report.patterns_digest,
        "counts": dict(report.counts),
    }
    try:
        with ledger.act(actor=actor, action="source.scan", subject=f"source/{record.name}", detail=detail):
            store.create(report_key(record), sealed.data)
    except ObjectExists:
        return read_report(record, backend=backend, store=store)
    except BaseException:
        _take_back(report_key(record), sealed, store)
        raise
    return report


def _take_back(key: str, sealed: SealedBytes, store: ObjectStore) -> None:
    """Remove a report that was not recorded, but never another scan's: no two have the same sealed bytes."""
    if store.exists(key) and store.size(key) == len(sealed.data) and store.get(key) == sealed.data:
        store.delete(key)


def read_report(record: SourceRecord, *, backend: KeyBackend, store: ObjectStore) -> ScanReport:
    """The sealed report of this source version. Raises ObjectMissing when it was not scanned yet."""
    key = report_key(record)
    if not store.exists(key):
        raise ObjectMissing(
            f"Source {record.name}, version {record.version[:12]}, was not scanned for today's patterns yet.",
            hint=f"Run: stoker review scan {record.name}",
        )
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


def examples_by_kind(report: ScanReport) -> Iterator[tuple[Kind, tuple[Example, ...]]]:
    """The report's examples, kind by kind, for showing."""
    for kind in Kind:
        examples = tuple(example for example in report.examples if example.finding is kind)
        if examples:
            yield kind, examples


def _label(record: SourceRecord) -> StreamLabel:
    return StreamLabel(
        StreamKind.REPORT, f"source/{record.name}", record.version, 0, REPORT_SCHEMA, NO_REVIEW
    )
