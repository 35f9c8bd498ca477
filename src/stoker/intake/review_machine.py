"""The life of a review, pure: what may follow what, and what a decision is worth at a given time.

See docs/design/intake.md, "Review". The shell around it is stoker.intake.review.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from stoker.core.clock import iso_utc
from stoker.intake.errors import NotAReviewer, ReviewClosed, ReviewExpired, SelfReview
from stoker.ledger.permissions import Deed, roles_for
from stoker.ledger.records import ReviewState, Role

DECIDING_ROLES: Final = roles_for(Deed.REVIEW_DECIDE)


class Standing(enum.StrEnum):
    """What a review is worth at some moment. Only IN_FORCE permits anything."""

    UNDECIDED = "undecided"
    IN_FORCE = "in_force"
    EXPIRED = "expired"
    DENIED = "denied"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True)
class ReviewFacts:
    """The part of a review that its life depends on."""

    state: ReviewState
    requested_by: str
    requested_s: float
    expires_s: float
    decided_by: str | None = None
    decided_s: float | None = None


@dataclass(frozen=True, slots=True)
class Approve:
    """`by`, in `role`, allows the use."""

    by: str
    role: Role
    at_s: float
    reason: str


@dataclass(frozen=True, slots=True)
class Deny:
    """`by`, in `role`, refuses the use."""

    by: str
    role: Role
    at_s: float
    reason: str


@dataclass(frozen=True, slots=True)
class Revoke:
    """`by`, in `role`, takes back an approval; the requester may also withdraw an undecided request."""

    by: str
    role: Role
    at_s: float
    reason: str


Event: TypeAlias = Approve | Deny | Revoke


@dataclass(frozen=True, slots=True)
class SignAndRecord:
    """The one instruction: have `by` sign this verdict and record it."""

    verdict: ReviewState
    by: str
    at_s: float
    reason: str


TRANSITIONS: Final[Mapping[tuple[ReviewState, type[Event]], ReviewState]] = {
    (ReviewState.REQUESTED, Approve): ReviewState.APPROVED,
    (ReviewState.REQUESTED, Deny): ReviewState.DENIED,
    (ReviewState.REQUESTED, Revoke): ReviewState.REVOKED,
    (ReviewState.APPROVED, Revoke): ReviewState.REVOKED,
}
"""What may follow what; every pair that is absent is refused."""


def step(facts: ReviewFacts, event: Event) -> tuple[ReviewFacts, tuple[SignAndRecord, ...]]:
    """The review after `event`, and what the shell has to do.

    Raises SelfReview when requester and decider are one, NotAReviewer when the role does not decide,
    ReviewExpired when the time asked for is over, ReviewClosed when the state allows no such event.
    """
    verdict = TRANSITIONS.get((facts.state, type(event)))
    if verdict is None:
        raise ReviewClosed(
            f"The review is {facts.state} since {_when(facts)}; {type(event).__name__.lower()} is not open.",
            hint="Request a new review.",
        )
    withdrawn = isinstance(event, Revoke) and event.by == facts.requested_by
    if event.by == facts.requested_by and not withdrawn:
        raise SelfReview(
            f"{event.by} requested this review and cannot decide it.",
            hint="Another identity with the role reviewer must decide.",
        )
    if event.role not in DECIDING_ROLES and not withdrawn:
        raise NotAReviewer(
            f"{event.by} has the role {event.role}; deciding takes the role reviewer or admin.",
            hint="Let a reviewer decide: stoker identity ls shows the roles.",
        )
    if isinstance(event, Approve) and event.at_s >= facts.expires_s:
        raise ReviewExpired(
            f"The review asked for use until {iso_utc(facts.expires_s)}, which is over.",
            hint="Request a new review with a later expiry.",
        )
    after = replace(facts, state=verdict, decided_by=event.by, decided_s=event.at_s)
    return after, (SignAndRecord(verdict, event.by, event.at_s, event.reason),)


def standing(facts: ReviewFacts, now_s: float) -> Standing:
    """What the review is worth at `now_s`."""
    match facts.state:
        case ReviewState.REQUESTED:
            return Standing.UNDECIDED
        case ReviewState.DENIED:
            return Standing.DENIED
        case ReviewState.REVOKED:
            return Standing.REVOKED
        case ReviewState.APPROVED:
            return Standing.EXPIRED if now_s >= facts.expires_s else Standing.IN_FORCE


def problems(facts: ReviewFacts) -> tuple[str, ...]:
    """What is wrong with the facts themselves: a review that this machine can never have made."""
    found = []
    decided = facts.state is not ReviewState.REQUESTED
    if decided != (facts.decided_by is not None) or decided != (facts.decided_s is not None):
        found.append("state and decision do not fit each other")
    if facts.state in (ReviewState.APPROVED, ReviewState.DENIED) and facts.decided_by == facts.requested_by:
        found.append("requester and decider are the same identity")
    if facts.expires_s <= facts.requested_s:
        found.append("it expires before it was requested")
    if facts.state is ReviewState.APPROVED and (facts.decided_s or 0.0) >= facts.expires_s:
        found.append("it was approved after its expiry")
    return tuple(found)


def _when(facts: ReviewFacts) -> str:
    return iso_utc(facts.requested_s if facts.decided_s is None else facts.decided_s)
