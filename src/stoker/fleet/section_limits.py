"""How long a rank may stay in a section of a step: learnt from how long it usually does. Pure.

See docs/design/fleet.md, "Hangs".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from stoker.core.events import Section

FACTOR: Final = 10.0
"""A section hangs when it lasts so many times as long as it lately did."""

ENOUGH: Final = 8
"""So many times must a section have ended before its limit is learnt."""

FORGET: Final = 0.95
"""What the longest time counts after each further one: a first step that compiled is forgotten in some 50."""

LEARNT: Final = frozenset({Section.DATA, Section.COMPUTE, Section.OPTIMIZER})
"""The sections that every step has; the others are too rare to be learnt."""


@dataclass(frozen=True, slots=True)
class SectionTimes:
    """Of each section of a step how often it has ended, and how long it lately took at the longest."""

    seen: Mapping[Section, tuple[int, float]] = field(default_factory=dict)

    def after(self, section: Section, seconds: float) -> SectionTimes:
        """These, and one more time of a section that has ended."""
        if section not in LEARNT:
            return self
        count, longest = self.seen.get(section, (0, 0.0))
        return SectionTimes({**self.seen, section: (count + 1, max(seconds, longest * FORGET))})

    def limit_s(self, section: Section, *, at_least_s: float, at_most_s: float) -> float:
        """How long a rank may stand still in `section`: learnt within these bounds, else the upper one."""
        count, longest = self.seen.get(section, (0, 0.0))
        if count < ENOUGH:
            return at_most_s
        return min(max(FACTOR * longest, at_least_s), at_most_s)
