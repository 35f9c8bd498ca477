"""Plant identities in copies of a source's own text and count which of them a scan finds.

A copy exists in a worker's memory only. A value counts as found when every letter and digit of it lies in
some finding, of whatever kind: half a name that stays is a name that stays.
See docs/design/measured.md, "Canaries".
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from stoker.intake.canaries.forms import FORMS, Record
from stoker.intake.canaries.identities import identity
from stoker.intake.canaries.writings import WRITINGS, writing_of
from stoker.intake.detect.scan import Finding, find
from stoker.intake.proportion import Share, share

Find = Callable[[bytes], Sequence[Finding]]

HOST_BYTES: Final = 512
"""So much of the source stands before and behind a planted identity, where the source has as much."""

MAX_CANARIES: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Planted:
    """One value in a copy: bytes `start` to `end` are of this kind."""

    kind: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Copy:
    """A piece of the source with one identity in it, and how it was written."""

    data: bytes
    planted: tuple[Planted, ...]
    language: str
    form: str
    writing: str


@dataclass(slots=True)
class Tally:
    """How many were planted and found: by kind; of plain ones by kind; and by language, form and writing."""

    by: dict[str, dict[str, tuple[int, int]]] = field(default_factory=dict)

    def add(self, group: str, name: str, found: int, of: int) -> None:
        """Count more of one name."""
        counts = self.by.setdefault(group, {})
        before = counts.get(name, (0, 0))
        counts[name] = (before[0] + found, before[1] + of)

    def merge(self, other: Tally) -> None:
        """Count all of another."""
        for group, counts in other.by.items():
            for name, (found, of) in counts.items():
                self.add(group, name, found, of)

    def shares(self, group: str) -> Mapping[str, Share]:
        """The counts of one group with their intervals, by name."""
        return {name: share(found, of) for name, (found, of) in sorted(self.by.get(group, {}).items())}


BY_KIND: Final = "kind"
GROUPS: Final = ("language", "form", "writing")


def copy_with(number: int, seed: bytes, host: bytes) -> Copy:
    """The `number`th identity in the middle of `host`, between two lines or words of it."""
    person = identity(number, seed)
    forms = list(FORMS)
    # Languages, forms and ways of writing turn at different speeds, so that all of them meet.
    form = forms[number // len(WRITINGS) % len(forms)]
    writing = writing_of(number // (len(WRITINGS) * len(forms)) + number)
    at = _between(host, random.Random(seed + b"place" + number.to_bytes(8, "big")))  # noqa: S311
    # A value is written in its way before it is escaped as the form needs it, as it is in a real record.
    values = {word: WRITINGS[writing](value) for word, value in person.values.items()}
    record = FORMS[form](replace(person, values=values))
    data, planted = _joined(record, host[:at] + b"\n", b"\n" + host[at:])
    return Copy(data, planted, person.locale.language, form, writing)


def _between(host: bytes, rng: random.Random) -> int:
    """A place of `host` at the end of a line, or of a word where it is one line; never inside a character."""
    middle = rng.randint(len(host) // 4, max(len(host) // 4, 3 * len(host) // 4))
    for separator in (b"\n", b" "):
        found = host.find(separator, middle)
        if found >= 0:
            return found
    while 0 < middle < len(host) and host[middle] & 0xC0 == 0x80:
        middle += 1
    return middle


def _joined(record: Record, before: bytes, behind: bytes) -> tuple[bytes, tuple[Planted, ...]]:
    data = bytearray(before)
    planted = []
    for piece in record:
        text = piece.text.encode()
        if piece.kind is not None:
            planted.append(Planted(piece.kind.value, len(data), len(data) + len(text)))
        data += text
    return bytes(data + behind), tuple(planted)


def is_found(copy: Copy, value: Planted, found: Sequence[Finding]) -> bool:
    """Whether every letter and digit of the value lies in a finding."""
    covered = bytearray(value.end - value.start)
    for finding in found:
        first, last = max(finding.start, value.start), min(finding.end, value.end)
        if first < last:
            covered[first - value.start : last - value.start] = b"\x01" * (last - first)
    text = copy.data[value.start : value.end].decode("utf-8", errors="replace")
    at = 0
    for letter in text:
        size = len(letter.encode())
        if letter.isalnum() and not all(covered[at : at + size]):
            return False
        at += size
    return True


def tally(copies: Iterator[Copy], finder: Find = find) -> Tally:
    """What `finder` finds of the planted values."""
    made = Tally()
    for copy in copies:
        found = finder(copy.data)
        for value in copy.planted:
            hit = int(is_found(copy, value, found))
            made.add(BY_KIND, value.kind, hit, 1)
            for group, name in zip(GROUPS, (copy.language, copy.form, copy.writing), strict=True):
                made.add(group, name, hit, 1)
    return made


@dataclass(frozen=True, slots=True)
class PlantTask:
    """Identities `first` to `last` of a seed, each planted in one of these pieces of the source, in turn."""

    first: int
    last: int
    seed: bytes
    hosts: tuple[bytes, ...]


def plant(task: PlantTask) -> Tally:
    """Plant and count: what a worker does."""
    return tally(
        copy_with(number, task.seed, task.hosts[number % len(task.hosts)] if task.hosts else b"")
        for number in range(task.first, task.last)
    )
