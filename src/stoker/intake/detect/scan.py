"""Find and redact personal and secret data in bytes. Pure. See docs/design/intake.md.

Stage one is an RE2 set over every byte: it says which patterns have a candidate at all. Stage two finds the
candidates of those patterns and hands each to its exact recogniser.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import re2

from stoker.core.errors import StokerError
from stoker.intake.detect.patterns import PATTERNS, Pattern, byte_options
from stoker.spec.recipe import Kind

ALL_KINDS: Final[frozenset[Kind]] = frozenset(Kind)

PLACEHOLDERS: Final[Mapping[Kind, bytes]] = {kind: f"<{kind.name}>".encode() for kind in Kind}
"""What stands in the place of a finding after redaction."""

MAX_ROUNDS: Final = 8
"""Redaction is repeated until nothing is found; a cut that makes a new finding needs a second round."""


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """Bytes `start` to `end` of a text are of `kind`."""

    start: int
    end: int
    kind: Kind


class _Scanner:
    """The compiled set and the compiled single patterns for some kinds."""

    def __init__(self, kinds: frozenset[Kind]) -> None:
        options = byte_options()
        self.patterns: tuple[tuple[Pattern, Any], ...] = tuple(
            (pattern, re2.compile(pattern.expression, options))
            for pattern in PATTERNS
            if pattern.kind in kinds
        )
        self.set: Any = re2.Set.SearchSet(options)
        for pattern, _ in self.patterns:
            self.set.Add(pattern.expression)
        self.always = len(self.patterns)
        self.set.Add(b"")
        self.set.Compile()

    def candidates(self, data: bytes) -> Collection[int]:
        """Indices of the patterns that may have a match in `data`.

        RE2 answers a set that ran out of memory like one without a match. The empty pattern matches always,
        so when it is missing the answer is worth nothing and every pattern is tried.
        """
        hits = self.set.Match(data) or ()
        if self.always not in hits:
            return range(self.always)
        return [index for index in hits if index != self.always]


@functools.cache
def _scanner(kinds: frozenset[Kind]) -> _Scanner:
    return _Scanner(kinds)


def set_of(kinds: Collection[Kind]) -> Any:
    """Stage one for `kinds`: the compiled RE2 set, for measuring it alone."""
    return _scanner(frozenset(kinds)).set


def find(data: bytes, kinds: Collection[Kind] = ALL_KINDS) -> tuple[Finding, ...]:
    """Every finding of `kinds` in `data`, in order and without overlap.

    Overlapping findings become one that covers them all, of the kind that begins first (the longer when two
    begin together), so that cutting it out leaves no part of either.
    """
    scanner = _scanner(frozenset(kinds))
    found: list[Finding] = []
    for index in scanner.candidates(data):
        pattern, expression = scanner.patterns[index]
        for match in expression.finditer(data):
            for start, end in pattern.recogniser(data, *match.span()):
                found.append(Finding(start, end, pattern.kind))
    return _merged(found)


def _merged(found: list[Finding]) -> tuple[Finding, ...]:
    merged: list[Finding] = []
    for finding in sorted(found, key=lambda one: (one.start, -one.end, one.kind)):
        if merged and finding.start < merged[-1].end:
            last = merged[-1]
            merged[-1] = Finding(last.start, max(last.end, finding.end), last.kind)
        else:
            merged.append(finding)
    return tuple(merged)


def redact(data: bytes, kinds: Collection[Kind]) -> tuple[bytes, dict[Kind, int]]:
    """`data` with every finding of `kinds` replaced by its placeholder, and how many there were.

    A second scan of the result finds nothing of these kinds.
    """
    counts: dict[Kind, int] = {}
    for _ in range(MAX_ROUNDS):
        found = find(data, kinds)
        if not found:
            return data, counts
        data = cut(data, found)
        for finding in found:
            counts[finding.kind] = counts.get(finding.kind, 0) + 1
    raise StokerError(  # pragma: no cover - the placeholders hold no candidate, so rounds end
        f"Redaction still finds something after {MAX_ROUNDS} rounds."
    )


def cut(data: bytes, found: Collection[Finding]) -> bytes:
    """`data` with each of `found` replaced by its placeholder."""
    pieces: list[bytes] = []
    at = 0
    for finding in found:
        pieces += (data[at : finding.start], PLACEHOLDERS[finding.kind])
        at = finding.end
    pieces.append(data[at:])
    return b"".join(pieces)


def mask(text: bytes) -> str:
    """The shape of a finding for a report: letters become x, digits 9; punctuation stays."""
    shown = []
    for letter in text.decode("utf-8", errors="replace")[:48]:
        if letter.isdigit():
            shown.append("9")
        elif letter.isalpha():
            shown.append("X" if letter.isupper() else "x")
        else:
            shown.append(letter if letter.isprintable() and letter != "\ufffd" else "?")
    return "".join(shown) + ("…" if len(text) > 48 else "")


def excerpt(data: bytes, found: Sequence[Finding], index: int, *, around: int = 32) -> str:
    """The line around `found[index]` with every one of `found` in it masked, for a person to judge by."""
    finding = found[index]
    begin = max(data.rfind(b"\n", 0, finding.start) + 1, finding.start - around)
    stop = data.find(b"\n", finding.end)
    stop = min(len(data) if stop < 0 else stop, finding.end + around)
    begin, stop = _character_start(data, begin), _character_start(data, stop)
    pieces: list[str] = []
    at = begin
    for one in found:
        if one.end <= begin or one.start >= stop:
            continue
        pieces += (_printable(data[at : one.start]), f"<{one.kind.name} {mask(data[one.start : one.end])}>")
        at = max(at, one.end)
    pieces.append(_printable(data[at:stop]))
    return "".join(pieces).strip()


def _character_start(data: bytes, position: int) -> int:
    """The first position from `position` that does not lie inside a UTF-8 character."""
    while position < len(data) and data[position] & 0xC0 == 0x80:
        position += 1
    return position


def _printable(data: bytes) -> str:
    text = data.decode("utf-8", errors="replace")
    return "".join(letter if letter.isprintable() else " " for letter in text)
