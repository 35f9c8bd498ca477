"""Look up every capitalised word of a text at once in a table of listed words.

See docs/design/detect.md, "Words".

Words are found and hashed with array operations, so that the cost a byte does not depend on what the words
are and Python sees only the words that are asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

LETTER_BYTES: Final = (
    frozenset(range(0x41, 0x5B)) | frozenset(range(0x61, 0x7B)) | frozenset(range(0x80, 0x100))
)
"""Bytes that words are made of: ASCII letters and every byte of a character beyond ASCII."""

_FOLD: Final = bytes(
    (byte | 0x20) if 0x41 <= byte <= 0x5A else byte if byte in LETTER_BYTES else 0 for byte in range(256)
)
_K1: Final = np.uint64(0x9E3779B97F4A7C15)
_K2: Final = np.uint64(0xC2B2AE3D27D4EB4F)
_K3: Final = np.uint64(0x165667B19E3779F9)
_MASKS: Final = np.array([(1 << (8 * size)) - 1 for size in range(9)], dtype=np.uint64)
_LOW: Final = np.uint64(0x0101010101010101)
_HIGH: Final = np.uint64(0x8080808080808080)
_PADDING: Final = bytes(64)
MAX_WORD_BYTES: Final = 32
"""Longer words are in no list."""

_UPPER_PAIRS: Final = np.zeros(1 << 16, dtype=bool)
for _code in range(0xC0, 0x600):
    if chr(_code).isupper():
        _first, _second = chr(_code).encode()
        _UPPER_PAIRS[_second << 8 | _first] = True

Positions = NDArray[np.int64]
Flags = NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class TextWords:
    """Words of a text: where each starts and ends, in bytes, and the flags of its entry, 0 for none."""

    starts: Positions
    ends: Positions
    flags: Flags


def folded_letters(data: bytes) -> NDArray[np.uint8]:
    """Letters in lower case, everything else 0, and 64 zeros more."""
    return np.frombuffer(data.translate(_FOLD) + _PADDING, dtype=np.uint8)


def _eights(folded: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """The eight bytes from each position as one number."""
    return np.ndarray((len(folded) - 7,), dtype="<u8", buffer=folded, strides=(1,))


def _lengths(eights: NDArray[np.uint64], starts: Positions) -> Positions:
    """How long the word at each start is: bytes until the first zero, at most MAX_WORD_BYTES."""
    lengths = np.zeros(len(starts), dtype=np.int64)
    at = np.arange(len(starts))
    while len(at):
        value = eights[starts[at] + lengths[at]]
        zeros = (value - _LOW) & ~value & _HIGH
        lowest = zeros & (~zeros + np.uint64(1))
        run = (np.bitwise_count(lowest - np.uint64(1)) >> 3).astype(np.int64)
        lengths[at] += run
        at = at[(run == 8) & (lengths[at] < MAX_WORD_BYTES)]
    return lengths


def _keys(eights: NDArray[np.uint64], starts: Positions, lengths: Positions) -> NDArray[np.uint64]:
    """A 64-bit key of each word: of its first eight bytes, its last eight, and its length."""
    short = np.minimum(lengths, 8)
    masks = _MASKS[short]
    first = eights[starts] & masks
    last = eights[starts + lengths - short] & masks
    keys: NDArray[np.uint64] = (first * _K1) ^ ((last + lengths.astype(np.uint64)) * _K2)
    keys ^= keys >> np.uint64(29)
    keys *= _K3
    return keys


def word_starts(data: bytes, folded: NDArray[np.uint8], *, capitals: bool) -> Positions:
    """Where words start; with `capitals` only those whose first letter is a capital."""
    letters = folded[: len(data)] != 0
    if not capitals:
        starts = letters.copy()
        starts[1:] &= ~letters[:-1]
        return np.flatnonzero(starts)
    raw = np.frombuffer(data, dtype=np.uint8)
    marked = (raw - np.uint8(0x41)) < 26
    if not data.isascii():
        marked |= raw >= 0xC3
    marked[1:] &= ~letters[:-1]
    starts_at = np.flatnonzero(marked)
    if not data.isascii():
        first = raw[starts_at].astype(np.int64)
        second = raw[np.minimum(starts_at + 1, len(raw) - 1)].astype(np.int64)
        starts_at = starts_at[(first < 0x80) | _UPPER_PAIRS[second << 8 | first]]
    return starts_at


class WordTable:
    """Listed words with 32 flags each."""

    def __init__(self, words: Mapping[bytes, int]) -> None:
        """`words`: ASCII letters in lower case, other characters as they are, at most MAX_WORD_BYTES, to
        flags."""
        kept = {word: flags for word, flags in words.items() if len(word) <= MAX_WORD_BYTES}
        folded = folded_letters(b"\n".join(kept))
        starts = np.cumsum([0, *(len(word) + 1 for word in kept)])[:-1]
        eights = _eights(folded)
        keys = _keys(eights, starts, _lengths(eights, starts))
        flags = np.fromiter(kept.values(), dtype=np.uint32, count=len(kept))
        self._bits = max(12, (len(kept) - 1).bit_length() + 2)
        self._tables: list[tuple[NDArray[np.uint64], Flags]] = []
        left = np.arange(len(kept))
        while len(left):
            slots = self._slots(keys[left], len(self._tables))
            table_keys, table_flags = (
                np.zeros(1 << self._bits, np.uint64),
                np.zeros(1 << self._bits, np.uint32),
            )
            unique, index = np.unique(slots, return_index=True)
            table_keys[unique], table_flags[unique] = keys[left[index]], flags[left[index]]
            self._tables.append((table_keys, table_flags))
            left = np.delete(left, index)

    def _slots(self, keys: NDArray[np.uint64], turn: int) -> Positions:
        mixed = keys if turn == 0 else keys * (_K1 + np.uint64(2 * turn))
        return (mixed >> np.uint64(64 - self._bits)).astype(np.int64)

    def look_up(self, data: bytes, *, capitals: bool = True) -> TextWords:
        """The words of `data`, with `capitals` only those that begin with a capital, with their flags."""
        folded = folded_letters(data)
        starts = word_starts(data, folded, capitals=capitals)
        eights = _eights(folded)
        lengths = _lengths(eights, starts)
        keys = _keys(eights, starts, lengths)
        flags = np.zeros(len(keys), dtype=np.uint32)
        left: Positions | None = None
        for turn, (table_keys, table_flags) in enumerate(self._tables):
            sought = keys if left is None else keys[left]
            slots = self._slots(sought, turn)
            there = table_keys[slots]
            same = there == sought
            if left is None:
                flags = np.where(same, table_flags[slots], np.uint32(0))
                left = np.flatnonzero(~same & (there != 0))
            else:
                flags[left[same]] = table_flags[slots[same]]
                left = left[~same & (there != 0)]
            if not len(left):
                break
        return TextWords(starts, starts + lengths, flags)
