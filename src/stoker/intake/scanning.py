"""Scan a whole source: every text once, every path of media, and what was asked to be measured beside.

Texts are looked at by workers that may be killed: one that crashes or hangs on a text costs that text, which
is counted as held back, never as clean. See docs/design/measured.md.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from stoker.core.progress import Progress
from stoker.intake.bounded import Bounded, Lost
from stoker.intake.detect.patterns import PATTERNS_DIGEST
from stoker.intake.detect.scan import excerpt, find_each
from stoker.intake.left_out import printable
from stoker.intake.measures import Measures
from stoker.intake.media_scan import MediaTask, MediaTold, start_media
from stoker.intake.report_format import EXAMPLES, Example, HeldBack, MediaSeen, ScanReport
from stoker.intake.row_borders import ends_of, find_across, rows_of
from stoker.intake.sampled import names_and_left, not_covered, recalled
from stoker.intake.source_index import SourceFile
from stoker.intake.source_reader import SourceReader
from stoker.intake.sources.media import HEAD_BYTES, is_audio, is_image, kind_of
from stoker.intake.workers import batches
from stoker.spec.kinds import Kind

_BATCH_BYTES: Final = 1 << 20
_Row = list[tuple[str, bytes]]
_Ranked = tuple[bytes, Kind, str, int, str]


@dataclass(frozen=True, slots=True)
class _Text:
    """One text, or the path of a picture or clip, and in how many files it stands."""

    number: int
    path: str
    data: bytes
    times: int
    is_path: bool


@dataclass(frozen=True, slots=True)
class _Told:
    counts: dict[Kind, int]
    files_with: dict[Kind, int]
    examples: list[_Ranked]
    hits: dict[int, tuple[Any, ...]]
    """The findings of each text by its number, for looking near them; empty when nobody will."""


@dataclass(slots=True)
class _Sum:
    counts: dict[Kind, int] = field(default_factory=dict)
    files_with: dict[Kind, int] = field(default_factory=dict)
    ranked: list[_Ranked] = field(default_factory=list)
    hits: dict[int, tuple[Any, ...]] = field(default_factory=dict)
    quarantined: dict[str, int] = field(default_factory=dict)
    held_back: list[tuple[bytes, HeldBack]] = field(default_factory=list)
    held: set[str] = field(default_factory=set)

    def add(self, told: _Told) -> None:
        _add(self.counts, told.counts)
        _add(self.files_with, told.files_with)
        self.ranked = _lowest([*self.ranked, *told.examples])
        self.hits |= told.hits

    def hold_back(self, path: str, times: int, why: str) -> None:
        """Nothing is known of this text. Told twice, it counts once."""
        if path in self.held:
            return
        self.held.add(path)
        self.quarantined[why] = self.quarantined.get(why, 0) + times
        key = hashlib.sha256(path.encode()).digest()
        self.held_back = heapq.nsmallest(
            EXAMPLES, [*self.held_back, (key, HeldBack(printable(path), why))], key=lambda one: one[0]
        )


@dataclass(frozen=True, slots=True)
class _Sorted:
    """A source's files: the texts, each once with how often it stands there; pictures and clips."""

    texts: tuple[SourceFile, ...]
    times: tuple[int, ...]
    media: tuple[tuple[str, SourceFile], ...]

    @property
    def duplicates(self) -> int:
        return sum(self.times) - len(self.times)


def scan_source(
    reader: SourceReader, progress: Progress, processes: int = 2, measures: Measures | None = None
) -> ScanReport:
    """Scan every byte of every text, and path and metadata of every picture and clip.

    Raises WorkerLost when no worker can start, MissingExtra, and what reading the source raises.
    """
    measures = measures or Measures()
    record = reader.record
    files = _sorted(reader)
    total = _Sum()
    with progress.task(f"scan {record.name}", record.content_bytes, "bytes") as task:
        _scan_texts(reader, files, total, processes, measures, task.advance)
        _scan_rows(reader, files, total, processes, measures)
        media = _scan_media(reader, files, processes, measures, task.advance)
    names, left = names_and_left(
        reader, files.texts, total.hits, processes, measures, progress, total.hold_back
    )
    recall = recalled(reader, files.texts, processes, measures, progress)
    unseen: dict[str, int] = {}
    for kind, _ in files.media:
        unseen[kind] = unseen.get(kind, 0) + 1
    return ScanReport(
        source=record.name,
        source_version=record.version,
        manifest_root=record.manifest_root,
        patterns_digest=PATTERNS_DIGEST,
        files=record.files,
        content_bytes=record.content_bytes,
        counts={kind.value: total.counts.get(kind, 0) for kind in Kind},
        files_with={kind.value: total.files_with.get(kind, 0) for kind in Kind},
        examples=tuple(Example(kind, path, offset, text) for _, kind, path, offset, text in total.ranked),
        not_looked_into=unseen,
        duplicates=files.duplicates,
        quarantined=total.quarantined,
        held_back=tuple(each for _, each in total.held_back),
        media=media,
        names=names,
        left=left,
        recall=recall.shares("kind"),
        recall_by={group: recall.shares(group) for group in sorted(recall.by) if group != "kind"},
        not_covered=not_covered(measures, unseen, total.quarantined, media),
        measures=measures,
    )


def _sorted(reader: SourceReader) -> _Sorted:
    """By name and by first bytes: text under a picture's name is scanned like any text."""
    texts: dict[bytes, tuple[SourceFile, int]] = {}
    media = []
    for file in reader.files:
        image, audio = is_image(file.path), is_audio(file.path)
        if (image or audio) and kind_of(bytes(reader.head(file, HEAD_BYTES))) is not None:
            media.append(("image" if image else "audio", file))
            continue
        first, times = texts.get(file.sha256, (file, 0))
        texts[file.sha256] = (first, times + 1)
    return _Sorted(
        tuple(file for file, _ in texts.values()), tuple(times for _, times in texts.values()), tuple(media)
    )


def _scan_texts(
    reader: SourceReader,
    files: _Sorted,
    total: _Sum,
    processes: int,
    measures: Measures,
    advance: Callable[[float], None],
) -> None:
    numbered = [*enumerate(files.texts)]
    paths = [(len(numbered) + index, file) for index, (_, file) in enumerate(files.media)]

    def text_of(number: int, file: SourceFile) -> _Text:
        if number >= len(numbered):
            return _Text(number, file.path, file.path.encode(), 1, True)
        return _Text(number, file.path, bytes(reader.read(file)), files.times[number], False)

    def tasks(groups: Iterable[Sequence[tuple[int, SourceFile]]]) -> Iterator[list[_Text]]:
        for group in groups:
            yield [text_of(number, file) for number, file in group]

    with Bounded(
        processes, _start_scanning, measures.names, limit_s=lambda texts: limit_of(texts, measures)
    ) as workers:
        groups = batches([*numbered, *paths], lambda one: one[1].size_bytes, _BATCH_BYTES)
        again: list[_Text] = []
        for batch, told in workers.as_done(tasks(groups)):
            if isinstance(told, Lost):
                again += batch  # one of them is at fault; which, is found out one by one
                continue
            total.add(told)
            advance(sum(len(text.data) for text in batch if not text.is_path))
        for batch, told in workers.as_done([text] for text in again):
            if isinstance(told, Lost):
                total.hold_back(batch[0].path, batch[0].times, told.why.value)
            else:
                total.add(told)
            advance(sum(len(text.data) for text in batch if not text.is_path))


def _scan_rows(reader: SourceReader, files: _Sorted, total: _Sum, processes: int, measures: Measures) -> None:
    """What lies over a border between the items or fields of one row; its items alone have been scanned."""
    media = {file.path for _, file in files.media}
    rows = rows_of(file for file in reader.files if file.path not in media)
    if not rows:
        return

    def tasks() -> Iterator[list[_Row]]:
        for group in batches(rows, lambda row: sum(file.size_bytes for file in row), _BATCH_BYTES):
            yield [
                [(file.path, ends_of(file.path, bytes(reader.read(file)))) for file in row] for row in group
            ]

    with Bounded(
        processes, _start_rows, None, limit_s=lambda batch: measures.limit_s * max(1.0, len(batch) / 100)
    ) as workers:
        again: list[_Row] = []
        for batch, told in workers.as_done(tasks()):
            if isinstance(told, Lost):
                again += batch
            else:
                total.add(told)
        for batch, told in workers.as_done([row] for row in again):
            if isinstance(told, Lost):
                for path, _ in batch[0]:
                    total.hold_back(path, 1, told.why.value)
            else:
                total.add(told)


def _start_rows(_: None) -> Callable[[list[_Row]], _Told]:
    return _look_over_borders


def _look_over_borders(rows: list[_Row]) -> _Told:
    counts: dict[Kind, int] = {}
    files_with: dict[Kind, int] = {}
    ranked: list[_Ranked] = []
    for row in rows:
        found = find_across(row)
        for kind in {one.kind for one in found}:
            files_with[kind] = files_with.get(kind, 0) + 1
        for number, one in enumerate(found):
            path = row[one.item][0]
            counts[one.kind] = counts.get(one.kind, 0) + 1
            place = hashlib.sha256(f"{one.kind}\0row {number}\0{path}".encode()).digest()
            ranked.append((place, one.kind, printable(path), 0, f"over fields of the row: {one.shown}"))
    return _Told(counts, files_with, _lowest(ranked), {})


def limit_of(texts: Sequence[_Text], measures: Measures) -> float:
    """Seconds that a worker may take for these texts."""
    return measures.limit_s * max(1.0, sum(len(text.data) for text in texts) / _BATCH_BYTES)


def _start_scanning(keep_hits: bool) -> Callable[[list[_Text]], _Told]:
    def scan(texts: list[_Text]) -> _Told:
        return _scan_batch(texts, keep_hits)

    return scan


def _scan_batch(texts: list[_Text], keep_hits: bool) -> _Told:
    counts: dict[Kind, int] = {}
    files_with: dict[Kind, int] = {}
    ranked: list[_Ranked] = []
    hits = {}
    each = find_each([text.data for text in texts])
    for text, found in zip(texts, each, strict=True):
        for kind in {finding.kind for finding in found}:
            files_with[kind] = files_with.get(kind, 0) + text.times
        places = []
        for index, finding in enumerate(found):
            counts[finding.kind] = counts.get(finding.kind, 0) + text.times
            place = hashlib.sha256(f"{finding.kind}\0{finding.start}\0{text.path}".encode()).digest()
            places.append((place, finding.kind, text.path, finding.start, index))
        ranked += [
            (place, kind, printable(path), start, _shown(text, excerpt(text.data, found, index)))
            for place, kind, path, start, index in _lowest(places)
        ]
        if keep_hits and found and not text.is_path:
            hits[text.number] = tuple(found)
    return _Told(counts, files_with, _lowest(ranked), hits)


def _shown(text: _Text, line: str) -> str:
    return f"in the path: {line}" if text.is_path else line


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


def _scan_media(
    reader: SourceReader,
    files: _Sorted,
    processes: int,
    measures: Measures,
    advance: Callable[[float], None],
) -> dict[str, MediaSeen]:
    """What metadata pictures and clips have, and how many faces; one that cannot be looked at is counted."""
    if not files.media:
        return {}
    told: dict[str, list[MediaTold | None]] = {}
    tasks = (MediaTask(kind, bytes(reader.read(file))) for kind, file in files.media)
    with Bounded(
        processes,
        start_media,
        measures.faces,
        limit_s=lambda task: measures.limit_s * max(1.0, len(task.data) / _BATCH_BYTES),
    ) as workers:
        for task, answer in workers.as_done(tasks):
            told.setdefault(task.media, []).append(None if isinstance(answer, Lost) else answer)
            advance(len(task.data))
    return {kind: _media_seen(answers) for kind, answers in sorted(told.items())}


def _media_seen(answers: Sequence[MediaTold | None]) -> MediaSeen:
    removed: dict[str, int] = {}
    findings: dict[str, int] = {}
    known = [answer for answer in answers if answer is not None]
    for answer in known:
        for name in answer.removed:
            removed[name] = removed.get(name, 0) + 1
        for kind, count in answer.findings.items():
            findings[kind] = findings.get(kind, 0) + count
    return MediaSeen(
        files=len(answers),
        with_metadata=removed,
        findings_in_metadata=findings,
        not_stripped=sum(answer is None or not answer.stripped for answer in answers),
        looked_for_faces=sum(answer.faces is not None for answer in known),
        with_faces=sum(bool(answer.faces) for answer in known),
        faces=sum(answer.faces or 0 for answer in known),
    )
