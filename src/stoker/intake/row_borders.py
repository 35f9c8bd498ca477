"""Values that a border between items or fields of one row cuts in two. See docs/design/detect.md, "Borders".

Import turns a row into items of one name (`FILE/17.txt`, `.json`, `.label`), and each is scanned as a text
of its own. Here the ends that meet are looked at together: the items in the order in which they were
imported, and in place of a JSON object its values, one after the other. Only kinds with a checksum are asked
for, since the first half of one name and the second half of another are a name as well.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from stoker.intake.detect.scan import find, find_in_pieces, mask
from stoker.intake.documents import record_key
from stoker.intake.source_index import SourceFile
from stoker.intake.sources.media import EXTRA_EXTENSION, extension_of
from stoker.spec.kinds import Kind

CHECKED_KINDS: Final = (Kind.CARD, Kind.IBAN)
REACH_BYTES: Final = 64
"""More than the longest value of these kinds: of longer pieces only the ends are looked at."""

MOST_PIECES: Final = 4
LEAST_BYTES: Final = 13
"""Digits of the shortest card."""

_VALUE: Final = frozenset(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ -")
_DIGIT: Final = re.compile(rb"\d")

MAX_ROW_BYTES: Final = 1 << 20
"""A longer JSON item is a document and no row."""


@dataclass(frozen=True, slots=True)
class Across:
    """A finding over at least one border: its kind, its masked halves, and the item in which it begins."""

    kind: Kind
    item: int
    shown: str


@dataclass(frozen=True, slots=True)
class _Piece:
    item: int
    data: bytes


def rows_of(files: Iterable[SourceFile]) -> tuple[tuple[SourceFile, ...], ...]:
    """The items of each row in which a value can be cut: several of one name, or a JSON object."""
    rows: dict[str, list[SourceFile]] = {}
    for file in files:
        rows.setdefault(record_key(file.path), []).append(file)
    return tuple(tuple(row) for row in rows.values() if len(row) > 1 or _is_object(row[0].path))


def _is_object(path: str) -> bool:
    return extension_of(path) == EXTRA_EXTENSION


def ends_of(path: str, data: bytes) -> bytes:
    """What `find_across` looks at of an item: a row whole, of anything else that is long the two ends."""
    if len(data) <= 2 * REACH_BYTES or (_is_object(path) and len(data) <= MAX_ROW_BYTES):
        return data
    return data[:REACH_BYTES] + b"\n" + data[-REACH_BYTES:]


def find_across(items: Sequence[tuple[str, bytes]]) -> list[Across]:
    """What lies over a border of a row's `items`, each its path and bytes, in their order.

    What is found in one piece alone is not told: the scan of that item tells it.
    """
    found: list[Across] = []
    for run in _runs(_pieces(items)):
        found += _over_borders(run)
    return found


def _pieces(items: Sequence[tuple[str, bytes]]) -> Iterator[_Piece | None]:
    """What stands beside what; None where nothing can go on: a list, an object or nothing at all."""
    for item, (path, data) in enumerate(items):
        values = _values(data) if _is_object(path) and len(data) <= MAX_ROW_BYTES else None
        for value in (data,) if values is None else values:
            piece = value.strip() if value is not None else b""
            yield _Piece(item, piece) if piece else None


def _values(data: bytes) -> list[bytes | None] | None:
    """The values of a JSON object in their order, as text; None for what is no object."""
    try:
        found: Any = json.loads(data)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, Mapping):
        return None
    return [_text(value) for value in found.values()]


def _text(value: object) -> bytes | None:
    if isinstance(value, str):
        return value.encode(errors="replace")
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 64:
        return str(value).encode()
    return None


def _runs(pieces: Iterable[_Piece | None]) -> Iterator[list[_Piece]]:
    """Pieces that meet, at least two; a long one ends a run with its beginning, and its end begins one."""
    run: list[_Piece] = []
    for piece in pieces:
        if piece is None:
            if len(run) > 1:
                yield run
            run = []
        elif len(piece.data) <= 2 * REACH_BYTES:
            run.append(piece)
        else:
            if run:
                yield [*run, _Piece(piece.item, piece.data[:REACH_BYTES])]
            run = [_Piece(piece.item, piece.data[-REACH_BYTES:])]
    if len(run) > 1:
        yield run


def _over_borders(run: Sequence[_Piece]) -> Iterator[Across]:
    """Each value over two to MOST_PIECES pieces. What stands beside them must not hide it, so they are joined
    without the others."""
    first = 0
    while first < len(run) - 1:
        for last in range(first + 1, min(first + MOST_PIECES, len(run))):
            if not _may_meet(run[last - 1].data, run[last].data):
                break
            pieces = run[first : last + 1]
            found = _over(pieces) if _may_be(pieces) else None
            if found is not None:
                yield found
                first = last - 1
                break
        first += 1


def _may_meet(left: bytes, right: bytes) -> bool:
    """Whether a value may go on from one to the other: digits in both, and no word's end between them."""
    return left[-1] in _VALUE and right[0] in _VALUE and _DIGIT.search(left + right) is not None


def _may_be(pieces: Sequence[_Piece]) -> bool:
    """Whether there is enough for a value, and no table of numbers: of more than two fields of nothing but
    digits, random numbers make a card far too often, so these have to be of the groups that cards have."""
    if sum(len(piece.data) for piece in pieces) < LEAST_BYTES:
        return False
    numbers = all(piece.data.isdigit() for piece in pieces)
    return len(pieces) == 2 or not numbers or all(len(piece.data) % 4 == 0 for piece in pieces)


def _over(pieces: Sequence[_Piece]) -> Across | None:
    """The value that begins in the first of them, ends in the last and fills those between."""
    each = find_in_pieces([piece.data for piece in pieces], CHECKED_KINDS)
    if not all(each):
        return None
    begins, ends = each[0][-1], each[-1][0]
    filled = all(found[-1].end == len(piece.data) for found, piece in zip(each, pieces[:-1], strict=False))
    through = all(found[0].start == 0 and found[0].kind is begins.kind for found in each[1:])
    between = all(len(found) == 1 for found in each[1:-1])
    if not (filled and through and between) or _each_alone(pieces):
        return None
    halves = [pieces[0].data[begins.start :], *(piece.data for piece in pieces[1:-1])]
    return Across(begins.kind, pieces[0].item, " | ".join(map(mask, [*halves, pieces[-1].data[: ends.end]])))


def _each_alone(pieces: Sequence[_Piece]) -> bool:
    """Whether two whole values only meet."""
    first, last = pieces[0].data, pieces[-1].data
    return any(one.end == len(first) for one in find(first, CHECKED_KINDS)) or any(
        one.start == 0 for one in find(last, CHECKED_KINDS)
    )
