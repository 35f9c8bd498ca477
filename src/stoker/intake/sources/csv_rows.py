"""CSV and TSV tables with a header line, plain or gzip. See docs/design/intake.md, "Sources"."""

from __future__ import annotations

import csv
import threading
from collections.abc import Generator, Iterator
from typing import Final

from stoker.intake.errors import BrokenSource
from stoker.intake.left_out import Reason, printable
from stoker.intake.sources.files import Candidate
from stoker.intake.sources.form import Intake
from stoker.intake.sources.json_lines import extra_json
from stoker.intake.sources.judge import Item, NotTaken
from stoker.intake.sources.rows import Cell, Columns, Role, choose_columns, label_cell, row_items
from stoker.intake.sources.stream import Stream, StreamFault

ENDINGS: Final = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
_FIELD_LIMIT: Final = threading.Lock()


def csv_items(intake: Intake) -> Generator[Item]:
    """The rows of every table, in the order of the tables' names."""
    for candidate in intake.candidates:
        if candidate.path.lower().endswith(ENDINGS):
            yield from intake.rows(candidate, read_csv)
        else:
            intake.judge.not_of_form(candidate.path)
            intake.advance(candidate.size_bytes)


def read_csv(intake: Intake, candidate: Candidate, stream: Stream) -> Iterator[Item]:
    """The rows of one table, numbered from 0 after the header. Raises StreamFault, MissingColumn."""
    table = Table(stream, delimiter_of(intake, candidate.path), intake.spec.max_file_bytes)
    header = table.header()
    columns = choose_columns(intake, candidate.path, header)
    places = {name: header.index(name) for name in columns.names()}
    for row, line, fields in table.rows():
        place = f"{candidate.path} line {line}"
        try:
            if not fields:
                raise NotTaken(Reason.EMPTY, place)
            if len(fields) != len(header):
                text = f"{printable(place)} has {len(fields)} columns; the header has {len(header)}."
                raise intake.judge.fault(Reason.BAD_ROW, BrokenSource, place, text)
            values = {name: fields[index] for name, index in places.items()}
            yield from row_items(intake, candidate, row, _cells(columns, values))
        except UnicodeEncodeError:
            text = f"{printable(place)} is not UTF-8."
            intake.judge.settle(intake.judge.fault(Reason.BAD_ROW, BrokenSource, place, text))
        except NotTaken as not_taken:
            intake.judge.settle(not_taken)


def _cells(columns: Columns, values: dict[str, str]) -> list[Cell]:
    cells = []
    if columns.text:
        cells.append(Cell(Role.TEXT, values[columns.text].encode()))
    if columns.label:
        label = values[columns.label]
        number = label.isascii() and label.isdigit() and len(label) <= 18
        cells.append(label_cell(int(label) if number else label))
    if columns.extra:
        cells.append(Cell(Role.EXTRA, extra_json({name: values[name] for name in columns.extra})))
    return cells


def delimiter_of(intake: Intake, path: str) -> str:
    """What the settings say; otherwise a tab for `.tsv` and a comma for the rest."""
    return intake.spec.delimiter or ("\t" if ".tsv" in path.lower()[-7:] else ",")


class Table:
    """Rows of a CSV stream. A line, a field and a row of many lines are each at most `limit` bytes.

    Bytes that are not UTF-8 come as lone surrogates, so that they are a fault of their row alone.
    """

    def __init__(self, stream: Stream, delimiter: str, limit: int) -> None:
        self._stream = stream
        self._limit = limit
        self._row_bytes = 0
        self._line = 0
        with _FIELD_LIMIT:
            if csv.field_size_limit() < limit:
                csv.field_size_limit(limit)
        self._reader = csv.reader(self._lines(), delimiter=delimiter, strict=True)

    def header(self) -> list[str]:
        """The names of the columns. Raises StreamFault when there are none, or one is there twice."""
        found = self._next()
        if not found:
            raise StreamFault(Reason.MALFORMED, "it has no header line")
        _, names = found
        twice = sorted({name for name in names if names.count(name) > 1}) if len(names) < 1000 else []
        if twice:
            raise StreamFault(Reason.MALFORMED, f"its header names {printable(twice[0])!r} twice")
        return names

    def rows(self) -> Iterator[tuple[int, int, list[str]]]:
        """Row number, line where it begins (the header's is 1), fields. Raises StreamFault."""
        row = 0
        while found := self._next():
            yield row, *found
            row += 1

    def _next(self) -> tuple[int, list[str]] | None:
        self._row_bytes = 0
        begins = self._line + 1
        try:
            return begins, next(self._reader)
        except StopIteration:
            return None
        except csv.Error as error:
            raise StreamFault(Reason.MALFORMED, f"the row that begins at line {begins}: {error}") from error

    def _lines(self) -> Iterator[str]:
        while line := self._stream.line(self._limit):
            self._line += 1
            self._row_bytes += len(line)
            if self._row_bytes > self._limit:
                text = f"the row that ends at line {self._line} has more than {self._limit} bytes"
                raise StreamFault(Reason.TOO_MUCH, text)
            yield line.decode("utf-8-sig" if self._line == 1 else "utf-8", errors="surrogateescape")
