"""A text under a policy: every finding becomes what the policy says. Pure. See docs/design/policy.md.

What was put in a finding's place is never touched again, so treating ends, and what is cut together and makes
a new finding is found in the next round. What finds is a `Finder`: exact recognisers, or they and a model.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Final, TypeAlias

from stoker.intake.detect.scan import PLACEHOLDERS, Finding, find
from stoker.intake.policy.general import general
from stoker.intake.policy.pseudonym import Pseudonyms
from stoker.spec.kinds import Kind
from stoker.spec.policy import Treatment

MAX_ROUNDS: Final = 8

Span: TypeAlias = tuple[int, int]
Finder: TypeAlias = Callable[[bytes, Collection[Kind], Sequence[Span]], Sequence[Finding]]
"""What finds kinds in a text, in order and without overlap. It is told what is ours in it, which a finder by
shapes may look at like any text; what a model makes of it is worth nothing."""


@dataclass(frozen=True, slots=True)
class Treated:
    """A text as it may be used, and how often what was done to it.

    `held` says why the text may not be used at all: it is empty then.
    """

    text: bytes
    counts: Mapping[Kind, int] = field(default_factory=dict)
    held: str = ""


def exactly(data: bytes, kinds: Collection[Kind], ours: Sequence[Span]) -> Sequence[Finding]:
    """The exact recognisers' findings: the finder of a policy that asks for no model."""
    return find(data, kinds)


def treat(
    data: bytes,
    treatments: Mapping[Kind, Treatment],
    pseudonyms: Pseudonyms | None = None,
    finder: Finder = exactly,
) -> Treated:
    """`data` under a policy; `pseudonyms` are needed where a kind is replaced by them.

    A kind that has no treatment stays. Afterwards `finder` finds nothing of the kinds that are treated, but
    inside what was put in their place.
    """
    treatments = {kind: each for kind, each in treatments.items() if each is not Treatment.KEEP}
    forbidden = frozenset(kind for kind, each in treatments.items() if each is Treatment.QUARANTINE)
    if forbidden and (found := finder(data, forbidden, ())):
        return Treated(b"", held=f"holds {found[0].kind}")
    kinds = frozenset(treatments) - forbidden
    counts: dict[Kind, int] = {}
    ours: list[Span] = []
    for _ in range(MAX_ROUNDS):
        left = [_Place(finding, ours) for finding in finder(data, kinds, ours)] if kinds else []
        left = [place for place in left if not place.settled]
        if not left:
            if counts and forbidden and (found := finder(data, forbidden, ours)):
                return Treated(b"", held=f"holds {found[0].kind}")  # cut together while treating
            return Treated(data, counts)
        for place in left:
            counts[place.kind] = counts.get(place.kind, 0) + 1
        pieces = [
            (place.start, place.end, _instead(data, place, treatments, pseudonyms)) for place in _apart(left)
        ]
        data, ours = _replaced(data, pieces, ours)
    return Treated(b"", held="never settles")


class _Place:
    """Where a finding lies, and what of ours it touches."""

    __slots__ = ("end", "kind", "mixed", "settled", "start")

    def __init__(self, finding: Finding, ours: Sequence[Span]) -> None:
        at = bisect_right(ours, finding.start, key=itemgetter(1))
        self.kind, self.start, self.end = finding.kind, finding.start, finding.end
        self.mixed = self.settled = False
        while at < len(ours) and ours[at][0] < finding.end:
            start, end = ours[at]
            self.settled |= start <= finding.start and finding.end <= end
            self.start, self.end = min(self.start, start), max(self.end, end)
            self.mixed = True
            at += 1


def _apart(places: Iterable[_Place]) -> list[_Place]:
    """The places in order; those that grew into each other become one."""
    apart: list[_Place] = []
    for place in sorted(places, key=lambda one: (one.start, -one.end)):
        if apart and place.start < apart[-1].end:
            apart[-1].end = max(apart[-1].end, place.end)
            apart[-1].mixed = True
        else:
            apart.append(place)
    return apart


def _instead(
    data: bytes, place: _Place, treatments: Mapping[Kind, Treatment], pseudonyms: Pseudonyms | None
) -> bytes:
    value = data[place.start : place.end]
    treatment = treatments[place.kind]
    if treatment is Treatment.REMOVE:
        return b""
    if not place.mixed and treatment is Treatment.PSEUDONYM and pseudonyms is not None:
        return pseudonyms.pseudonym(place.kind, value)
    if not place.mixed and treatment is Treatment.GENERALISE:
        return general(place.kind, value) or PLACEHOLDERS[place.kind]
    return PLACEHOLDERS[place.kind]


def _replaced(
    data: bytes, pieces: Sequence[tuple[int, int, bytes]], ours: Sequence[Span]
) -> tuple[bytes, list[Span]]:
    """`data` with the pieces replaced, and where in it what is ours lies now."""
    made: list[bytes] = []
    spans: list[Span] = []
    at = moved = 0
    old = iter([*ours, (len(data) + 1, len(data) + 1)])
    span = next(old)
    for start, end, instead in pieces:
        while span[1] <= start:
            spans.append((span[0] + moved, span[1] + moved))
            span = next(old)
        while span[0] < end:  # swallowed by the piece
            span = next(old)
        made += (data[at:start], instead)
        if instead:
            spans.append((start + moved, start + moved + len(instead)))
        moved += len(instead) - (end - start)
        at = end
    while span[1] <= len(data):
        spans.append((span[0] + moved, span[1] + moved))
        span = next(old)
    made.append(data[at:])
    return b"".join(made), spans
