"""The terms of an approval: what a review allows beyond its purpose and its time.

They are part of the request that a reviewer decides. See docs/design/intake.md, "Review".
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

MAX_NAMED: Final = 256
"""How many recipes or runs one review may name."""

_RECIPE: Final = re.compile(r"[0-9a-f]{64}")
_RUN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class Protection(enum.StrEnum):
    """How a link between processes is protected, in rising order; the value is the word in files."""

    NONE = "none"
    ISOLATED_FABRIC = "isolated_fabric"
    TLS = "tls"
    LOOPBACK = "loopback"


_RISING: Final = tuple(Protection)


def at_least(found: Protection, asked: Protection) -> bool:
    """Whether a link protected as `found` is protected as well as `asked`, or better."""
    return _RISING.index(found) >= _RISING.index(asked)


@dataclass(frozen=True, slots=True)
class ReviewTerms:
    """What bounds an approval. The terms of a review without any are `ReviewTerms()`: no bound.

    `recipes`: digests of the recipes that may prepare the source, 64 hex digits each; empty: any.
    `runs`: names of the runs that may read what was prepared; empty: any.
    `least_protection`: every link of a run that reads it is protected so, or better.
    `least_recall`: the least share of planted canaries that the scan found, of every kind that the policy
    treats, as the lower bound of the 95 % interval; below it nothing is approved.
    """

    recipes: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()
    least_protection: Protection = Protection.NONE
    least_recall: float = 0.0

    def problems(self) -> Iterator[str]:
        """One sentence for each rule that is broken, naming the field and its value."""
        for name, entries in (("recipes", self.recipes), ("runs", self.runs)):
            if len(entries) > MAX_NAMED:
                yield f"{name} names {len(entries)}; it may name at most {MAX_NAMED}."
            twice = sorted({each for each in entries if entries.count(each) > 1})
            if twice:
                yield f"{name} names {', '.join(twice[:5])} more than once."
        for recipe in self.recipes:
            if not _RECIPE.fullmatch(recipe):
                yield f"recipes names {recipe[:80]!r}; a recipe is named by its digest of 64 hex digits."
        for run in self.runs:
            if not _RUN.fullmatch(run):
                yield f"runs names {run[:80]!r}, which is no name of a run."
        if not 0.0 <= self.least_recall <= 1.0:
            yield f"least_recall is {self.least_recall}; it must lie between 0 and 1."

    @property
    def are_any(self) -> bool:
        """Whether anything is bounded at all."""
        return self != NO_TERMS


NO_TERMS: Final = ReviewTerms()
"""Nothing is bounded: the terms of every request that was made before there were terms."""
