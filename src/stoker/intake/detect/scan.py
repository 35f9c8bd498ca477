"""Find and redact personal and secret data in bytes. Pure. See docs/design/intake.md.

Stage one is an RE2 set over every byte: it says which patterns have a candidate at all. Stage two finds the
candidates of those patterns and hands each to its exact recogniser.
"""

from __future__ import annotations

import functools
import itertools
from bisect import bisect_right
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import re2

from stoker.core.errors import StokerError
from stoker.intake.detect.addresses import address_anchors, find_addresses
from stoker.intake.detect.lexicon import Mark, lexicon
from stoker.intake.detect.names import find_names
from stoker.intake.detect.normal import normal
from stoker.intake.detect.patterns import ANCHORS, PATTERNS, Pattern, byte_options
from stoker.intake.detect.recognise import Span
from stoker.spec.recipe import Kind

ALL_KINDS: Final[frozenset[Kind]] = frozenset(Kind)

PLACEHOLDERS: Final[Mapping[Kind, bytes]] = {kind: f"<{kind.name}>".encode() for kind in Kind}
"""What stands in the place of a finding after redaction."""

NAME_KINDS: Final = frozenset(
    {Kind.PERSON, Kind.ORGANISATION, Kind.LOCATION, Kind.NATIONALITY, Kind.TITLE, Kind.STREET_ADDRESS}
)
CAPITALISED: Final = int(Mark.TITLE | Mark.UNIT | Mark.COMPANY_FORM | Mark.COUNTRY)
MAX_CASELESS_BYTES: Final = 4096
"""A longer text without capitals is no text that lost them."""

WINDOW_BYTES: Final = 3072
OVERLAP_BYTES: Final = 256
"""What a pattern needs to match is shorter than this; recognisers look at the whole text."""

ALWAYS: Final = rb"\A"
"""Matches every text, once: an empty pattern matches at every byte and makes the set a third slower."""

GROUP_BYTES: Final = 1 << 19
BORDER: Final = b"\n" + b"\0\n" * 32
"""Between texts that lie side by side: no word, no blank, and more than any context reaches."""

MAX_ROUNDS: Final = 8
"""Redaction is repeated until nothing is found; a cut that makes a new finding needs a second round."""


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """Bytes `start` to `end` of a text are of `kind`."""

    start: int
    end: int
    kind: Kind


class _Scanner:
    """The compiled set of triggers and the compiled single patterns for some kinds."""

    def __init__(self, kinds: frozenset[Kind]) -> None:
        options = byte_options()
        self.patterns: tuple[tuple[Pattern, Any], ...] = tuple(
            (pattern, re2.compile(pattern.expression, options))
            for pattern in PATTERNS
            if pattern.kind is None or pattern.kind in kinds
        )
        self.set: Any = re2.Set.SearchSet(options)
        by_trigger: dict[bytes, list[int]] = {}
        for index, (pattern, _) in enumerate(self.patterns):
            by_trigger.setdefault(pattern.trigger or pattern.expression, []).append(index)
        for trigger in by_trigger:
            self.set.Add(trigger)
        self.indices = tuple(by_trigger.values())
        self.always = len(by_trigger)
        self.set.Add(ALWAYS)
        self.set.Compile()

    def candidates(self, data: bytes) -> Collection[int]:
        """Indices of the patterns that may have a match in `data`.

        RE2 answers a set that ran out of memory like one without a match. The beginning of the text matches
        always, so when it is missing the answer is worth nothing and every pattern is tried. The end of the
        text counts as a line's end.
        """
        hits = self.set.Match(data + b"\n") or ()
        if self.always not in hits:
            return range(len(self.patterns))
        return [index for hit in hits if hit != self.always for index in self.indices[hit]]

    def regions(self, data: bytes) -> Iterator[tuple[int, int, int]]:
        """Pattern, begin and end of every part of `data` where the pattern may match.

        A long text is looked at in windows that overlap; neighbouring windows of a pattern are one part.
        """
        if len(data) <= WINDOW_BYTES + 2 * OVERLAP_BYTES:
            for index in self.candidates(data):
                yield index, 0, len(data)
            return
        parts: dict[int, list[int]] = {}
        for at in range(0, len(data), WINDOW_BYTES):
            begin, end = max(0, at - OVERLAP_BYTES), min(len(data), at + WINDOW_BYTES + OVERLAP_BYTES)
            for index in self.candidates(data[begin:end]):
                part = parts.get(index)
                if part is not None and part[1] >= begin:
                    part[1] = end
                    continue
                if part is not None:
                    yield index, part[0], part[1]
                parts[index] = [begin, end]
        for index, (begin, end) in parts.items():
            yield index, begin, end


@functools.cache
def _scanner(kinds: frozenset[Kind]) -> _Scanner:
    return _Scanner(kinds)


def set_of(kinds: Collection[Kind]) -> Any:
    """Stage one for `kinds`: the compiled RE2 set, for measuring it alone."""
    return _scanner(frozenset(kinds)).set


def find(data: bytes, kinds: Collection[Kind] = ALL_KINDS) -> tuple[Finding, ...]:
    """Every finding of `kinds` in `data`, in order and without overlap, in offsets of `data` itself.

    Overlapping findings become one that covers them all, of the kind that begins first (the longer when two
    begin together), so that cutting it out leaves no part of either.
    """
    return find_each((data,), kinds)[0]


def find_each(texts: Sequence[bytes], kinds: Collection[Kind] = ALL_KINDS) -> list[tuple[Finding, ...]]:
    """`find` of every text: the same, and faster than one by one where texts are short.

    Shapes are looked for in each text alone. Words are looked up in many texts at once, side by side with a
    border between them that no name crosses, since what an array operation costs is mostly its start.
    """
    wanted = frozenset(kinds)
    seen = [normal(text) for text in texts]
    plain = [restored(one.data) for one in seen]
    shaped = [_shaped(text, wanted) for text in plain]
    found = [shapes for shapes, _ in shaped]
    if wanted & NAME_KINDS:
        for first, last in _groups(plain):
            anchors = [anchors for _, anchors in shaped[first:last]]
            for index, names in enumerate(_named(plain[first:last], anchors, wanted), first):
                found[index] += names
    whole = []
    for one, several in zip(seen, found, strict=True):
        chosen = [each for each in several if each.kind in wanted]
        if one.begins:
            chosen = [Finding(*one.original(each.start, each.end), each.kind) for each in chosen]
        whole.append(_merged(chosen))
    return whole


def _groups(texts: Sequence[bytes]) -> Iterator[tuple[int, int]]:
    """Begin and end of runs of texts that together have about GROUP_BYTES."""
    first = size = 0
    for index, text in enumerate(texts):
        size += len(text)
        if size >= GROUP_BYTES:
            yield first, index + 1
            first, size = index + 1, 0
    if first < len(texts):
        yield first, len(texts)


def find_in_pieces(
    pieces: Sequence[bytes], kinds: Collection[Kind] = ALL_KINDS
) -> tuple[tuple[Finding, ...], ...]:
    """The findings of each piece of one text, such as chunks, fields or cells, in offsets of the piece.

    The pieces are looked through joined without anything between them and joined by a blank; a finding that
    lies
    across a border is a finding in every piece that it touches.
    """
    direct = _by_piece(pieces, b"", kinds)
    if len(pieces) < 2:
        return tuple(map(_merged, direct))
    spaced = _by_piece(pieces, b" ", kinds)
    return tuple(_merged(_extended(ours, more)) for ours, more in zip(direct, spaced, strict=True))


def _by_piece(pieces: Sequence[bytes], glue: bytes, kinds: Collection[Kind]) -> list[list[Finding]]:
    """The findings of the joined pieces, cut at the borders."""
    found: list[list[Finding]] = [[] for _ in pieces]
    begins = list(itertools.accumulate((len(piece) + len(glue) for piece in pieces[:-1]), initial=0))
    for one in find(glue.join(pieces), kinds):
        for index in range(bisect_right(begins, one.start) - 1, len(pieces)):
            if begins[index] >= one.end:
                break
            start = max(0, one.start - begins[index])
            end = min(len(pieces[index]), one.end - begins[index])
            if start < end:
                found[index].append(Finding(start, end, one.kind))
    return found


def _extended(ours: list[Finding], more: list[Finding]) -> list[Finding]:
    """Both; what overlaps one of ours widens it and takes its kind."""
    whole = list(ours)
    for one in more:
        kind = next((own.kind for own in ours if own.start < one.end and one.start < own.end), one.kind)
        whole.append(Finding(one.start, one.end, kind))
    return whole


def _shaped(data: bytes, kinds: frozenset[Kind]) -> tuple[list[Finding], list[Span]]:
    """What has a shape, with overlaps and of any kind; and where words announce an address."""
    scanner = _scanner(kinds)
    found: list[Finding] = []
    anchors: list[Span] = []
    for index, begin, stop in scanner.regions(data):
        pattern, expression = scanner.patterns[index]
        for match in expression.finditer(data, begin, stop):
            spans = pattern.recogniser(data, *match.span())
            if pattern.name == ANCHORS:
                anchors += [(start, end) for start, end, *_ in spans]
            elif pattern.kind is None:
                found += [Finding(*one) for one in spans]
            else:
                found += [Finding(start, end, pattern.kind) for start, end, *_ in spans]
    return found, anchors


def _named(
    texts: Sequence[bytes], anchors: Sequence[list[Span]], kinds: frozenset[Kind]
) -> list[list[Finding]]:
    """Names and addresses of each text, with overlaps; `anchors` are what `_shaped` found in each."""
    data = BORDER.join(texts) if len(texts) > 1 else texts[0]
    begins = list(itertools.accumulate((len(text) + len(BORDER) for text in texts[:-1]), initial=0))
    known = lexicon()
    words = known.table.look_up(data)
    found = [Finding(*one) for one in find_names(data, known, words)]
    if Kind.STREET_ADDRESS in kinds:
        announced = [
            (begin + start, begin + end)
            for begin, spans in zip(begins, anchors, strict=True)
            for start, end in spans
        ]
        places = sorted([*announced, *address_anchors(data, words)])
        found += [Finding(*one, Kind.STREET_ADDRESS) for one in find_addresses(data, known, places)]
    if len(texts) == 1:
        return [found]
    each: list[list[Finding]] = [[] for _ in texts]
    for one in found:
        index = bisect_right(begins, one.start) - 1
        begin = begins[index]
        each[index].append(Finding(one.start - begin, one.end - begin, one.kind))
    return each


def restored(data: bytes) -> bytes:
    """`data` with capitals where a text without any has words that are no common words; as long as before."""
    if len(data) > MAX_CASELESS_BYTES or data != data.lower():
        return data
    words = lexicon().table.look_up(data, capitals=False)
    changed = bytearray(data)
    keep = (words.flags & CAPITALISED) != 0
    rare = (words.flags & Mark.COMMON) == 0
    for start in words.starts[(keep | rare) & (words.ends - words.starts > 1)].tolist():
        if start == 0 or data[start - 1] in b" \n\t(\"'>-,:":
            letter = data[start : start + 2]
            if 0x61 <= letter[0] <= 0x7A:
                changed[start] = letter[0] - 32
            elif letter[0] == 0xC3 and 0xA0 <= letter[1] <= 0xBE:
                changed[start + 1] = letter[1] - 32
    return bytes(changed)


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
