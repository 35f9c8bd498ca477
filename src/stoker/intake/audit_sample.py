"""Which pieces of a source the name model looks at: near hits, and a random sample of all text. Pure.

The sample is drawn from windows of equal size over all text, each with the same chance and none twice. The
draw depends on the source's digest and nothing else, so everyone draws the same and nobody chose it; a larger
sample holds the smaller one. See docs/design/measured.md, "Audit sample".
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from stoker.intake.detect.scan import Finding, find
from stoker.intake.names_model import SEEN_KINDS, merged, seen
from stoker.spec.kinds import Kind

WINDOW_BYTES: Final = 1024
NEAR_BYTES: Final = 256
"""Text near a hit is so much before and behind it."""

MAX_NEAR_BYTES: Final = 4096
"""A piece of text near hits that lie close together is cut after so much."""

NEAR_SPANS: Final = 512
"""So many pieces near hits are looked into, of however many there are."""

MARGIN_BYTES: Final = 2048
"""Exact recognisers are shown so much more on either side, so that no border hides what they would find."""


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Bytes `start` to `end` of the file of that number."""

    file: int
    start: int
    end: int


def windows_of(sizes: Sequence[int]) -> int:
    """How many windows files of these sizes have."""
    return sum(-(-size // WINDOW_BYTES) for size in sizes)


def draw(sizes: Sequence[int], wanted: int, seed: str) -> tuple[Place, ...]:
    """`wanted` windows of files of these sizes, in order, or all of them where there are not more."""
    counts = list(accumulate((-(-size // WINDOW_BYTES) for size in sizes), initial=0))
    total = counts[-1]
    chosen: set[int] = set()
    if wanted >= total:
        chosen = set(range(total))
    for number in _numbers(seed):
        if len(chosen) >= min(wanted, total):
            break
        chosen.add(number % total)
    places = []
    for window in sorted(chosen):
        file = bisect_right(counts, window) - 1
        start = (window - counts[file]) * WINDOW_BYTES
        places.append(Place(file, start, min(start + WINDOW_BYTES, sizes[file])))
    return tuple(places)


def _numbers(seed: str) -> Iterator[int]:
    """Numbers of 256 bits without end."""
    counter = 0
    while True:
        yield int.from_bytes(hashlib.sha256(f"audit sample\0{seed}\0{counter}".encode()).digest(), "big")
        counter += 1


def near_hits(file: int, size: int, found: Sequence[Finding]) -> list[Place]:
    """The pieces of a file's text that lie near findings, in order, without overlap."""
    places: list[Place] = []
    for finding in found:
        start, end = max(0, finding.start - NEAR_BYTES), min(size, finding.end + NEAR_BYTES)
        if places and start <= places[-1].end and end - places[-1].start <= MAX_NEAR_BYTES:
            places[-1] = Place(file, places[-1].start, max(end, places[-1].end))
            continue
        start = max(start, places[-1].end if places else 0)
        end = min(end, start + MAX_NEAR_BYTES)
        if start < end:
            places.append(Place(file, start, end))
    return places


def rank(place: Place, seed: str) -> bytes:
    """An order of places that nobody chose."""
    return hashlib.sha256(f"near\0{seed}\0{place.file}\0{place.start}".encode()).digest()


@dataclass(frozen=True, slots=True)
class LookTask:
    """A slice of one file that begins at byte `at` of it, and the pieces of it to look into."""

    file: int
    at: int
    data: bytes
    near: tuple[Place, ...]
    drawn: tuple[Place, ...]


@dataclass(frozen=True, slots=True)
class Looked:
    """What the model saw beyond the exact findings: of each piece how many of each kind."""

    near: tuple[Mapping[Kind, int], ...]
    drawn: tuple[Mapping[Kind, int], ...]


def look(task: LookTask) -> Looked:
    """Run the model on the pieces of a task: what a worker does."""
    exact = find(task.data)
    return Looked(
        tuple(_beyond(task, place, exact) for place in task.near),
        tuple(_beyond(task, place, exact) for place in task.drawn),
    )


def _beyond(task: LookTask, place: Place, exact: Sequence[Finding]) -> Mapping[Kind, int]:
    start, end = place.start - task.at, place.end - task.at
    inside = [finding for finding in exact if finding.start < end and finding.end > start]
    counts: dict[Kind, int] = {}
    known = set(inside)
    for finding in merged(task.data, inside, seen(task.data, start, end)):
        if finding not in known and finding.kind in SEEN_KINDS:
            counts[finding.kind] = counts.get(finding.kind, 0) + 1
    return counts
