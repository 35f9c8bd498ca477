"""A text in the pieces that the name model is given: paragraphs, and parts of long ones. Pure.

A paragraph is a piece whatever stands around it, so a change in one leaves the others as they were. A long
one is cut at the end of a sentence, else at a blank, and its parts overlap, so no border hides a name.
See docs/design/measured.md, "Names".
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

MOST_BYTES: Final = 4096
"""No piece is longer: the model holds some kilobytes of numbers for every byte that it is given."""

OVERLAP_BYTES: Final = 256
"""Parts of a long paragraph have so much in common, more than a name has."""

_BLANK_LINE: Final = re.compile(rb"\n[ \t\r]*\n")
_ENDS: Final = (re.compile(rb"[.!?][\"')\]]?\s"), re.compile(rb"\n"), re.compile(rb"\s"))
"""Where to cut, the best first."""


def pieces(data: bytes) -> Iterator[tuple[int, int]]:
    """Begin and end of every piece of `data`, in order; together they hold all but blank lines."""
    at = 0
    for gap in _BLANK_LINE.finditer(data):
        yield from _parts(data, at, gap.start())
        at = gap.end()
    yield from _parts(data, at, len(data))


def _parts(data: bytes, start: int, end: int) -> Iterator[tuple[int, int]]:
    while end - start > MOST_BYTES:
        stop = _last_end(data, start + MOST_BYTES // 2, start + MOST_BYTES)
        yield start, stop
        start = _first_end(data, stop - OVERLAP_BYTES, stop)
    if start < end:
        yield start, end


def _last_end(data: bytes, begin: int, end: int) -> int:
    """The last good place for a cut; where there is none, the last that parts no character."""
    for expression in _ENDS:
        found = [match.end() for match in expression.finditer(data, begin, end)]
        if found:
            return found[-1]
    return _between_characters(data, end)


def _first_end(data: bytes, begin: int, end: int) -> int:
    """Behind the first blank; where there is none, the first place that parts no character."""
    blank = _ENDS[-1].search(data, begin, end)
    return blank.end() if blank is not None else _between_characters(data, begin)


def _between_characters(data: bytes, place: int) -> int:
    """`place`, or up to three bytes before it, where a character of UTF-8 begins."""
    for before in range(place, place - 4, -1):
        if before >= len(data) or data[before] & 0xC0 != 0x80:
            return before
    return place
