"""Clips with their transcripts: LibriSpeech's `*.trans.txt`, or a table that names files and texts.

Transcripts are read first and held in memory until their clip comes. Neither a clip without a transcript nor
a transcript without its clip is passed over in silence. See docs/design/intake.md, "Sources".
"""

from __future__ import annotations

import posixpath
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Final

from stoker.intake.errors import BrokenSource, DuplicateName, LabelMismatch
from stoker.intake.left_out import Reason, printable
from stoker.intake.sources.csv_rows import Table, delimiter_of
from stoker.intake.sources.files import Candidate
from stoker.intake.sources.form import Intake
from stoker.intake.sources.judge import Item, NotTaken
from stoker.intake.sources.media import (
    CLASS_EXTENSION,
    LABEL_EXTENSION,
    TEXT_EXTENSION,
    extension_of,
    is_audio,
)
from stoker.intake.sources.rows import Role, label_cell, missing_column
from stoker.intake.sources.stream import Stream, StreamFault, open_stream

ENDING: Final = ".trans.txt"


@dataclass(frozen=True, slots=True)
class Transcript:
    """What one line says of one clip, and where it stands."""

    text: str
    label: str
    place: str


def audio_folder_items(intake: Intake) -> Generator[Item]:
    """Each clip with its transcript, in the order of the clips' names."""
    tables = {candidate.path for candidate in intake.candidates if is_table(intake, candidate.path)}
    transcripts: dict[str, Transcript] = {}
    for candidate in intake.candidates:
        if candidate.path in tables:
            _read(intake, candidate, transcripts)
    if intake.spec.transcripts and intake.spec.transcripts not in tables:
        text = f"The transcripts {printable(intake.spec.transcripts)} are not in the source."
        place = intake.spec.transcripts
        intake.judge.settle(intake.judge.fault(Reason.NO_TRANSCRIPT, LabelMismatch, place, text))
    for candidate in intake.candidates:
        if candidate.path in tables:
            continue
        if not is_audio(candidate.path):
            intake.judge.not_of_form(candidate.path)
            intake.advance(candidate.size_bytes)
            continue
        try:
            yield from _clip(intake, candidate, transcripts)
        except NotTaken as not_taken:
            intake.judge.settle(not_taken)
    for name, transcript in transcripts.items():
        text = f"{printable(transcript.place)} names clip {printable(name)}, which is not there."
        place = f"{transcript.place}: {name}"
        intake.judge.settle(intake.judge.fault(Reason.NO_CLIP, LabelMismatch, place, text))


def is_table(intake: Intake, path: str) -> bool:
    """Whether this file holds transcripts."""
    return path == intake.spec.transcripts if intake.spec.transcripts else path.endswith(ENDING)


def _clip(intake: Intake, candidate: Candidate, transcripts: dict[str, Transcript]) -> Iterator[Item]:
    """The clip and its transcript, or neither. Raises NotTaken."""
    stem = candidate.path[: -len(extension_of(candidate.path))]
    transcript = transcripts.pop(candidate.path, None) or transcripts.pop(stem, None)
    data = intake.whole(candidate)
    if data is None:
        return
    if transcript is None:
        text = f"Clip {printable(candidate.path)} has no transcript."
        raise intake.judge.fault(Reason.NO_TRANSCRIPT, LabelMismatch, candidate.path, text)
    items = [
        intake.judge.item(candidate.path, data),
        intake.judge.text(stem + TEXT_EXTENSION, transcript.text.encode()),
    ]
    if transcript.label:
        digits = transcript.label.isascii() and transcript.label.isdigit() and len(transcript.label) <= 18
        cell = label_cell(int(transcript.label) if digits else transcript.label)
        extension = CLASS_EXTENSION if cell.role is Role.CLASS else LABEL_EXTENSION
        items.append(intake.judge.item(stem + extension, cell.data))
    yield from intake.judge.group(items)


def _read(intake: Intake, candidate: Candidate, transcripts: dict[str, Transcript]) -> None:
    """Add the transcripts of one file, keyed by the clip's path with or without its extension."""
    opened = intake.files.open(candidate)
    if opened is None:
        intake.advance(candidate.size_bytes)
        return
    folder = posixpath.dirname(candidate.path)
    try:
        with opened as source:
            stream = open_stream(source, intake.advance, intake.spec.limits.ratio)
            if candidate.path.endswith(ENDING):
                _read_lines(intake, candidate, folder, stream, transcripts)
            else:
                delimiter = delimiter_of(intake, candidate.path)
                table = Table(stream, delimiter, intake.spec.max_file_bytes)
                _read_table(intake, candidate, folder, table, transcripts)
    except StreamFault as fault:
        intake.judge.settle(intake.broken(candidate, fault.reason, fault.text, fault.offset))
    except NotTaken as not_taken:
        intake.judge.settle(not_taken)


def _read_lines(
    intake: Intake, candidate: Candidate, folder: str, stream: Stream, transcripts: dict[str, Transcript]
) -> None:
    """`1089-134686-0000 HE HOPED THERE WOULD BE STEW`: a clip's name without extension, a space, a text."""
    limit, line = intake.spec.max_file_bytes, 0
    while data := stream.line(limit):
        line += 1
        place = f"{candidate.path} line {line}"
        try:
            name, space, text = data.decode().strip().partition(" ")
        except UnicodeDecodeError:
            name, space, text = "", "", ""
        if not space or not text.strip() or len(data) > limit:
            why = f"{printable(place)} is not a clip's name, a space and a text in UTF-8."
            intake.judge.settle(intake.judge.fault(Reason.BAD_ROW, BrokenSource, place, why))
            continue
        _add(intake, posixpath.join(folder, name), Transcript(text.strip(), "", place), transcripts)


def _read_table(
    intake: Intake, candidate: Candidate, folder: str, table: Table, transcripts: dict[str, Transcript]
) -> None:
    """Columns for the file, the text and, when the settings name one, the label. Raises NotTaken."""
    spec, header = intake.spec, table.header()
    text_column = spec.text_column or "text"
    for name in (spec.file_column, text_column, *([spec.label_column] if spec.label_column else [])):
        if name not in header:
            raise missing_column(intake, candidate.path, f"there is no column {name!r}")
    file_at, text_at = header.index(spec.file_column), header.index(text_column)
    label_at = header.index(spec.label_column) if spec.label_column else None
    for _, line, fields in table.rows():
        place = f"{candidate.path} line {line}"
        if not fields:
            continue
        try:
            if len(fields) != len(header):
                why = f"has {len(fields)} columns; the header has {len(header)}"
            elif not fields[file_at] or not fields[text_at]:
                why = "lacks the name of its clip, or its text"
            else:
                "".join(fields).encode()
                name = posixpath.normpath(posixpath.join(folder, fields[file_at]))
                label = "" if label_at is None else fields[label_at]
                _add(intake, name, Transcript(fields[text_at], label, place), transcripts)
                continue
        except UnicodeEncodeError:
            why = "is not UTF-8"
        text = f"{printable(place)} {why}."
        intake.judge.settle(intake.judge.fault(Reason.BAD_ROW, BrokenSource, place, text))


def _add(intake: Intake, name: str, transcript: Transcript, transcripts: dict[str, Transcript]) -> None:
    if name in transcripts:
        text = f"{printable(transcript.place)} gives clip {printable(name)} a second transcript."
        place = transcript.place
        intake.judge.settle(intake.judge.fault(Reason.DUPLICATE, DuplicateName, place, text))
        return
    transcripts[name] = transcript
