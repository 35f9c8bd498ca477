"""Facts of documents as bytes: what signature tasks store and the selecting task reads."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import Final

from stoker.intake.quality.judge import DocumentFacts, Dropped

_HEAD: Final = struct.Struct(">BBBH")
_REASONS: Final = tuple(Dropped)


def reason_number(reason: Dropped | None) -> int:
    """0 for a document that stays, else the reason's place among all, counted from 1."""
    return 0 if reason is None else _REASONS.index(reason) + 1


def encode_facts(facts: Iterable[DocumentFacts]) -> bytes:
    """One record a document: reason, lengths, then language, digest and sketch."""
    pieces: list[bytes] = []
    for each in facts:
        language = each.language.encode()
        head = _HEAD.pack(reason_number(each.dropped), len(language), len(each.digest), len(each.sketch))
        pieces += (head, language, each.digest, each.sketch)
    return b"".join(pieces)


def decode_facts(data: bytes | bytearray) -> Iterator[DocumentFacts]:
    """The facts in `data`. Raises ValueError when it does not follow the form."""
    at = 0
    while at < len(data):
        if at + _HEAD.size > len(data):
            raise ValueError("cut off")
        reason, language, digest, sketch = _HEAD.unpack_from(data, at)
        ends = list(accumulate((language, digest, sketch), initial=at + _HEAD.size))
        at = ends[-1]
        if at > len(data) or reason > len(_REASONS):
            raise ValueError("cut off, or no reason")
        yield DocumentFacts(
            None if reason == 0 else _REASONS[reason - 1],
            bytes(data[ends[0] : ends[1]]).decode(),
            bytes(data[ends[1] : ends[2]]),
            bytes(data[ends[2] : ends[3]]),
        )
