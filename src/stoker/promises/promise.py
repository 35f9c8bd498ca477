"""The eight promises by number and text, and the form of what a check of one answers."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Final

PROMISES: Final[Mapping[int, str]] = {
    1: "Nothing is prepared or trained on without a decision in force, by someone else, on the exact bytes.",
    2: "Outside a training or preparing process's memory there is no plaintext.",
    3: "A destroyed or expired key makes its data unreadable everywhere, and this is tried, not assumed.",
    4: "A changed, swapped, truncated, replayed or rolled-back byte is an error; none reaches a caller.",
    5: "Training processes reach their peers, the store and the key agent only; else no key is leased.",
    6: "A run that can continue does, from the last checkpoint, in the same order, each sample once.",
    7: "Every figure shown was measured, or says that it is a prediction, with its interval.",
    8: "Every act above is in a log that cannot be rewritten unnoticed.",
}
"""As in docs/design/00-overview.md, shortened to a line."""


class Standing(enum.StrEnum):
    """How a promise stands now. What could not be tried is untried, never kept."""

    KEPT = "kept"
    NOT_KEPT = "not kept"
    UNTRIED = "untried"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was tried just now: what it was, whether it held, and what was seen."""

    tried: str
    held: bool
    seen: str


@dataclass(frozen=True, slots=True)
class PromiseReport:
    """One promise with everything that was tried. `missing` says what keeps it from being tried or kept."""

    number: int
    promise: str
    standing: Standing
    checks: tuple[Check, ...]
    missing: str


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """All promises, in order. `seconds` is how long checking took."""

    kind: ClassVar[str] = "verify"
    version: ClassVar[int] = 1
    promises: tuple[PromiseReport, ...]
    seconds: float

    @property
    def kept(self) -> int:
        """How many promises are kept."""
        return sum(each.standing is Standing.KEPT for each in self.promises)


def judged(number: int, checks: list[Check], *, missing: str = "") -> PromiseReport:
    """A promise is kept when something was tried, all of it held and nothing is missing."""
    if not all(check.held for check in checks) or (missing and checks):
        standing = Standing.NOT_KEPT
    elif not checks:
        standing = Standing.UNTRIED
    else:
        standing = Standing.KEPT
    return PromiseReport(number, PROMISES[number], standing, tuple(checks), missing)
