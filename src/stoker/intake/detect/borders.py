"""Numbers and addresses that a line, a field, a tag or a cell cuts in two. Pure.

See docs/design/detect.md, "Borders".

Between the halves stands a border: a separator, a line end, a quote, and the next field's name. What the
halves
make together must satisfy the exact recogniser of the whole; the finding covers the border too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

import phonenumbers

from stoker.intake.detect.recognise import Span, after, before, iban_check, is_card_number

BORDER: Final = (
    rb"[ \t]*[\"']?[ \t]*(?:[,;|\t]|\r?\n)[ \t\r\n]*"
    rb"(?:[\"']?[A-Za-z_][A-Za-z0-9_ ]{0,31}[\"']?[ \t]*[:=][ \t]*)?[\"']?"
)
_NAME: Final = re.compile(rb"[\"']?[A-Za-z_][A-Za-z0-9_ ]{0,31}[\"']?[ \t]*[:=]")
_WORD: Final = frozenset(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_")

CARD: Final = (
    rb"\d{4}(?:[ -]?\d{4,6}){0,3}" + BORDER + rb"\d{2,12}(?:[ -]?\d{3,5}){0,2}(?:" + BORDER + rb"\d{4}){0,2}"
)
CARD_TRIGGER: Final = (
    rb"\d{4}[ \t\"']*[,;|\t\r\n][ \t\r\n]*(?:[\"']?[A-Za-z_][A-Za-z0-9_ ]*[\"']?[ \t]*[:=][ \t]*)?[\"']?\d\d"
)
IBAN: Final = rb"[A-Z]{2}\d{2} ?[A-Z0-9][A-Z0-9 ]{0,28}" + BORDER + rb"[A-Z0-9][A-Z0-9 ]{1,28}"
IBAN_TRIGGER: Final = rb"(?i)(?:\A|[^A-Z0-9_])[A-Z]{2}\d\d ?[A-Z0-9]"
PHONE: Final = rb"\+[1-9][\d ()./-]{1,12}" + BORDER + rb"[\d(][\d ()./-]{2,12}\d"
PHONE_TRIGGER: Final = rb"\+[1-9]"
EMAIL: Final = (
    rb"[A-Za-z0-9._%+-]+(?:\r?\n[ \t]*@|@[A-Za-z0-9-]*\r?\n[ \t]*|" + BORDER + rb"@|@" + BORDER + rb")"
    rb"[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,12}"
)
EMAIL_TRIGGER: Final = (
    rb"[A-Za-z0-9._%+\-]@[A-Za-z0-9\-]*[ \t\"']*[,;|\t\r\n]|[ \t\n\"',;|:=]@[A-Za-z0-9\-]+\.[A-Za-z0-9]"
)
_TOP: Final = frozenset(
    b"com org net edu gov info biz io de fr uk es it nl se dk no fi pl cz at ch be pt hu eu us ca au".split()
)


def _alone(data: bytes, start: int, end: int) -> bool:
    return (
        before(data, start) not in _WORD
        and before(data, start) not in b".-"
        and after(data, end) not in _WORD
    )


def _bare(data: bytes, start: int, end: int) -> bytes:
    """The match without its borders: names of fields go before digits are gathered."""
    return _NAME.sub(b"", data[start:end])


def card(data: bytes, start: int, end: int) -> Iterator[Span]:
    """A card number whose halves are as long as the groups on cards are, or a line that was wrapped."""
    groups = re.findall(rb"\d+", _bare(data, start, end))
    digits = b"".join(groups)
    whole = len(digits) == 15 or all(len(group) % 4 == 0 for group in groups)
    if (
        15 <= len(digits) <= 16
        and whole
        and len(groups) <= 4
        and is_card_number(digits)
        and _alone(data, start, end)
    ):
        if after(data, end) in b",;|\t" and after(data, end + 1) in b"0123456789":
            return
        yield start, end


def iban(data: bytes, start: int, end: int) -> Iterator[Span]:
    """An IBAN with its remainder modulo 97."""
    if before(data, start) in _WORD:
        return
    compact = re.sub(rb"[^A-Z0-9]", b"", _bare(data, start, end))
    for size in range(len(compact), 14, -1):
        if iban_check(compact[:size]):
            drop = len(compact) - size
            while drop:
                end -= 1
                drop -= chr(data[end]).isalnum()
            if after(data, end) not in _WORD:
                yield start, end
            return


def phone(data: bytes, start: int, end: int) -> Iterator[Span]:
    """An international number that its country's plan issues."""
    digits = re.sub(rb"\D", b"", _bare(data, start, end))
    if before(data, start) in _WORD or after(data, end) in _WORD or not 8 <= len(digits) <= 15:
        return
    try:
        if phonenumbers.is_valid_number(phonenumbers.parse("+" + digits.decode("ascii"))):
            yield start, end
    except phonenumbers.NumberParseException:
        return


def email(data: bytes, start: int, end: int) -> Iterator[Span]:
    """An e-mail address under a widely used top domain, whose first half alone is none."""
    local, _, host = data[start:end].partition(b"@")
    if not re.search(rb"[\s,;|\"']", local + host) or host.rsplit(b".", 1)[-1].lower() not in _TOP:
        return
    if before(data, start) in _WORD or after(data, end) in _WORD or not local.strip(b".%+- \t\r\n"):
        return
    yield start, end
