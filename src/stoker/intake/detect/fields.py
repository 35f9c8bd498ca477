"""Values behind the name of their field: `"full_name": "…"`, `Geburtsort: …`, `<phone>…`. Pure.

See docs/design/detect.md, "Labels".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

from stoker.intake.detect.labels import LABELS, kind_of
from stoker.intake.detect.recognise import Found, Span
from stoker.intake.detect.values import MAX_VALUE_BYTES, NUMBER_KINDS, WORD_KINDS, number_at, words_at
from stoker.spec.kinds import Kind

_BLANK: Final = rb"[ _\-]?"
_BORDER: Final = rb"(?:\A|[^A-Za-z\x80-\xff])"
_OPEN: Final = rb"[\"'(\[]{0,2}"
_COLON: Final = rb"[\"'\]]{0,2}[ \t]{0,2}:[ \t]{0,2}" + _OPEN
_EQUALS: Final = rb"[\"'\]]{0,2}[ \t]{0,2}=>?[ \t]{0,2}"
_LINK: Final = (
    rb"(?:is|no\.?|nr\.?|n\xc2\xb0|number|nummer|numer|num\xc3\xa9ro|den|am|on|op|le|il|el|em|dne|dnia|#)"
)
_CAPITAL: Final = rb"[A-Z\xc3-\xd4]"


def labels_of(kinds: Iterable[Kind]) -> bytes:
    """Every label of these kinds, as alternatives of an expression that ignores case."""
    words = sorted({label for kind in kinds for label in LABELS[kind]}, key=lambda each: (-len(each), each))
    return b"|".join(_folded(word) for word in words)


def _folded(label: str) -> bytes:
    """A label with any separator between its words and either case of letters beyond ASCII."""
    parts = []
    for letter in label:
        if letter == " ":
            parts.append(_BLANK)
        elif letter.isascii():
            parts.append(re.escape(letter).encode())
        elif letter.upper() != letter and len(letter.upper()) == 1:
            parts.append(b"(?:" + letter.encode() + b"|" + letter.upper().encode() + b")")
        else:
            parts.append(letter.encode())
    return b"".join(parts)


_NAMES: Final = (
    rb"(?:"
    + _BORDER
    + rb"(?i:"
    + labels_of(WORD_KINDS)
    + rb")|[a-z](?:Name|City|Town|Country|Company|Employer|Nationality))"
)
WORDS: Final = (
    _NAMES
    + rb"(?:(?:"
    + _COLON
    + rb"|"
    + _EQUALS
    + rb"[\"']|>)"
    + _CAPITAL
    + rb"|"
    + _EQUALS
    + _CAPITAL
    + rb"[A-Za-z\x80-\xff'.\-]{0,24} [A-Z\xc3-\xd4])"
    + rb"|"
    + _BORDER
    + rb"(?i:"
    + labels_of({Kind.NATIONALITY, Kind.TITLE})
    + rb")(?:"
    + _COLON
    + rb"|>)[a-z]|"
    + _BORDER
    + rb"(?i:"
    + labels_of({Kind.STREET_ADDRESS})
    + rb")(?:"
    + _COLON
    + rb"|"
    + _EQUALS
    + rb"[\"']|>)\d{1,5}[A-Za-z]?,? [A-Za-z\xc3-\xd4]"
)
"""The name of a field of words, and a capital letter behind a colon, a quote or a tag; nationalities and
forms of address also small, addresses also with a number. Behind an equals sign alone two words: one is an
assignment."""
NUMBERS: Final = (
    rb"(?:"
    + _BORDER
    + rb"(?i:"
    + labels_of(NUMBER_KINDS)
    + rb")|[a-z](?:Phone|Age|Zip|Postcode|Birthday))(?:"
    + _COLON
    + rb"|"
    + _EQUALS
    + _OPEN
    + rb"|>|(?i: "
    + _LINK
    + rb"?:? ?))[+(]{0,2}[A-Z]{0,6} ?\d"
)

_BEFORE: Final = re.compile(rb"[A-Za-z\x80-\xff\xc2\xb0][A-Za-z0-9\x80-\xff_'. /\-]*\Z")
_SEPARATOR: Final = re.compile(rb"[\"'\]]{0,2}[ \t]{0,2}([:=>]>?)[ \t]{0,2}([\"'(\[]{0,2})")
_GAP: Final = re.compile(
    rb"(?i)[\"'\]]{0,2}(?:[ \t]{0,2}[:=>]>?[ \t]{0,2}| " + _LINK + rb"?:? ?)[\"'(\[]{0,2}"
)
_END: Final = re.compile(rb"[\n\r<>|;\t\"{}]|  ")
_CUTS: Final = re.compile(rb"\. |, | \(| - |\.\Z|,\Z")
_TAIL: Final = re.compile(rb"[\"'\]]*[ \t]*[:=>]")
MAX_LABEL_BYTES: Final = 48


def _label(data: bytes, start: int, end: int) -> tuple[Kind, bool] | None:
    """What the name of a field that ends at `end` says; `start` lies in it."""
    found = _BEFORE.search(data, max(0, start - MAX_LABEL_BYTES), end)
    return kind_of(found.group().decode(errors="replace")) if found else None


def words(data: bytes, start: int, end: int) -> Iterator[Found]:
    """A name of a person, organisation, place or nationality, or a form of address, behind its label."""
    sign = None
    for each in _TAIL.finditer(data, start, end):
        sign = each
    separator = _SEPARATOR.match(data, sign.start()) if sign else None
    if sign is None or separator is None:
        return
    known = _label(data, start, sign.start())
    if known is None or known[0] not in WORD_KINDS:
        return
    kind, certain = known
    at = separator.end()
    quote = separator[2][-1:]
    limit = min(len(data), at + MAX_VALUE_BYTES)
    if quote in (b'"', b"'"):
        stop = data.find(quote, at, limit)
        stops = [stop] if stop >= 0 else []
    else:
        found = _END.search(data, at, limit)
        whole = found.start() if found else limit
        if separator[1] == b"=" and b" " not in data[at:whole].strip():
            return  # an assignment of one word is code
        stops = [whole, *(cut.start() for cut in _CUTS.finditer(data, at, whole))]
    for stop in stops:
        span = words_at(kind, data, at, stop, certain=certain)
        if span:
            yield Found(*span, kind)
            return


def numbers(data: bytes, start: int, end: int) -> Iterator[Found]:
    """A number or a date behind its label; a label that means other things too needs a sign behind it."""
    for gap in _GAP.finditer(data, start, end):
        known = _label(data, start, gap.start())
        if known is None or known[0] not in NUMBER_KINDS:
            continue
        kind, certain = known
        if not certain and re.search(rb"[:>\"']", gap.group()) is None:
            continue
        at = gap.end()
        span: Span | None = number_at(kind, data, at, len(data))
        if span:
            yield Found(*span, kind)
            return
