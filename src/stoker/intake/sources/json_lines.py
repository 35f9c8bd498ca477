"""JSON lines: one object a line, plain or gzip. See docs/design/intake.md, "Sources"."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator
from typing import Any, Final

from stoker.intake.errors import BrokenSource, LabelMismatch, MissingColumn
from stoker.intake.left_out import Reason, printable
from stoker.intake.sources.files import Candidate
from stoker.intake.sources.form import Intake
from stoker.intake.sources.judge import Item, NotTaken
from stoker.intake.sources.rows import Cell, Columns, Role, choose_columns, label_cell, row_items
from stoker.intake.sources.stream import Stream, StreamFault

ENDINGS: Final = (".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz")


def json_lines_items(intake: Intake) -> Generator[Item]:
    """The rows of every file, in the order of the files' names."""
    for candidate in intake.candidates:
        if candidate.path.lower().endswith(ENDINGS):
            yield from intake.rows(candidate, read_json_lines)
        else:
            intake.judge.not_of_form(candidate.path)
            intake.advance(candidate.size_bytes)


def read_json_lines(intake: Intake, candidate: Candidate, stream: Stream) -> Iterator[Item]:
    """The rows of one file. A row's number is its line's, from 0. Raises StreamFault."""
    columns: Columns | None = None
    limit = intake.spec.max_file_bytes
    row = -1
    while line := stream.line(limit):
        row += 1
        place = f"{candidate.path} line {row + 1}"
        try:
            if len(line) > limit:
                _to_line_end(stream, limit)
                raise NotTaken(Reason.TOO_LARGE, place)
            if not line.strip():
                raise NotTaken(Reason.EMPTY, place)
            record = _object(intake, place, line)
            if columns is None:
                columns = choose_columns(intake, candidate.path, record.keys())
            yield from row_items(intake, candidate, row, _cells(intake, place, record, columns))
        except NotTaken as not_taken:
            intake.judge.settle(not_taken)
    if row < 0:
        raise StreamFault(Reason.MALFORMED, "it holds no line")


def _to_line_end(stream: Stream, limit: int) -> None:
    while (rest := stream.line(limit)) and not rest.endswith(b"\n"):
        pass


def _object(intake: Intake, place: str, line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line.decode())
    except UnicodeDecodeError as error:
        why = f"byte {error.start} is not UTF-8"
    except json.JSONDecodeError as error:
        why = f"{error.msg}, column {error.colno}"
    except (ValueError, RecursionError) as error:
        why = type(error).__name__
    else:
        if isinstance(record, dict):
            return record
        why = "it is no object"
    text = f"{printable(place)} is no JSON object: {why}."
    raise intake.judge.fault(Reason.BAD_ROW, BrokenSource, place, text)


def _cells(intake: Intake, place: str, record: dict[str, Any], columns: Columns) -> list[Cell]:
    """Raises NotTaken when a column is missing or holds something else than it must."""

    def lacks(name: str, what: str) -> NotTaken:
        text = f"{printable(place)} has no {what} {name!r}."
        return intake.judge.fault(Reason.MISSING_COLUMN, MissingColumn, place, text)

    cells = []
    try:
        if columns.text:
            value = record.get(columns.text)
            if not isinstance(value, str):
                raise lacks(columns.text, "text in column")
            cells.append(Cell(Role.TEXT, value.encode()))
        if columns.label:
            if columns.label not in record:
                raise lacks(columns.label, "column")
            value = record[columns.label]
            if not isinstance(value, int | str):
                text = f"{printable(place)} has a label that is neither a whole number nor text."
                raise intake.judge.fault(Reason.BAD_LABEL, LabelMismatch, place, text)
            cells.append(label_cell(value))
        if columns.extra:
            for name in columns.extra:
                if name not in record:
                    raise lacks(name, "column")
            cells.append(Cell(Role.EXTRA, extra_json({name: record[name] for name in columns.extra})))
    except ValueError as error:
        text = f"{printable(place)} holds what is no text or no number: half a surrogate pair, or NaN."
        raise intake.judge.fault(Reason.BAD_ROW, BrokenSource, place, text) from error
    return cells


def extra_json(values: dict[str, Any]) -> bytes:
    """Other columns as one JSON object. Raises ValueError for what JSON or UTF-8 cannot say."""
    return json.dumps(
        values, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":")
    ).encode()
