"""Numbers that a state, a card scheme or a telephone company gave one person. Pure.

See docs/design/detect.md.

Check digits decide where the numbering has them; where it has none, or a shape is common, words before it
must
announce it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

import phonenumbers
import re2

from stoker.intake.detect.options import byte_options
from stoker.intake.detect.recognise import Span, after, before, luhn

_WORD: Final = frozenset(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_")
CONTEXT_BYTES: Final = 64
MAX_NUMBER_BYTES: Final = 32
"""No number of a person is written longer; a longer row of digits is a table."""
REGIONS: Final = (
    "US",
    "GB",
    "DE",
    "FR",
    "ES",
    "IT",
    "NL",
    "SE",
    "CH",
    "AT",
    "DK",
    "NO",
    "FI",
    "PL",
    "AU",
    "BR",
    "HU",
)
"""Where a number without a calling code may be from, when words before it announce a phone number."""

_PHONE_WORDS: Final = re2.compile(
    rb"(?i)\b(?:tele)?(?:phone|fon|fono|foon|foni|lefon)|\btel\b|\btlf\b|\bpuh|\bcellulare"
    rb"|\btelem\xc3\xb3vel|\bmobil\b|\bmobiles?\b|\bcell|\bfax\b|\bcall(?:ing)?\b|\bdesk:|\btext (?:me|to)"
    rb"|\bsms\b|whatsapp|\banswering at|\bmessages? to|\b(?:my|her|his|their|your|our) number\b"
    rb"|\bnumber is\b|\bregistered\b|\breach (?:me|him|her|them|us)|\bcontact|\bdial|\bhandy\b|\bmovil"
    rb"|\bm\xc3\xb3vil",
    byte_options(),
)
_CARD_WORDS: Final = re2.compile(
    rb"(?i)\bcards?\b|\bcc\b|\bcredit|\bdebit|\bvisa\b|\bmastercard|\bmaestro|\bamex\b|\bpayment",
    byte_options(),
)
_ID_WORDS: Final = re2.compile(
    rb"(?i)\bssn\b|social security|\bnational (?:id|insurance|identity)|\bpersonal (?:id|code|number"
    rb"|identity)|\bid (?:no|number|card)|\btax (?:id|number)|\bpassport|\bnino\b|\bdni\b|\bnie\b|\bnir\b"
    rb"|\bcodice fiscale|\bpesel\b|\bpersonnummer|\bhenkil|\bcpr\b|\bf\xc3\xb8dselsnummer|\bfodselsnummer"
    rb"|\bbsn\b|\bburgerservice|\bcpf\b|\baadhaar|\bahv\b|\bavs\b|\bsteuer-?id|\bidnr\b|\bnhs\b"
    rb"|\bsozialversicherung|\brijksregister|\bregistre national|\brodn|\bcurp\b|\bkennitala",
    byte_options(),
)
_LICENCE_WORDS: Final = re.compile(
    rb"(?i)(?:driver'?s?|driving)['s]* (?:licen[cs]e|permit)[^.\n\d]{0,24}\Z"
    rb"|f\xc3\xbchrerschein[^.\n\d]{0,16}\Z|permis de conduire[^.\n\d]{0,16}\Z"
)


def _near(words: Any, data: bytes, start: int) -> bool:
    return words.search(data, max(0, start - CONTEXT_BYTES), start) is not None


def _alone(data: bytes, start: int, end: int) -> bool:
    return (
        before(data, start) not in _WORD
        and before(data, start) not in b".-/+"
        and after(data, end) not in _WORD
        and not (after(data, end) in b".-/" and after(data, end + 1) in b"0123456789")
    )


_NO_DIGITS: Final = bytes(byte for byte in range(256) if not 0x30 <= byte <= 0x39)


def _digits(text: bytes) -> bytes:
    return text.translate(None, _NO_DIGITS)


def announced_card(data: bytes, start: int, end: int) -> Iterator[Span]:
    """12 to 19 digits with a Luhn digit after words such as `card`; also of issuers that are not in the
    table."""
    if (
        end - start <= 19
        and _alone(data, start, end)
        and luhn(data[start:end])
        and len(set(data[start:end])) > 2
        and _near(_CARD_WORDS, data, start)
    ):
        yield start, end


_NO_PHONE: Final = re.compile(
    rb"(?:1[5-9]|20)\d\d[-./ ]\d\d?[-./ ]\d\d?(?:[ T]?\d\d)?|\d\d?[-./]\d\d?[-./](?:1[5-9]|20)\d\d(?: \d\d)?"
    rb"|(?:1[5-9]|20)\d\d[-/](?:1[5-9]|20)\d\d|\d{3}-\d{2}-\d{4}|\d+\.\d{3,}.*"
)
"""Dates, spans of years, social security numbers and decimals."""


_FEW_GROUPS: Final = re.compile(rb"\(?\d{1,5}\)?(?:[ .\-/]\(?\d{2,8}\)?){1,5}")


def phone_grouped(data: bytes, start: int, end: int) -> Iterator[Span]:
    """Digits in groups that a numbering plan issues, or that words before them announce."""
    if end - start <= MAX_NUMBER_BYTES:
        yield from _phone_of_groups(data, start, end)
        return
    for part in _FEW_GROUPS.finditer(data, start, min(end, start + CONTEXT_BYTES)):
        if part.end() - part.start() <= MAX_NUMBER_BYTES:
            yield from _phone_of_groups(data, *part.span())


def _phone_of_groups(data: bytes, start: int, end: int) -> Iterator[Span]:
    text = data[start:end]
    while text and text[-1] not in b"0123456789":
        text = text[:-1]
    end = start + len(text)
    digits = _digits(text)
    if (
        not 7 <= len(digits) <= 16
        or not _alone(data, start, end)
        or b"\n" in text
        or text.count(b"(") != text.count(b")")
    ):
        return
    if _NO_PHONE.fullmatch(text):
        return
    announced = (
        _near(_PHONE_WORDS, data, start)
        and not _near(_CARD_WORDS, data, start)
        and not _near(_ID_WORDS, data, start)
    )
    if announced:
        yield start, end
        return
    groups = re.findall(rb"\d+", text)
    if min(map(len, groups)) < 2 or len(groups) < 3 or len({*re.findall(rb"[ .\-]", text)}) > 2:
        return
    if not (digits[:1] == b"0" or text[:1] == b"(") or (digits[1:2] == b"0" and digits[:2] != b"00"):
        return
    if 9 <= len(digits) <= 11 and any(_valid(text, region) for region in REGIONS):
        yield start, end


def _valid(text: bytes, region: str) -> bool:
    try:
        return phonenumbers.is_valid_number(phonenumbers.parse(text.decode("ascii"), region))
    except phonenumbers.NumberParseException:
        return False


def phone_extended(data: bytes, start: int, end: int) -> Iterator[Span]:
    """A North American number with an extension, a country prefix, or a bracket."""
    if _alone(data, start, end) and len(_digits(data[start:end])) >= 10:
        yield start, end


def _weighted(digits: bytes, weights: tuple[int, ...]) -> int:
    return sum((digit - 48) * weight for digit, weight in zip(digits, weights, strict=False))


_D: Final = (
    (0, 1, 2, 3, 4, 5, 6, 7, 8, 9),
    (1, 2, 3, 4, 0, 6, 7, 8, 9, 5),
    (2, 3, 4, 0, 1, 7, 8, 9, 5, 6),
    (3, 4, 0, 1, 2, 8, 9, 5, 6, 7),
    (4, 0, 1, 2, 3, 9, 5, 6, 7, 8),
    (5, 9, 8, 7, 6, 0, 4, 3, 2, 1),
    (6, 5, 9, 8, 7, 1, 0, 4, 3, 2),
    (7, 6, 5, 9, 8, 2, 1, 0, 4, 3),
    (8, 7, 6, 5, 9, 3, 2, 1, 0, 4),
    (9, 8, 7, 6, 5, 4, 3, 2, 1, 0),
)
_P: Final = (
    (0, 1, 2, 3, 4, 5, 6, 7, 8, 9),
    (1, 5, 7, 6, 2, 8, 3, 0, 9, 4),
    (5, 8, 0, 3, 7, 9, 6, 1, 4, 2),
    (8, 9, 1, 6, 0, 4, 3, 5, 2, 7),
    (9, 4, 5, 3, 1, 2, 6, 8, 7, 0),
    (4, 2, 8, 6, 5, 7, 3, 9, 0, 1),
    (2, 7, 9, 3, 8, 0, 6, 4, 1, 5),
    (7, 0, 4, 6, 9, 1, 3, 2, 5, 8),
)


def verhoeff(digits: bytes) -> bool:
    """Whether ASCII `digits` end in their Verhoeff check digit."""
    check = 0
    for place, byte in enumerate(reversed(digits)):
        check = _D[check][_P[place % 8][byte - 48]]
    return check == 0


def _birthday(month: bytes, day: bytes) -> bool:
    return 1 <= int(month) <= 12 and 1 <= int(day) <= 31


def norwegian(digits: bytes) -> bool:
    """Fødselsnummer: two digits modulo 11."""
    return (
        len(digits) == 11
        and _birthday(digits[2:4], bytes([48 + (digits[0] - 48) % 4]) + digits[1:2])
        and _weighted(digits[:10], (3, 7, 6, 1, 8, 9, 4, 5, 2, 1)) % 11 == 0
        and _weighted(digits, (5, 4, 3, 2, 7, 6, 5, 4, 3, 2, 1)) % 11 == 0
    )


def polish(digits: bytes) -> bool:
    """PESEL."""
    return (
        len(digits) == 11
        and _weighted(digits, (1, 3, 7, 9, 1, 3, 7, 9, 1, 3, 1)) % 10 == 0
        and 1 <= int(digits[4:6]) <= 31
    )


def dutch(digits: bytes) -> bool:
    """BSN: the eleven test."""
    return len(digits) == 9 and _weighted(digits, (9, 8, 7, 6, 5, 4, 3, 2, -1)) % 11 == 0


def belgian(digits: bytes) -> bool:
    """Rijksregisternummer: modulo 97, with a 2 before it for those born from 2000."""
    body, check = digits[:9], int(digits[9:])
    return len(digits) == 11 and check in (97 - int(body) % 97, 97 - int(b"2" + body) % 97)


def brazilian(digits: bytes) -> bool:
    """CPF: two digits modulo 11."""
    if len(digits) != 11 or len(set(digits)) == 1:
        return False
    for size in (9, 10):
        rest = _weighted(digits[:size], tuple(range(size + 1, 1, -1))) * 10 % 11 % 10
        if rest != digits[size] - 48:
            return False
    return True


def german(digits: bytes) -> bool:
    """Steuerliche Identifikationsnummer: ISO/IEC 7064 modulo 11, 10."""
    product = 10
    for byte in digits[:10]:
        total = (byte - 48 + product) % 10 or 10
        product = total * 2 % 11
    return len(digits) == 11 and digits[:1] != b"0" and (11 - product) % 10 == digits[10] - 48


def chinese(text: bytes) -> bool:
    """Resident identity number: ISO/IEC 7064 modulo 11, 2."""
    weights = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
    return (
        len(text) == 18
        and _birthday(text[10:12], text[12:14])
        and b"10X98765432"[_weighted(text[:17], weights) % 11] == text[17]
    )


def french(text: bytes) -> bool:
    """NIR with its key: modulo 97."""
    body = text[:13].replace(b"2A", b"19").replace(b"2B", b"18")
    return len(text) == 15 and text[:1] in b"12" and body.isdigit() and 97 - int(body) % 97 == int(text[13:])


def spanish(text: bytes) -> bool:
    """DNI or NIE with its letter."""
    number = text[:-1].translate(bytes.maketrans(b"XYZ", b"012"))
    return number.isdigit() and b"TRWAGMYFPDXBNJZSQVHLCKE"[int(number) % 23] == text[-1]


def finnish(text: bytes) -> bool:
    """Henkilötunnus with its check character."""
    return (
        _birthday(text[2:4], text[:2])
        and b"0123456789ABCDEFHJKLMNPRSTUVWXY"[int(text[:6] + text[7:10]) % 31] == text[10]
    )


_ODD_PLACES: Final = (
    1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11,
    3, 6, 8, 12, 14, 16, 10,
    22, 25, 24, 23,
)  # fmt: skip
_ODD: Final = dict(zip("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ", _ODD_PLACES, strict=True))


def italian(text: bytes) -> bool:
    """Codice fiscale with its check letter."""
    total = 0
    for place, letter in enumerate(text[:15].decode("ascii")):
        total += (
            _ODD[letter] if place % 2 == 0 else int(letter, 36) % 10 if letter.isdigit() else ord(letter) - 65
        )
    return chr(65 + total % 26) == chr(text[15])


def ssn(data: bytes, start: int, end: int) -> Iterator[Span]:
    """A US social security number: three groups, none of zeros, no area 666 or 9xx."""
    text = data[start:end]
    if (
        _alone(data, start, end)
        and text[:3] not in (b"000", b"666")
        and text[:1] != b"9"
        and text[4:6] != b"00"
        and text[7:] != b"0000"
    ):
        yield start, end


def checked_id(data: bytes, start: int, end: int) -> Iterator[Span]:
    """A national number whose own shape and check digits say what it is."""
    text = data[start:end]
    if end - start > MAX_NUMBER_BYTES or not _alone(data, start, end):
        return
    digits = _digits(text)
    plain = text.replace(b" ", b"").replace(b"-", b"").replace(b".", b"")
    if (
        (len(plain) == 9 and plain[-1:].isalpha() and spanish(plain))
        or (len(text) == 11 and text[6] in b"+-A" and len(digits) in (9, 10) and finnish(text))
        or (len(plain) == 16 and plain[:6].isalpha() and italian(plain))
        or (text.count(b".") >= 2 and len(digits) == 11 and (brazilian(digits) or belgian(digits)))
        or (len(text) == 18 and chinese(text))
        or (len(plain) == 15 and french(plain) and (len(text) > 15 or _near(_ID_WORDS, data, start)))
        or (text[:4] == b"756." and _ean(digits))
        or (
            re.fullmatch(rb"[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z] ?\d\d ?\d\d ?\d\d ?[A-D]", text)
            and text[:2] not in (b"BG", b"GB", b"NK", b"KN", b"TN", b"NT", b"ZZ")
        )
        or (re.fullmatch(rb"\d{6}[-+]\d{4}", text) and _birthday(text[2:4], text[4:6]) and luhn(digits))
    ):
        yield start, end


def _ean(digits: bytes) -> bool:
    return (
        len(digits) == 13
        and (10 - sum((byte - 48) * (3 if place % 2 else 1) for place, byte in enumerate(digits[:12])) % 10)
        % 10
        == digits[12] - 48
    )


def announced_id(data: bytes, start: int, end: int) -> Iterator[Span]:
    """Digits with the check digits of some country's number, or of a passport, after words that announce
    one."""
    if end - start > MAX_NUMBER_BYTES or not _alone(data, start, end) or not _near(_ID_WORDS, data, start):
        return
    text = data[start:end]
    digits = _digits(text)
    if len(digits) >= 7:
        yield start, end


def licence(data: bytes, start: int, end: int) -> Iterator[Span]:
    """Letters and at least five digits after words that announce a driver licence."""
    if (
        len(_digits(data[start:end])) >= 5
        and before(data, start) not in _WORD
        and after(data, end) not in _WORD
        and _LICENCE_WORDS.search(data, max(0, start - 48), start)
    ):
        yield start, end
