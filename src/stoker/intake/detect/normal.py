"""A text as a reader sees it, with the way back to its own bytes. See docs/design/detect.md, "Normalisation".

Compatibility forms (NFKC), invisible characters, letters of other scripts inside a Latin word, digits of
other
scripts, typographic quotes and dashes, and mark-up in the middle of a word become what they look like. Every
piece
that changed is remembered, so that a finding has the offsets of the original bytes.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from typing import Final

import re2

from stoker.intake.detect.lookalikes import INVISIBLE, LOOKALIKES, PUNCTUATION
from stoker.intake.detect.options import byte_options

_CHANGES: Final = re2.compile(
    rb"(?:[A-Za-z](?:\xcc[\x80-\xbf]|\xcd[\x80-\xaf])+"  # letters with combining marks
    rb"|\xc2[\xa0-\xbf]|\xc5\xbf|\xc7[\x84-\x8c\xb1-\xb3]|\xca[\xb0-\xb8]|\xcd\x8f|\xd8\x9c"
    rb"|\xd9[\xa0-\xa9]|\xdb[\xb0-\xb9]|\xe0[\xa5-\xb5][\xa6-\xaf]"  # digits of other scripts
    rb"|\xe1\x9a\x80|\xe1\xa0\x8e|\xe2[\x80-\x86\x88\x91-\x93][\x80-\xbf]|\xe3\x80[\x80\x82]"
    rb"|\xef[\xac\xb8-\xbf][\x80-\xbf]"
    rb"|\xf0\x9d[\x90-\x9f][\x80-\xbf]|\xf3\xa0[\x80-\x81][\x80-\xbf])+",
    byte_options(),
)
_MIXED: Final = re2.compile(
    rb"[A-Za-z0-9._%+@-]*[\xce-\xd3][\x80-\xbf](?:[A-Za-z0-9._%+@-]|[\xce-\xd3][\x80-\xbf])*", byte_options()
)
_MARK_UP: Final = re2.compile(
    rb"(?:</?(?:a|abbr|b|big|bdi|cite|code|em|font|i|kbd|mark|q|s|small|span|strong|sub|sup|tt|u|wbr|td|th|tr"
    rb"|p|br|div|li|ul|ol|dd|dt|h[1-6])(?:[ \t][^<>\n]*)?/?>[ \t\r\n]*)+",
    byte_options(),
)
_TAG: Final = re2.compile(rb"<(?:/|w?br)", byte_options())
_INSIDE: Final = frozenset(
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789@.+- ("
) | frozenset(range(0x80, 0x100))
_BLOCK: Final = re.compile(rb"</?(?:td|th|tr|p|br|div|li|ul|ol|dd|dt|h[1-6])\b")


@dataclass(frozen=True, slots=True)
class Normal:
    """The text to look through. Lists are in order, one entry a changed piece: where it begins and ends,
    here and
    in the original."""

    data: bytes
    begins: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    original_begins: list[int] = field(default_factory=list)
    original_ends: list[int] = field(default_factory=list)

    def original(self, start: int, end: int) -> tuple[int, int]:
        """The range of the original that `start` to `end` of `data` came from; a changed piece counts
        whole."""
        if not self.begins:
            return start, end
        index = bisect_right(self.begins, start) - 1
        if index < 0:
            first = start
        elif start < self.ends[index]:
            first = self.original_begins[index]
        else:
            first = self.original_ends[index] + start - self.ends[index]
        index = bisect_left(self.begins, end) - 1
        if index < 0:
            last = end
        elif end <= self.ends[index]:
            last = self.original_ends[index]
        else:
            last = self.original_ends[index] + end - self.ends[index]
        return first, last


@functools.lru_cache(maxsize=65536)
def _changed(piece: bytes) -> bytes:
    """What a run of characters that may change looks like."""
    try:
        text = piece.decode()
    except UnicodeDecodeError:
        return piece
    letters = []
    for letter in text:
        if letter in INVISIBLE or 0xE0000 <= ord(letter) <= 0xE01FF:
            continue
        digit = unicodedata.decimal(letter, None)
        letters.append(PUNCTUATION.get(letter) or (str(digit) if digit is not None else letter))
    return unicodedata.normalize("NFKC", "".join(letters)).encode()


@functools.lru_cache(maxsize=65536)
def _latin(word: bytes) -> bytes:
    """A word of two scripts with the letters that look Latin in Latin; other words as they are."""
    if not any(0x41 <= byte <= 0x7A or byte == 0x40 for byte in word):
        return word
    try:
        return word.decode().translate(LOOKALIKES).encode()
    except UnicodeDecodeError:
        return word


def normal(data: bytes) -> Normal:
    """`data` as a reader sees it."""
    pieces: list[tuple[int, int, bytes]] = []
    if not data.isascii():
        for match in _CHANGES.finditer(data):
            changed = _changed(match.group())
            if changed != match.group():
                pieces.append((match.start(), match.end(), changed))
        pieces = _with_lookalikes(data, pieces)
    if _TAG.search(data) is not None:
        pieces = _with_mark_up(data, pieces)
    return _assembled(data, pieces) if pieces else Normal(data)


def _with_lookalikes(data: bytes, pieces: list[tuple[int, int, bytes]]) -> list[tuple[int, int, bytes]]:
    mixed = [
        (match.start(), match.end(), _latin(match.group()))
        for match in _MIXED.finditer(data)
        if _latin(match.group()) != match.group()
    ]
    return _apart(pieces, mixed) if mixed else pieces


def _with_mark_up(data: bytes, pieces: list[tuple[int, int, bytes]]) -> list[tuple[int, int, bytes]]:
    tags = [
        (match.start(), match.end(), b" " if _BLOCK.search(match.group()) else b"")
        for match in _MARK_UP.finditer(data)
        if match.start() > 0 and match.end() < len(data)
        if data[match.start() - 1] in _INSIDE and data[match.end()] in _INSIDE
    ]
    return _apart(pieces, tags) if tags else pieces


def _apart(
    first: list[tuple[int, int, bytes]], second: list[tuple[int, int, bytes]]
) -> list[tuple[int, int, bytes]]:
    """Both in order; of two that overlap the earlier stays."""
    kept: list[tuple[int, int, bytes]] = []
    for piece in sorted([*first, *second]):
        if not kept or piece[0] >= kept[-1][1]:
            kept.append(piece)
    return kept


def _assembled(data: bytes, pieces: list[tuple[int, int, bytes]]) -> Normal:
    parts: list[bytes] = []
    found = Normal(b"")
    at = size = 0
    for begin, end, text in pieces:
        parts += (data[at:begin], text)
        size += begin - at
        found.begins.append(size)
        size += len(text)
        found.ends.append(size)
        found.original_begins.append(begin)
        found.original_ends.append(end)
        at = end
    parts.append(data[at:])
    return Normal(b"".join(parts), found.begins, found.ends, found.original_begins, found.original_ends)
