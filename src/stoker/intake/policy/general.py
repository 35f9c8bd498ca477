"""What is said in the place of a value that is generalised. Pure. See docs/design/policy.md, "Generalising".

A value that is not understood whole has no general form; the caller masks it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from typing import Final

from stoker.spec.kinds import Kind

AGE_BAND: Final = 10
OLDEST: Final = 90
"""Ages from here on are one band, as 45 CFR 164.514(b)(2)(i)(C) has it."""

IPV4_PREFIX: Final = 16
IPV6_PREFIX: Final = 32
POSTCODE_CHARACTERS: Final = 3

_YEAR: Final = re.compile(r"(?<!\d)(1[89]\d\d|20\d\d)(?!\d)")
_SHORT_YEAR: Final = re.compile(r"\d{1,2}([-/.])\d{1,2}\1(\d\d)")
_AGE: Final = re.compile(r"(?<![\d.])(\d{1,3})(?![\d.])")
_NUMBER: Final = re.compile(r"[+-]?\d{1,3}\.\d+")
_COORDINATES: Final = re.compile(r"[\s\d.,;:+\-°'\"()NSEWnsewlatonguide=/]*")


def general(kind: Kind, value: bytes) -> bytes | None:
    """The general form of a finding of `kind`; None where there is none for it."""
    make = _MAKERS.get(kind)
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return None
    made = None if make is None else make(text.strip())
    return None if made is None else made.encode()


def _year(text: str) -> str | None:
    """The year of a date that names one year; two figures are taken to be of 1930 to 2029."""
    years = set(_YEAR.findall(text))
    if len(years) == 1:
        return str(years.pop())
    if years or not (short := _SHORT_YEAR.fullmatch(text)):
        return None
    two = int(short[2])
    return str(two + (1900 if two >= 30 else 2000))


def _age(text: str) -> str | None:
    """The band of ten years; the words around the number go with it."""
    found = _AGE.findall(text)
    if len(found) != 1 or not 0 <= int(found[0]) <= 130:
        return None
    age = int(found[0])
    if age >= OLDEST:
        return f"{OLDEST} or older"
    low = age - age % AGE_BAND
    return f"{low} to {low + AGE_BAND - 1}"


def _ipv4(text: str) -> str | None:
    try:
        network = ipaddress.IPv4Network((text, IPV4_PREFIX), strict=False)
    except ValueError:
        return None
    return str(network)


def _ipv6(text: str) -> str | None:
    try:
        network = ipaddress.IPv6Network((text, IPV6_PREFIX), strict=False)
    except ValueError:
        return None
    return str(network)


def _mac(text: str) -> str | None:
    """The maker's half."""
    digits = re.sub(r"[:.\-]", "", text)
    if not re.fullmatch(r"[0-9A-Fa-f]{12}", digits):
        return None
    return ":".join(digits[place : place + 2].lower() for place in (0, 2, 4)) + ":*:*:*"


def _coordinates(text: str) -> str | None:
    """Each number with one digit after the point: a cell of some eleven kilometres."""
    if not _COORDINATES.fullmatch(text) or not _NUMBER.search(text):
        return None
    rounded = _NUMBER.sub(lambda number: f"{float(number[0]):.1f}", text)
    rest = _NUMBER.sub("", text)
    return None if any(letter.isdigit() for letter in rest) else rounded


def _postcode(text: str) -> str | None:
    """The first half of its letters and digits, three at the most, then a star for each of the others."""
    compact = "".join(letter for letter in text if letter.isalnum())
    if not 3 <= len(compact) <= 10:
        return None
    kept = min(len(compact) // 2, POSTCODE_CHARACTERS)
    return compact[:kept].upper() + "*" * (len(compact) - kept)


def _domain(text: str) -> str | None:
    """Its last label."""
    last = text.rstrip(".").rpartition(".")[2]
    return f"*.{last.lower()}" if re.fullmatch(r"[A-Za-z]{2,63}|xn--[A-Za-z0-9-]{2,59}", last) else None


_MAKERS: Final[Mapping[Kind, Callable[[str], str | None]]] = {
    Kind.DATE: _year,
    Kind.BIRTH_DATE: _year,
    Kind.AGE: _age,
    Kind.IPV4: _ipv4,
    Kind.IPV6: _ipv6,
    Kind.MAC: _mac,
    Kind.COORDINATES: _coordinates,
    Kind.POSTCODE: _postcode,
    Kind.DOMAIN: _domain,
}
