"""A text as a reader sees it, with the way back to its own bytes. See docs/design/detect.md, "Normalisation".

Escapes, compatibility forms (NFKC), invisible characters, letters of other scripts inside a Latin word,
digits of other scripts, typographic quotes and dashes, and mark-up in the middle of a word become what they
look like.
Every piece that changed is remembered, so that a finding has the offsets of the original bytes.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

import numpy as np
import re2
from numpy.typing import NDArray

from stoker.intake.detect.escapes import escapes
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
_EXPLAINED: Final = re.compile(rb"</dt>\s*<dd\b|</th>\s*<td\b")
_NEXT_LINE: Final = re.compile(rb"</(?:dd|td)>.*<(?:dt|th)\b|<tr\b", re.DOTALL)
_HEX_GROUP: Final = re.compile(rb"[0-9A-Fa-f]{1,4}")


Piece: TypeAlias = tuple[int, int, bytes]
"""Where a piece begins and ends, and what it becomes."""


@dataclass(frozen=True, slots=True)
class Normal:
    """The text to look through. Sequences are in order, one entry a changed piece: where it begins and ends,
    here and in the original."""

    data: bytes
    begins: Sequence[int] = ()
    ends: Sequence[int] = ()
    original_begins: Sequence[int] = ()
    original_ends: Sequence[int] = ()
    inner: Normal | None = None
    """Where `data` was made in two steps: what the first one gave."""

    def original(self, start: int, end: int) -> tuple[int, int]:
        """The range of the original that `start` to `end` of `data` came from; a changed piece counts
        whole."""
        first, last = self._before(start, end)
        return self.inner.original(first, last) if self.inner else (first, last)

    def _before(self, start: int, end: int) -> tuple[int, int]:
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
    pieces: list[Piece] = []
    inner: Normal | None = None
    if escaped := escapes(data):
        inner = _assembled(data, escaped, None)
        data = inner.data
    if not data.isascii():
        few = _changes(data, MANY_CHANGES + len(data) // BYTES_A_CHANGE)
        if few is None:
            inner = replace(dense(data), inner=inner)
            data = inner.data
            few = _changes(data, len(data)) or []
        pieces = _with_lookalikes(data, few)
    if _TAG.search(data) is not None:
        pieces = _with_mark_up(data, pieces)
    return _assembled(data, pieces, inner) if pieces else inner or Normal(data)


def _changes(data: bytes, most: int) -> list[Piece] | None:
    """Every run of characters that changes, and what it becomes; None when there are more than `most`."""
    pieces: list[Piece] = []
    for match in _CHANGES.finditer(data):
        changed = _changed(match.group())
        if changed != match.group():
            pieces.append((match.start(), match.end(), changed))
            if len(pieces) > most:
                return None
    return pieces


MANY_CHANGES: Final = 64
BYTES_A_CHANGE: Final = 512
"""A text with more changed pieces than these allow is changed letter by letter, all at once."""


@functools.cache
def _letters() -> tuple[dict[int, str], NDArray[np.uint8], NDArray[np.bool_]]:
    """What each letter that changes by itself becomes, the bytes of every letter afterwards, and whether it
    changes."""
    becomes: dict[int, str] = {}
    sizes = np.full(0x110000, 4, dtype=np.uint8)
    sizes[:0x80], sizes[0x80:0x800], sizes[0x800:0x10000] = 1, 2, 3
    for code in range(0x80, 0x30000):
        letter = chr(code)
        if 0xAC00 <= code <= 0xD7FF or 0x3400 <= code <= 0x9FFF or 0xD800 <= code <= 0xDFFF:
            continue
        digit = unicodedata.decimal(letter, None)
        changed = "" if letter in INVISIBLE else PUNCTUATION.get(letter)
        if changed is None:
            changed = str(digit) if digit is not None else unicodedata.normalize("NFKC", letter)
        if changed != letter:
            becomes[code] = changed
            sizes[code] = len(changed.encode())
    becomes |= dict.fromkeys(range(0xE0000, 0xE0200), "")
    sizes[0xE0000:0xE0200] = 0
    changes = np.zeros(0x110000, dtype=bool)
    changes[list(becomes)] = True
    return becomes, sizes, changes


def dense(data: bytes) -> Normal:
    """`data`, of which much changes, letter by letter; marks that combine and mixed scripts stay."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return Normal(data)
    becomes, sizes, changes = _letters()
    codes = np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
    sizes_before = 1 + (codes >= 0x80) + (codes >= 0x800).astype(np.int64) + (codes >= 0x10000)
    ends = np.cumsum(sizes[codes], dtype=np.int64)
    original_ends = np.cumsum(sizes_before)
    changed = np.flatnonzero(changes[codes])
    after = sizes[codes]
    kept = codes[after != 0].tobytes().decode("utf-32-le")
    return Normal(
        (kept.translate(becomes) if after[changed].any() else kept).encode(),
        _numbers(ends[changed] - after[changed]),
        _numbers(ends[changed]),
        _numbers(original_ends[changed] - sizes_before[changed]),
        _numbers(original_ends[changed]),
    )


def _numbers(values: NDArray[np.int64]) -> Sequence[int]:
    """The same as a sequence of Python's own numbers, without making one of each."""
    return array("q", values.astype(np.int64, copy=False).tobytes())


def _with_lookalikes(data: bytes, pieces: list[Piece]) -> list[Piece]:
    mixed: list[Piece] = []
    for match in _MIXED.finditer(data):
        start, end = match.span()
        word = match.group()
        latin = _latin(word)
        if latin == word and b":" in (data[start - 1 : start], data[end : end + 1]):
            latin = _hexadecimal(word)
        if latin != word:
            mixed.append((start, end, latin))
    return _apart(pieces, mixed) if mixed else pieces


def _hexadecimal(word: bytes) -> bytes:
    """A group of an address whose only letters look like hexadecimal digits; other words as they are."""
    try:
        latin = word.decode().translate(LOOKALIKES).encode()
    except UnicodeDecodeError:
        return word
    return latin if _HEX_GROUP.fullmatch(latin) else word


def _with_mark_up(data: bytes, pieces: list[Piece]) -> list[Piece]:
    tags = [
        (match.start(), match.end(), _instead_of(match.group()))
        for match in _MARK_UP.finditer(data)
        if match.start() > 0 and match.end() < len(data)
        if data[match.start() - 1] in _INSIDE and data[match.end()] in _INSIDE
    ]
    return _apart(pieces, tags) if tags else pieces


def _instead_of(tags: bytes) -> bytes:
    """What tags between two characters are to a reader: a colon, a line end, a blank or nothing."""
    if _BLOCK.search(tags) is None:
        return b""
    if _EXPLAINED.search(tags):
        return b": "
    return b"\n" if _NEXT_LINE.search(tags) else b" "


def _apart(first: list[Piece], second: list[Piece]) -> list[Piece]:
    """Both in order; of two that overlap the earlier stays."""
    kept: list[Piece] = []
    for piece in sorted([*first, *second]):
        if not kept or piece[0] >= kept[-1][1]:
            kept.append(piece)
    return kept


def _assembled(data: bytes, pieces: list[Piece], inner: Normal | None) -> Normal:
    parts: list[bytes] = []
    begins: list[int] = []
    ends: list[int] = []
    at = size = 0
    for begin, end, text in pieces:
        parts += (data[at:begin], text)
        size += begin - at
        begins.append(size)
        size += len(text)
        ends.append(size)
        at = end
    parts.append(data[at:])
    return Normal(
        b"".join(parts),
        begins,
        ends,
        [begin for begin, _, _ in pieces],
        [end for _, end, _ in pieces],
        inner,
    )
