"""Whether a text can be the value of a field whose name says its kind. Pure.

See docs/design/detect.md, "Labels". A name of a field is weaker evidence than a check digit: values that are
no capitalised words, or numbers of another length, are left alone.
"""

from __future__ import annotations

import re
from typing import Final

from stoker.intake.detect.contexts import is_job, marks_of
from stoker.intake.detect.lexicon import Mark
from stoker.intake.detect.recognise import Span, after
from stoker.intake.detect.vocabulary import HONORIFICS
from stoker.spec.kinds import Kind

MAX_VALUE_BYTES: Final = 96

_WORD_BYTES: Final = frozenset(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_")
_DIGIT: Final = re.compile(rb"\d")
_WORDS: Final = re.compile(rb"[^\s,/&()]+")
_LETTERS: Final = re.compile(rb"[A-Za-z\x80-\xff]+(?:['\-.][A-Za-z\x80-\xff]+)*\.?")
_LINKS: Final = frozenset(
    b"van von der den de del della dei di da do dos das du des la le les el al bin ibn ben ter ten zu zum zur"
    b" af av d' y e i et und and og och ja a en of the for w we na nad in im am an & 't op het".split()
)
_DULL: Final = int(Mark.COMMON | Mark.TECHNICAL | Mark.MONTH | Mark.WEEKDAY)
_KNOWN: Final = int(Mark.GIVEN | Mark.SURNAME)

NUMBERS: Final = {
    Kind.AGE: re.compile(rb"(?:1[01]\d|120|[1-9]\d?)(?![\d%:])(?![.,/\-]\d)"),
    Kind.POSTCODE: re.compile(
        rb"(?:[A-Z]{1,2}-)?\d{5}(?:-\d{3,4})?|\d{4} ?[A-Z]{2}|\d\d-\d{3}|\d{4}-\d{3}|\d{3} \d\d|\d{6}|\d{3} "
        rb"\d{3}"
        rb"|\d{4}|[A-Z]{1,2}\d[0-9A-Z]? ?\d[A-Z]{2}|[A-Z]\d[A-Z] ?\d[A-Z]\d|[A-Z]\d[0-9W] [A-Z0-9]{4}|\d{3}"
    ),
    Kind.PHONE: re.compile(rb"\+?\(?\d(?:[ \-./()]{0,2}\d){6,14}"),
    Kind.BIRTH_DATE: re.compile(
        rb"\d{1,2}[-/. ]{1,2}\d{1,2}[-/. ]{1,2}\d{2,4}|\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|(?:19|20)\d{6}"
        rb"|\d{1,2}\.?(?:er|st|nd|rd|th)? (?:of |de |di )?[A-Za-z\x80-\xff]{3,12}\.?,? (?:de |del )?(?:19"
        rb"|20)\d\d"
        rb"|[A-Z][a-z]{2,8}\.? \d{1,2}(?:st|nd|rd|th)?,? (?:19|20)\d\d"
    ),
    Kind.NATIONAL_ID: re.compile(rb"[A-Z]{0,6} ?\d(?:[ \-./]?\d|[A-Z]){4,20}"),
    Kind.DRIVER_LICENCE: re.compile(rb"[A-Z0-9](?:[\-/]?[A-Z0-9]| \d){4,20}"),
}
"""Shapes of numbers and dates; those of numbers without a plan are wide."""

_LEAST_DIGITS: Final = {Kind.NATIONAL_ID: 6, Kind.DRIVER_LICENCE: 5, Kind.PHONE: 7}


def number_at(kind: Kind, data: bytes, at: int, stop: int) -> Span | None:
    """The number or date of a kind that begins at `at` and stands alone."""
    found = NUMBERS[kind].match(data, at, min(stop, at + MAX_VALUE_BYTES))
    if found is None:
        return None
    end = found.end()
    if after(data, end) in _WORD_BYTES or (
        after(data, end) in b"-/" and after(data, end + 1) in b"0123456789"
    ):
        return None
    if len(_DIGIT.findall(data, at, end)) < _LEAST_DIGITS.get(kind, 0):
        return None
    return at, end


def words_at(kind: Kind, data: bytes, at: int, stop: int, *, certain: bool) -> Span | None:
    """`data[at:stop]` without blanks around it, when it can be the name that a field of this kind holds.

    `certain`: the field's name means nothing else, so that one word is enough and words may be unknown.
    """
    while at < stop and data[at] in b" \t":
        at += 1
    while stop > at and data[stop - 1] in b" \t\r":
        stop -= 1
    text = data[at:stop]
    if not 2 <= len(text) <= MAX_VALUE_BYTES or not _FITS[kind](text, certain):
        return None
    return at, stop


def _capital(word: bytes) -> bool:
    return 0x41 <= word[0] <= 0x5A or 0xC3 <= word[0] <= 0xD4


def _person(text: bytes, certain: bool) -> bool:
    words = _WORDS.findall(text)
    if text.count(b",") > 1 or b"/" in text or b"&" in text or b"(" in text or not 1 <= len(words) <= 6:
        return False
    total = counted = listed = 0.0
    for word in words:
        if word.lower() in _LINKS and not _capital(word):
            continue
        if _LETTERS.fullmatch(word) is None or not _capital(word):
            return False
        bare = word.rstrip(b".")
        if len(bare) == 1 or (word.endswith(b".") and len(bare) <= 3):
            continue
        worth = _worth(bare, certain)
        if worth == 0.0:
            return False
        total, counted = total + worth, counted + 1
        listed += bool(marks_of(bare) & _KNOWN and not marks_of(bare) & _DULL)
    if certain:
        return counted >= 1 and total >= 0.5
    return counted >= 2 and total > 0.6 * counted and (listed > 0 or total >= 0.7 * counted)


def _worth(word: bytes, certain: bool) -> float:
    """How well a capitalised word can be a part of a name in a field for names; 0 for surely not."""
    inner = [each for each in re.split(rb"[-']", word) if each]
    if not certain and any(
        re.search(rb"[a-z][A-Z]", part) and not re.match(rb"(?:Mc|Mac|De|Di|Le|La|Van|Fitz)[A-Z]", part)
        for part in inner
    ):
        return 0.0
    marks = 0
    for part in inner:
        marks |= marks_of(part)
    if marks & Mark.COMPANY_FORM and not marks & _KNOWN:
        return 0.0
    if marks & Mark.GIVEN:
        return 0.8
    if marks & _DULL:
        return 0.5 if marks & Mark.SURNAME and certain else 0.1 if certain else 0.0
    if not certain and len(word) > 1 and word.isascii() and word.isupper():
        return 0.0
    return 0.7


def _organisation(text: bytes, certain: bool) -> bool:
    if text[:1].islower() or b"=" in text or b"{" in text:
        return False
    words = [word for word in re.split(rb"[\s,]+", text) if word]
    if not 1 <= len(words) <= 8:
        return False
    for word in words:
        if not (_capital(word) or word[0] in b"&+0123456789" or word.lower().rstrip(b".") in _LINKS | _SMALL):
            return False
        if re.search(rb"[\[\]{}<>()=@#$%^*_\\]|::|://", word):
            return False
    names = [word for word in words if len(word) > 1 and _capital(word)]
    return bool(names) and (len(names) > 1 or not marks_of(names[0].rstrip(b".")) & _DULL)


_SMALL: Final = frozenset(
    b"plc gmbh ltd inc z o.o fils hijos figli filhos zonen co. e.v. e.k. s.p.a s.r.l s.a s.l b.v n.v a.s "
    b"s.r.o"
    b" d.o.o k.s zoo sons mbh oy ky ab ag kg".split()
)


def _address(text: bytes, certain: bool) -> bool:
    """A number and a capitalised word, and nothing that no address has; where the label is broad also a "
    "street."""
    if re.fullmatch(rb"[A-Za-z0-9\x80-\xff .,'/#&()\-]+", text) is None or not _NUMBER_WORD.search(text):
        return False
    words = _LETTERS.findall(text)
    if not any(_capital(word) and len(word) > 2 for word in words):
        return False
    small = [word for word in words if not _capital(word) and len(word) > 3 and word.lower() not in _LINKS]
    streets = [word for word in words if marks_of(word.rstrip(b".")) & (Mark.STREET | Mark.UNIT)]
    return len(small) <= len(streets) and (certain or bool(streets))


_NUMBER_WORD: Final = re.compile(rb"(?<![A-Za-z0-9.])\d{1,5}[A-Za-z]?(?![A-Za-z0-9]|\.\d)")


def _location(text: bytes, certain: bool) -> bool:
    words = re.split(rb"[ \-]", text)
    if not 1 <= len(words) <= 5 or not _capital(text):
        return False
    marks = 0
    for word in words:
        if not word or not (word.lower() in _LINKS or (_LETTERS.fullmatch(word) and _capital(word))):
            return False
        marks |= marks_of(word)
    if marks & (Mark.PLACE | Mark.COUNTRY):
        return True
    return certain and not (marks & _DULL and len(words) == 1)


def _nationality(text: bytes, certain: bool) -> bool:
    words = text.split()
    if not 1 <= len(words) <= 2 or not all(
        re.fullmatch(rb"[A-Za-z\x80-\xff\-]{4,20}", word) for word in words
    ):
        return False
    marks = marks_of(words[-1])
    return certain and (bool(marks & (Mark.NATIONALITY | Mark.COUNTRY)) or not marks & _DULL)


def _title(text: bytes, certain: bool) -> bool:
    del certain
    parts = text.lower().split()
    address = len(parts) <= 3 and all(part.rstrip(b".") in _FORMS_OF_ADDRESS for part in parts)
    return address or (_capital(text) and is_job(text))


_FORMS_OF_ADDRESS: Final = frozenset(word.encode() for word in HONORIFICS)

_FITS: Final = {
    Kind.PERSON: _person,
    Kind.ORGANISATION: _organisation,
    Kind.STREET_ADDRESS: _address,
    Kind.LOCATION: _location,
    Kind.NATIONALITY: _nationality,
    Kind.TITLE: _title,
}
WORD_KINDS: Final = frozenset(_FITS)
NUMBER_KINDS: Final = frozenset(NUMBERS)
