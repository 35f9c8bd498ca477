"""What a sweep of the keys must do now: pure, from facts and a time. See docs/design/keys.md, "Sweep".

Sweeping twice does nothing twice: what was done stands in the facts of the next sweep.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, TypeAlias

from stoker.keys.refs import KekRef

_DAY_S: Final = 86_400.0

LEADS_S: Final = (30 * _DAY_S, 7 * _DAY_S, _DAY_S)
"""How long before an end a warning is due, longest first: a month, a week, a day."""


class About(enum.StrEnum):
    """What a warning announces."""

    EXPIRY = "expiry"
    """From then on the KEK opens nothing."""

    ROTATION = "rotation"
    """Its originator-usage period ends: from then on it wraps nothing, and the next epoch is to seal."""

    DESTRUCTION = "destruction"
    """A destruction was approved and is carried out then; until then it can be withdrawn."""


@dataclass(frozen=True, slots=True, order=True)
class Notice:
    """One warning's identity: what ends, when, and how long before (`lead_s`) it is due.

    An end that was moved is another end: it is announced anew.
    """

    about: About
    at_s: float
    lead_s: float


@dataclass(frozen=True, slots=True)
class KeyFacts:
    """What a sweep must know of one KEK. Times are seconds since the Unix epoch; None: never.

    `wraps_until_s` is the end of the originator-usage period. `destroy_at_s` is set while an approved
    destruction waits for the end of its window. `proved` says that a proof of death that holds is recorded;
    `erased_s` when a vault that had only scheduled its erasure will have done it: then it is tried once more.
    `given` are the warnings that were given before. `owner` and `reviewer` are to be warned, where known.
    """

    ref: KekRef
    wraps: bool = True
    expires_s: float | None = None
    wraps_until_s: float | None = None
    destroy_at_s: float | None = None
    destroyed: bool = False
    proved: bool = False
    erased_s: float | None = None
    owner: str | None = None
    reviewer: str | None = None
    given: frozenset[Notice] = frozenset()


@dataclass(frozen=True, slots=True)
class Warn:
    """Tell `to` of what is coming, and record that they were told."""

    ref: KekRef
    notice: Notice
    to: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Retire:
    """Deactivate the KEK: it is past `at_s`, and wraps no more."""

    ref: KekRef
    because: About
    at_s: float


@dataclass(frozen=True, slots=True)
class CarryOut:
    """Destroy the KEK: its window was over at `at_s`, and nobody withdrew."""

    ref: KekRef
    at_s: float


@dataclass(frozen=True, slots=True)
class Prove:
    """Try to open what the dead KEK sealed, everywhere, and record what was seen."""

    ref: KekRef


SweepInstruction: TypeAlias = Warn | Retire | CarryOut | Prove


def plan_sweep(
    facts: Iterable[KeyFacts], now_s: float, *, leads_s: tuple[float, ...] = LEADS_S
) -> tuple[SweepInstruction, ...]:
    """What is due at `now_s`, in order of scope and epoch whatever the order of `facts`.

    Nothing is destroyed before its window is over; nothing is carried out, retired or warned of that is
    destroyed; of the warnings that are due, only the most urgent one is given, and each one once.
    """
    instructions: list[SweepInstruction] = []
    for each in sorted(facts, key=lambda fact: fact.ref):
        instructions += _due(each, now_s, leads_s)
    return tuple(instructions)


def imminent(facts: KeyFacts, now_s: float, *, leads_s: tuple[float, ...] = LEADS_S) -> tuple[Notice, ...]:
    """What is to be announced of the KEK at `now_s`, whether or not it was: what `key ls` shows."""
    if facts.destroyed:
        return ()
    if facts.destroy_at_s is not None:
        return (Notice(About.DESTRUCTION, facts.destroy_at_s, 0.0),)
    notices = []
    for about, at_s in ((About.EXPIRY, facts.expires_s), (About.ROTATION, facts.wraps_until_s)):
        if at_s is None or now_s >= at_s or (about is About.ROTATION and not facts.wraps):
            continue
        if about is About.ROTATION and facts.expires_s is not None and facts.expires_s <= at_s:
            continue  # it ends with the KEK, which is announced already
        due = [lead_s for lead_s in leads_s if at_s - now_s <= lead_s]
        if due:
            notices.append(Notice(about, at_s, min(due)))
    return tuple(notices)


def _due(facts: KeyFacts, now_s: float, leads_s: tuple[float, ...]) -> list[SweepInstruction]:
    if facts.destroyed:
        again = facts.erased_s is not None and now_s >= facts.erased_s
        return [Prove(facts.ref)] if again or not facts.proved else []
    if facts.destroy_at_s is not None and now_s >= facts.destroy_at_s:
        return [CarryOut(facts.ref, facts.destroy_at_s), Prove(facts.ref)]
    instructions: list[SweepInstruction] = []
    if facts.wraps:
        ends = ((About.EXPIRY, facts.expires_s), (About.ROTATION, facts.wraps_until_s))
        over = [(at_s, about) for about, at_s in ends if at_s is not None and now_s >= at_s]
        if over:
            at_s, about = min(over)
            instructions.append(Retire(facts.ref, about, at_s))
    for notice in imminent(facts, now_s, leads_s=leads_s):
        if _was_given(notice, facts.given):
            continue
        instructions.append(Warn(facts.ref, notice, _told(facts, notice.about)))
    return instructions


def _was_given(notice: Notice, given: frozenset[Notice]) -> bool:
    """Whether this warning, or a more urgent one of the same end, was given."""
    return any(
        (each.about, each.at_s) == (notice.about, notice.at_s) and each.lead_s <= notice.lead_s
        for each in given
    )


def _told(facts: KeyFacts, about: About) -> tuple[str, ...]:
    """The owner and the reviewer, each once; a rotation concerns the owner only."""
    people = (facts.owner,) if about is About.ROTATION else (facts.owner, facts.reviewer)
    return tuple(dict.fromkeys(name for name in people if name is not None))
