"""Dates, ages, coordinates, postcodes, domains and hardware addresses. Pure. See docs/design/detect.md."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from stoker.intake.detect.contexts import marks_of
from stoker.intake.detect.lexicon import Mark
from stoker.intake.detect.recognise import Span, after, before

_WORD: Final = frozenset(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_")
_BORN: Final = re.compile(
    rb"(?i)(?:\bborn(?: on)?|\bdate of birth|\bd\.?o\.?b\.?|\bbirth ?da(?:te|y)(?: is)?|\bgeboren(?: am)?"
    rb"|\bn\xc3\xa9e? le|\bfecha de nacimiento|\bnat[oa] il|\bf\xc3\xb6dd"
    rb"|\bf\xc3\xb8dt)[\"']?[\s:=,\"'(]{0,4}\Z"
)
_TOP: Final = frozenset(
    [
        "com",
        "org",
        "net",
        "edu",
        "gov",
        "info",
        "biz",
        "dev",
        "app",
        "io",
        "co",
        "uk",
        "de",
        "fr",
        "es",
        "it",
        "nl",
        "se",
        "dk",
        "no",
        "fi",
        "pl",
        "cz",
        "at",
        "ch",
        "be",
        "pt",
        "hu",
        "gr",
        "ie",
        "eu",
        "us",
        "ca",
        "au",
        "nz",
        "br",
        "uy",
        "ar",
        "mx",
        "jp",
        "cn",
        "in",
        "ru",
        "cy",
        "ee",
        "lt",
        "lv",
        "is",
        "si",
        "sk",
        "hr",
        "ro",
        "bg",
        "tv",
        "me",
        "ai",
    ]
)


def _alone(data: bytes, start: int, end: int) -> bool:
    return (
        before(data, start) not in _WORD
        and after(data, end) not in _WORD
        and before(data, start) not in b".-/"
        and not (after(data, end) in b".-/" and after(data, end + 1) in b"0123456789")
    )


def numeric_date(data: bytes, start: int, end: int) -> Iterator[Span]:
    """Year, month and day as numbers in one of the usual orders, with the time after it."""
    if not _alone(data, start, end):
        return
    parts = [int(part) for part in re.findall(rb"\d+", data[start:end])[:3]]
    separators = set(re.findall(rb"[-/.]", data[start:end].split(b" ")[0].split(b"T")[0]))
    if len(parts) < 3 or len(separators) != 1:
        return
    if parts[0] > 31:
        month, day, year = parts[1], parts[2], parts[0]
    else:
        month, day, year = min(parts[:2]), max(parts[:2]), parts[2]
    if 1 <= month <= 12 and 1 <= day <= 31 and (year < 100 or 1500 <= year <= 2199):
        yield start, end


def written_date(data: bytes, start: int, end: int) -> Iterator[Span]:
    """A day or a year beside the name of a month."""
    if before(data, start) not in _WORD and after(data, end) not in _WORD:
        yield start, end


def year(data: bytes, start: int, end: int) -> Iterator[Span]:
    """The year itself after a word such as `in` or `since`."""
    if (
        after(data, end) not in _WORD
        and not (after(data, end) in b".-:/" and after(data, end + 1) in b"0123456789")
        and before(data, start) not in _WORD
    ):
        yield end - 4, end


def birth_date(data: bytes, start: int, end: int) -> Iterator[Span]:
    """A date after words that say it is a birthday; the words stay."""
    for match in re.compile(rb"\d").finditer(data, start, end):
        if _BORN.search(data, max(0, match.start() - 40), match.start()) and after(data, end) not in _WORD:
            yield match.start(), end
        return


AGES: Final = (
    rb"(?i)\d{1,3} (?:jahre alt|ans? r\xc3\xa9volus|a\xc3\xb1os de edad|anos de idade|anni di et\xc3\xa0"
    rb"|jaar oud|\xc3\xa5r gam(?:mal|mel)|vuotta vanha|\xc3\xa9ves|ya\xc5\x9f\xc4\xb1nda)"
    rb"|\d{1,3}-(?:j\xc3\xa4hrig|jarig|\xc3\xa5rig|letni|vuotias)[a-z\x80-\xff]*|(?:, |\()(?:de )?\d{1,3} "
    rb"(?:jahre"
    rb"|ans|a\xc3\xb1os|anos|anni|jaar|\xc3\xa5r|lat|let|yrs?|years)(?:[,.;)]| (?:y|et|e|de|und|en|old)\b)"
    rb"|(?:\xc3\xa2g\xc3\xa9e?s? de|im alter von|tiene|de edad|tem|ha|compie|l'\xc3\xa2ge de"
    rb"|all'et\xc3\xa0 di|a la edad de|vid|ma|w wieku|op de leeftijd van) \d{1,3} (?:jahren?|ans|a\xc3\xb1os"
    rb"|anos|anni|jaar|\xc3\xa5r|lat)|(?:, |\(|wiek |w wieku )lat \d{1,3}|\d{1,3} ?y\.?o\.?\b"
    rb"|\bage of \d{1,3}|(?:is|am|aged|'m) \d{1,3} (?:yrs?|years)\b"
)
"""Ages in sentences of other languages; years alone are ages only between commas or in brackets."""
AGES_TRIGGER: Final = (
    rb"(?i)\d (?:jahre|ans|an |a\xc3\xb1os|anos|anni|jaar|\xc3\xa5r|lat|let|vuotta|\xc3\xa9ves|ya\xc5\x9f"
    rb"|yrs?|years|y\.?o)|\d-(?:j\xc3\xa4hrig|jarig|\xc3\xa5rig|letni|vuotias)|lat \d|\dy\.?o"
    rb"|age of \d"
)


def age(data: bytes, start: int, end: int) -> Iterator[Span]:
    """The number in `42 years old`, `aged 42`, `I'll turn 42`."""
    found = re.compile(rb"\d{1,3}").search(data, start, end)
    if (
        found
        and 1 <= int(found.group()) <= 120
        and before(data, found.start()) not in _WORD
        and (before(data, start) not in _WORD or data[start] not in _WORD)
        and after(data, end) not in _WORD
    ):
        if after(data, end) in b".,-/%" and after(data, end + 1) in b"0123456789":
            return
        if after(data, end) == 0x25:
            return
        yield found.span()


def coordinates(data: bytes, start: int, end: int) -> Iterator[Span]:
    """Latitude and longitude in degrees with three decimals or more, in range."""
    numbers = [float(one) for one in re.findall(rb"[-+]?\d+(?:\.\d+)?", data[start:end])]
    if (
        before(data, start) in b".-+"
        or before(data, start) in _WORD
        or after(data, end) in _WORD
        or (after(data, end) == 0x2E and after(data, end + 1) in b"0123456789")
    ):
        return
    if (
        len(numbers) >= 2
        and abs(numbers[0]) <= 90
        and abs(numbers[1]) <= 180
        and max(map(abs, numbers[:2])) >= 1
        and before(data, start) not in b"[(,="
    ) or re.compile(rb"(?i)(?:lat|lon|gps|coord|position|location)[^\n]{0,24}\Z").search(
        data, max(0, start - 40), start
    ):
        yield start, end


def degrees(data: bytes, start: int, end: int) -> Iterator[Span]:
    """Degrees, minutes and seconds with the points of the compass."""
    yield start, end


def postcode(data: bytes, start: int, end: int) -> Iterator[Span]:
    """Digits or letters after words that announce a postcode."""
    found = re.compile(rb"[A-Za-z]{0,2}\d[A-Za-z0-9]*(?:[ -][A-Za-z0-9]*\d[A-Za-z0-9]*)?").search(
        data, start, end
    )
    if found and 3 <= found.end() - found.start() <= 10 and after(data, found.end()) not in _WORD:
        yield found.span()


def shaped_postcode(data: bytes, start: int, end: int) -> Iterator[Span]:
    """A Canadian or British postcode by its shape alone, with its blank."""
    if _alone(data, start, end):
        yield start, end


BEFORE_PLACE: Final = (
    rb"(?:\d{4}-\d{3}|\d\d-\d{3}|\d{4} [A-Z]{2}|\d{3} \d\d|(?:[A-Z]{1,2}-)?\d{5}"
    rb"|[A-Z]{1,2}-\d{4}) [A-Z\xc3-\xd4][A-Za-z\x80-\xff]+"
)
"""Postcodes of Portugal, Poland, the Netherlands, Sweden, of five digits, and with a country's letters."""


def postcode_before_place(data: bytes, start: int, end: int) -> Iterator[Span]:
    """A postcode in the order of most of Europe, before a listed place that is no common word."""
    space = data.rindex(b" ", start, end)
    marks = marks_of(data[space + 1 : end])
    if _alone(data, start, space) and marks & Mark.PLACE and not marks & (Mark.COMMON | Mark.TECHNICAL):
        yield start, space


IN_ADDRESS: Final = (
    rb"[a-z\x80-\xff.] \d{1,4}[A-Za-z]?(?:, |,?\r?\n)"
    rb"(?:\d{4}-\d{3}|\d\d-\d{3}|\d{4}(?: [A-Z]{2})?|\d{3} \d\d|\d{5}) [A-Z\xc3-\xd4][a-z\x80-\xff]+"
)
_TOWN: Final = re.compile(rb"(?:, |\n)([0-9][0-9A-Z \-]*) ([A-Z\xc3-\xd4][a-z\x80-\xff]+)\Z")
_NO_TOWN: Final = int(Mark.COMMON | Mark.TECHNICAL | Mark.MONTH | Mark.WEEKDAY)


def postcode_in_address(data: bytes, start: int, end: int) -> Iterator[Span]:
    """A postcode behind the number of a house and before a capitalised word that is no common word."""
    found = _TOWN.search(data, start, end)
    if found and not marks_of(found[2]) & _NO_TOWN:
        yield found.span(1)


def state_zip(data: bytes, start: int, end: int) -> Iterator[Span]:
    """The ZIP code in `, CA 94107`."""
    first = end - 5 if data[end - 5 : end].isdigit() else end - 10
    if after(data, end) not in _WORD:
        yield first, end


def web_address(data: bytes, start: int, end: int) -> Iterator[Span]:
    """A URL, or a host that begins with `www.`, without the punctuation of the sentence around it."""
    text = data[start:end].rstrip(b".,;:!?'\")]}>*`\\")
    host = re.compile(rb"(?i)(?:https?://|ftp://)?([^/?#:]+)").match(text)
    if (
        host
        and b"." in host.group(1)
        and not re.fullmatch(rb"[\d.]+", host.group(1))
        and before(data, start) not in _WORD
    ):
        yield start, start + len(text)


def domain(data: bytes, start: int, end: int) -> Iterator[Span]:
    """A name under a widely used top domain, standing alone."""
    if (
        before(data, start) in _WORD
        or before(data, start) in b"@./-$"
        or after(data, end) in _WORD
        or after(data, end) in b"(@-"
    ):
        return
    if after(data, end) == 0x2E and after(data, end + 1) in _WORD:
        return
    yield start, end


def mac(data: bytes, start: int, end: int) -> Iterator[Span]:
    """Six pairs of hexadecimal digits, not a broadcast or null address, standing alone."""
    text = data[start:end].lower()
    alone = before(data, start) not in _WORD and before(data, start) not in b":-"
    alone = alone and after(data, end) not in _WORD and after(data, end) not in b":-"
    if alone and len(set(text)) > 3 and (text[2:3] == b":" or re.search(rb"[a-f]", text)):
        yield start, end
