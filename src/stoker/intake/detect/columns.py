"""Cells under the name of their column: delimited text, Markdown tables, INSERT and COPY of SQL. Pure.

See docs/design/detect.md, "Labels". A line is a header when two of its neighbouring cells name personal data
and all cells are short names; what stands under it is looked at until a line has another number of cells or
is a header itself, so every line belongs to at most one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final, TypeAlias

from stoker.intake.detect.fields import labels_of
from stoker.intake.detect.labels import LABELS, kind_of
from stoker.intake.detect.recognise import Found, Span
from stoker.intake.detect.values import NUMBER_KINDS, WORD_KINDS, number_at, words_at
from stoker.spec.kinds import Kind

Columns: TypeAlias = list[tuple[Kind, bool] | None]
"""The kind of each column, and whether its name means nothing else."""

_OTHERS: Final = (
    rb"e-?mail(?:[ _]address)?|e-?post|correo(?: electr\xc3\xb3nico)?|courriel|iban|card[ _]?number|credit[ "
    rb"_]?card"
    rb"|gender|sex|id|customer[ _]?id|state|ip[ _]address|username|password"
)
_NAMES: Final = rb"(?:" + labels_of(LABELS) + rb"|" + _OTHERS + rb")"
_QUOTE: Final = rb"[\"'`]?"
_CUT: Final = _QUOTE + rb" ?[,;|\t] ?" + _QUOTE
HEADER: Final = (
    rb"(?i)[\"'`,;|\t( \n]" + _NAMES + _CUT + _NAMES + _CUT.replace(b"?[,;", b"?[),;") + rb"[^\n]*"
)
_OTHER: Final = re.compile(_OTHERS, re.IGNORECASE)
_LABEL: Final = re.compile(rb"[A-Za-z\x80-\xff#][A-Za-z0-9\x80-\xff _.\-/'#()]{0,40}")
_CELLS: Final = {
    separator: re.compile(
        rb"[ ]*(?:\"((?:[^\"\n]|\"\")*)\"|'((?:[^'\n]|'')*)'|([^\n"
        + re.escape(separator)
        + rb"]*))[ \r]*("
        + re.escape(separator)
        + rb"|(?=\n)|\Z)"
    )
    for separator in (b",", b";", b"|", b"\t")
}
_VALUE: Final = re.compile(
    rb"\s*(?:[NnEe]?'((?:[^'\\]|''|\\.)*)'|\"((?:[^\"\\]|\\.)*)\"|([^,()'\"\n]*))\s*([,)])"
)
_VALUES: Final = re.compile(rb"(?i)\s*VALUES?\s*(?=\()")
_COMMA: Final = re.compile(rb"\s*,\s*")
_COPY: Final = re.compile(rb"(?i)\s*FROM\s+stdin[^\n]*\n")
MAX_LINE_BYTES: Final = 4096
MAX_COLUMNS: Final = 256
LEAST_KNOWN: Final = 2


def _known(cells: Sequence[bytes]) -> Columns | None:
    """The kinds of the columns under a header; None when the line is none."""
    columns: Columns = []
    known = 0
    for cell in cells:
        if _LABEL.fullmatch(cell.strip()) is None:
            return None
        name = cell.strip().decode(errors="replace")
        kind = kind_of(name)
        known += kind is not None or _OTHER.fullmatch(cell.strip()) is not None
        columns.append(kind)
    return columns if known >= LEAST_KNOWN and any(columns) else None


def _value(match: re.Match[bytes]) -> Span:
    """Where the value of a cell lies, in double quotes, in single ones or in none."""
    return match.span(1 if match.start(1) >= 0 else 2 if match.start(2) >= 0 else 3)


def _line(data: bytes, at: int, separator: bytes) -> tuple[list[Span], int]:
    """The cells of the line that begins at `at`, without quotes, and where the next line begins."""
    cells: list[Span] = []
    expression = _CELLS[separator]
    while len(cells) < MAX_COLUMNS:
        match = expression.match(data, at, at + MAX_LINE_BYTES)
        if match is None:
            break
        cells.append(_value(match))
        at = match.end()
        if not match.group(4):
            break
    following = data.find(b"\n", at, at + MAX_LINE_BYTES)
    return cells, following + 1 if following >= 0 else len(data)


def cells(data: bytes, start: int, end: int) -> Iterator[Found]:
    """Personal cells of the table whose header holds the candidate."""
    begin = data.rfind(b"\n", max(0, start - MAX_LINE_BYTES), start + 1) + 1
    bracket = data.rfind(b"(", begin, start + 1)
    closing = data.find(b")", start, start + MAX_LINE_BYTES)
    if bracket >= 0 and closing >= 0:
        yield from _statement(data, bracket + 1, closing)
        return
    stop = data.find(b"\n", start + 1, start + MAX_LINE_BYTES)
    line = data[begin : stop if stop >= 0 else len(data)][:MAX_LINE_BYTES]
    separator = max((b",", b";", b"|", b"\t"), key=line.count)
    spans, at = _line(data, begin, separator)
    names = [data[first:last] for first, last in spans]
    if separator == b"|" and line.startswith(b"|"):
        names = names[1:-1]
    columns = _known(names)
    if columns is not None:
        yield from _rows(data, at, separator, columns, outer=len(spans) - len(names))


def _rows(data: bytes, at: int, separator: bytes, columns: Columns, *, outer: int) -> Iterator[Found]:
    """Cells of the lines from `at`; `outer`: how many empty cells border the line."""
    sure = sum(column is not None for column in columns) >= LEAST_KNOWN
    while at < len(data):
        spans, following = _line(data, at, separator)
        if outer:
            spans = spans[1:-1]
        if len(spans) != len(columns) or following <= at:
            return
        if _known([data[first:last] for first, last in spans[:MAX_COLUMNS]]) is not None:
            return
        yield from _row(data, spans, columns, sure=sure)
        at = following


def _statement(data: bytes, at: int, closing: int) -> Iterator[Found]:
    """Values of `INSERT INTO t (columns) VALUES (…), (…)`, or of the lines behind
    `COPY t (columns) FROM stdin;`."""
    copied = _COPY.match(data, closing + 1, closing + 1 + 256)
    values = _VALUES.match(data, closing + 1, closing + 1 + 64)
    if copied is None and values is None:
        return
    columns = _known([name.strip(b" \n\t\r\"'`[]") for name in data[at:closing].split(b",")])
    if columns is None:
        return
    if copied:
        yield from _rows(data, copied.end(), b"\t", columns, outer=0)
        return
    position = values.end() if values else len(data)
    while data[position : position + 1] == b"(":
        spans: list[Span] = []
        position += 1
        while len(spans) <= len(columns):
            match = _VALUE.match(data, position, position + MAX_LINE_BYTES)
            if match is None:
                return
            spans.append(_value(match))
            position = match.end()
            if match.group(4) == b")":
                break
        if len(spans) != len(columns):
            return
        yield from _row(data, spans, columns, sure=True)
        separator = _COMMA.match(data, position, position + 64)
        if separator is None:
            return
        position = separator.end()


def _row(data: bytes, spans: Sequence[Span], columns: Columns, *, sure: bool) -> Iterator[Found]:
    for (first, last), column in zip(spans, columns, strict=True):
        if column is None:
            continue
        kind, certain = column
        if kind in WORD_KINDS:
            span = words_at(kind, data, first, last, certain=certain or sure)
        elif kind in NUMBER_KINDS:
            while first < last and data[first] == 0x20:
                first += 1
            span = number_at(kind, data, first, last)
            if span is not None and data[span[1] : last].strip(b" \r"):
                span = None
        else:
            span = None
        if span:
            yield Found(*span, kind)
