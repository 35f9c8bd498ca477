"""Exact recognisers: what a candidate must satisfy beyond its shape. Pure. See docs/design/intake.md.

Each takes the whole text and the candidate's byte range, and yields the byte ranges that really are of its
kind. Published check digits decide where they exist: Luhn (ISO/IEC 7812-1, annex B) for cards, modulo 97
(ISO 13616) for IBANs.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import Final, NamedTuple, TypeAlias

import numpy as np

from stoker.intake.detect.numbering import CALLING_CODES, CARD_GROUPS, CARD_LENGTHS, IBAN_LENGTHS
from stoker.spec.kinds import Kind

Span: TypeAlias = tuple[int, int]


class Found(NamedTuple):
    """Bytes `start` to `end` are of `kind`."""

    start: int
    end: int
    kind: Kind


_WORD: Final = frozenset(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_")
_DIGITS: Final = frozenset(b"0123456789")

MAX_KEY_BLOCK_BYTES: Final = 65_536
"""A private key block without its END line is taken to be at most this long."""

_VERSION_BEFORE: Final = re.compile(
    rb"(?:\b(?:v|ver|version|release|rev|revision|build|section|sec\.|rfc ?\d+,?)|_version_?_?)"
    rb"[\"']?[\s:=('\"]{0,4}$"
    rb"|[=~!<>]=\s?['\"]?$",
    re.IGNORECASE,
)


def before(data: bytes, position: int) -> int:
    """The byte before `position`, or 0 at the beginning: a byte that no class here holds."""
    return data[position - 1] if position > 0 else 0


def after(data: bytes, position: int) -> int:
    """The byte at `position`, or 0 at the end."""
    return data[position] if position < len(data) else 0


_DOUBLED: Final = bytes((2 * digit if digit < 5 else 2 * digit - 9) for digit in range(10))


def luhn(digits: bytes) -> bool:
    """Whether ASCII `digits` end in their Luhn check digit."""
    values = digits.translate(_VALUES)
    return (sum(values[-1::-2]) + sum(values[-2::-2].translate(_DOUBLES))) % 10 == 0


_VALUES: Final = bytes((byte - 48) % 256 for byte in range(256))
_DOUBLES: Final = _DOUBLED + bytes(246)


def iban_check(compact: bytes) -> bool:
    """Whether an IBAN without spaces has its country's length and a remainder of 1 modulo 97."""
    if IBAN_LENGTHS.get(compact[:2]) != len(compact):
        return False
    turned = (compact[4:] + compact[:4]).decode("ascii")
    return int("".join(str(int(letter, 36)) for letter in turned)) % 97 == 1


def entropy_bits(text: bytes) -> float:
    """Shannon entropy of the byte frequencies of `text`, in bits a byte."""
    size = len(text)
    return -sum(n / size * math.log2(n / size) for n in Counter(text).values()) if size else 0.0


def email(data: bytes, start: int, end: int) -> Iterator[Span]:
    """An address of RFC 5321 lengths whose local part does not begin or end with a dot."""
    while start < end and data[start] in b".%+-":
        start += 1
    at = data.index(b"@", start, end)
    if at == start or data[at - 1] == 0x2E or at - start > 64 or end - start > 254:
        return
    if after(data, end) == 0x40:
        return
    if all(label and label[0] != 0x2D and label[-1] != 0x2D for label in data[at + 1 : end].split(b".")):
        yield start, end


def phone_international(data: bytes, start: int, end: int) -> Iterator[Span]:
    """`+`, an assigned calling code, 8 to 15 digits in all; 10 or more when nothing separates them."""
    end = _without_bracket(data, end)
    if before(data, start) in _WORD or before(data, start) in b")]+" or after(data, end) in _WORD:
        return
    if after(data, end) == 0x2E and after(data, end + 1) in _DIGITS:
        return
    digits = bytes(byte for byte in data[start:end] if byte in _DIGITS)
    plain = len(digits) == end - start - 1
    if not (10 if plain else 8) <= len(digits) <= 15 or set(digits) <= set(b"01"):
        return
    if data[end - 1] in _DIGITS and data[end - 2] == 0x2E:
        return
    if any(digits[:length].decode() in CALLING_CODES for length in (1, 2, 3)):
        yield start, end


def _without_bracket(data: bytes, end: int) -> int:
    """A bracket that closes after the last digit belongs to the text around the number."""
    return end - 1 if data[end - 1] == 0x29 else end


def phone_north_american(data: bytes, start: int, end: int) -> Iterator[Span]:
    """Ten digits written 3-3-4 with separators, standing alone; the pattern holds the plan's rules."""
    if before(data, start) in _WORD or before(data, start) in b".-+" or after(data, end) in _WORD:
        return
    if after(data, end) in b".-" and after(data, end + 1) in _DIGITS:
        return
    yield start, end


def phone_in_context(data: bytes, start: int, end: int) -> Iterator[Span]:
    """Seven to fifteen digits after a word such as `phone:`; the word itself stays."""
    end = _without_bracket(data, end)
    if after(data, end) in _WORD:
        return
    if before(data, start) in _WORD:
        return
    first = start
    while data[first] not in b"+(0123456789":
        first += 1
    digits = sum(byte in _DIGITS for byte in data[first:end])
    if 7 <= digits <= 15:
        yield first, end


def ipv4(data: bytes, start: int, end: int) -> Iterator[Span]:
    """Four octets that are not announced as a version, nor loopback, unspecified or a mask."""
    if before(data, start) in _WORD or before(data, start) == 0x2E or after(data, end) in _WORD:
        return
    parts = data[start:end].split(b".")
    if len(parts) != 4 or any(len(part) > 3 or (part[0] == 0x30 and len(part) > 1) for part in parts):
        return
    octets = [int(part) for part in parts]
    if max(octets) > 255 or octets[0] in (0, 127, 255):
        return
    if _VERSION_BEFORE.search(data, max(0, start - 24), start):
        return
    yield start, end


def ipv6(data: bytes, start: int, end: int) -> Iterator[Span]:
    """A valid address with at least three groups, or two with a first group of four digits (`fe80::1`)."""
    if before(data, start) in _WORD or before(data, start) in b":." or after(data, end) in _WORD:
        return
    text = data[start:end].rstrip(b".")
    if text.endswith(b":") and not text.endswith(b"::"):
        text = text[:-1]
    groups = [group for group in text.split(b":") if group]
    if len(groups) < 3 and not (groups and len(groups[0]) == 4 and b"::" in text):
        return
    try:
        address = ipaddress.IPv6Address(text.decode("ascii"))
    except ValueError:
        return
    if not (address.is_loopback or address.is_unspecified):
        yield start, start + len(text)


def is_card_number(digits: bytes) -> bool:
    """Whether `digits` carry an issuer's prefix and length and a Luhn digit."""
    for prefixes, size, lengths in CARD_LENGTHS:
        if len(digits) in lengths and int(digits[:size]) in prefixes:
            return luhn(digits)
    return False


_CARD_SHAPES: Final = re.compile(
    b"(?="
    + b"|".join(re.escape(bytes(shape)) for shape in sorted(CARD_GROUPS, key=len, reverse=True))
    + b"|["
    + re.escape(bytes(range(13, 20)))
    + b"])"
)
"""Where in a row of group lengths, one byte each, a card's groups may begin."""
_LONG_ROW: Final = 32
_WEIGHTS: Final = np.array([[0, 2, 4, 6, 8, 1, 3, 5, 7, 9], range(10)] * 2)


def card(data: bytes, start: int, end: int) -> Iterator[Span]:
    """Card numbers inside a run of digit groups: one group, or groups as they are printed on cards."""
    pieces = data[start:end].replace(b"-", b" ").split(b" ")
    longest = max(map(len, pieces))
    sizes = bytes(map(len, pieces)) if longest < 256 else bytes([min(len(piece), 255) for piece in pieces])
    if len(sizes) > _LONG_ROW and sizes == b"\x04" * len(sizes):
        places = _fours(pieces)
    else:
        places = [match.start() for match in _CARD_SHAPES.finditer(sizes)]
    places = [at for at in places if pieces[at][0] in b"23456"]
    if not places:
        return
    ends = list(itertools.accumulate((len(piece) + 1 for piece in pieces), initial=start))
    groups = [(first, first + len(piece)) for first, piece in zip(ends, pieces, strict=False)]
    done = 0
    for at in places:
        if at < done:
            continue
        taken = _card_at(data, groups, at)
        if taken:
            yield groups[at][0], groups[at + taken - 1][1]
            done = at + taken


def _fours(pieces: list[bytes]) -> list[int]:
    """Where in a long row of groups of four digits four of them carry a Luhn digit."""
    digits = np.frombuffer(b"".join(pieces), dtype=np.uint8).reshape(-1, 4) - 48
    sums = sum(_WEIGHTS[place][digits[:, place]] for place in range(4))
    totals = sums[:-3] + sums[1:-2] + sums[2:-1] + sums[3:]
    found: list[int] = np.flatnonzero(totals % 10 == 0).tolist()
    return found


def _card_at(data: bytes, groups: list[Span], at: int) -> int:
    """How many groups from `at` make one card number; 0 for none."""
    if before(data, groups[at][0]) in _WORD or before(data, groups[at][0]) == 0x2E:
        return 0
    for count in (5, 4, 3, 2, 1):
        chosen = groups[at : at + count]
        if len(chosen) < count:
            continue
        shape = tuple([last - first for first, last in chosen])
        if count > 1 and (shape not in CARD_GROUPS or len({data[last] for _, last in chosen[:-1]}) > 1):
            continue
        last = chosen[-1][1]
        if after(data, last) in _WORD or (after(data, last) == 0x2E and after(data, last + 1) in _DIGITS):
            continue
        if is_card_number(b"".join([data[first:end] for first, end in chosen])):
            return count
    return 0


def iban(data: bytes, start: int, end: int) -> Iterator[Span]:
    """A country's IBAN, with or without single spaces, whose remainder modulo 97 is 1.

    Other words may stand before it in the candidate: `RSSMRA85M01H501Q IBAN GB82…`.
    """
    limit = min(len(data), end + MAX_IBAN_BYTES)
    for head in _IBAN_HEAD.finditer(data, start, end):
        first = head.start()
        length = IBAN_LENGTHS.get(data[first : first + 2].upper())
        if length is None or before(data, first) in _WORD:
            continue
        compact = bytearray()
        at = first
        while at < limit and len(compact) < length and (data[at] in _WORD or data[at] == 0x20):
            if data[at] != 0x20:
                compact.append(data[at])
            at += 1
        if after(data, at) not in _WORD and iban_check(bytes(compact).upper()):
            yield first, at
            return


MAX_IBAN_BYTES: Final = 48
_IBAN_HEAD: Final = re.compile(rb"(?i)[A-Z]{2}\d\d(?= ?[A-Z0-9])")


def token(data: bytes, start: int, end: int) -> Iterator[Span]:
    """A token with a published prefix, standing alone."""
    if before(data, start) not in _WORD and after(data, end) not in _WORD:
        yield start, end


def private_key(data: bytes, start: int, end: int) -> Iterator[Span]:
    """From the BEGIN line to its END line, or over everything that looks like base64 after it."""
    limit = min(len(data), start + MAX_KEY_BLOCK_BYTES)
    following = data.find(b"-----BEGIN ", end, limit)
    limit = following if following >= 0 else limit
    last = data.rfind(b"-----BEGIN ", start, end)
    label = data[last + len(b"-----BEGIN ") : data.rindex(b"-----", last, end)]
    finish = data.find(b"-----END " + label + b"-----", end, limit)
    if finish >= 0:
        yield start, finish + len(b"-----END ") + len(label) + len(b"-----")
        return
    body = re.compile(rb"[A-Za-z0-9+/=\s\\\"',:-]*").match(data, end, limit)
    yield start, body.end() if body else end


def jwt(data: bytes, start: int, end: int) -> Iterator[Span]:
    """Three base64url parts of which the first is a JSON object with `alg` (RFC 7519)."""
    if before(data, start) in _WORD:
        return
    head = data[start:end].split(b".")[0]
    try:
        body = json.loads(base64.urlsafe_b64decode(head + b"=" * (-len(head) % 4)))
    except (binascii.Error, ValueError, RecursionError):
        return
    if isinstance(body, dict) and "alg" in body:
        yield start, end


_ASSIGNED: Final = re.compile(rb"(?P<quote>[\"']?)(?P<value>[A-Za-z0-9+/_=!@#$%^&*.~-]{8,})\Z")


def assigned_secret(data: bytes, start: int, end: int) -> Iterator[Span]:
    """The value in `api_key = "…"` when it looks drawn at random: letters and digits, high entropy.

    An unquoted value needs 16 bytes, two digits and 3.5 bits a byte, so that names of variables and calls
    stay; a quoted one needs 8 bytes, a letter, a digit and 2.5 bits a byte.
    """
    split = max(data.rfind(b"=", start, end), data.rfind(b":", start, end))
    first = re.compile(rb"[A-Za-z0-9_]+[\"']?[ \t]*(?:=>|:=|=|:)[ \t]*").match(data, start, end)
    found = _ASSIGNED.match(data, first.end() if first else split + 1, end)
    if found is None:
        return
    value = found["value"]
    digits = sum(byte in _DIGITS for byte in value)
    letters = sum(chr(byte).isalpha() for byte in value)
    quoted = bool(found["quote"]) and after(data, end) == found["quote"][0]
    if quoted:
        holds = digits >= 1 and letters >= 1 and entropy_bits(value) >= 2.5
    else:
        holds = len(value) >= 16 and digits >= 2 and letters >= 2 and entropy_bits(value) >= 3.5
        holds = holds and after(data, end) not in b"([" and b"." not in value
    if holds:
        yield found.span("value")


def url_credentials(data: bytes, start: int, end: int) -> Iterator[Span]:
    """The `user:password` of a URL; scheme and host stay readable."""
    first = data.index(b"://", start, end) + 3
    yield first, end - 1
