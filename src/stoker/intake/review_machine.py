"""The life of a review, pure: what may follow what, and what a decision is worth at a given time.

See docs/design/intake.md, "Review". The shell around it is stoker.intake.review.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from stoker.core.clock import iso_utc
from stoker.intake.errors import GateShut, NotAReviewer, ReviewClosed, ReviewExpired, SelfReview
from stoker.ledger.records import ReviewState, Role

DECIDING_ROLES: Final = frozenset({Role.REVIEWER, Role.ADMIN})

UNDECIDED: Final = frozenset({ReviewState.REQUESTED, ReviewState.SCANNED})
"""The states in which nobody has decided yet."""


class Standing(enum.StrEnum):
    """What a review is worth at some moment. Only IN_FORCE permits anything."""

    UNDECIDED = "undecided"
    IN_FORCE = "in_force"
    EXPIRED = "expired"
    DENIED = "denied"
    CHANGES_ASKED = "changes_asked"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True)
class ReviewFacts:
    """The part of a review that its life depends on.

    `scanned` says that a scan report is part of the request; `least_recall` what share of planted canaries
    its terms want to have been found, as a lower bound.
    """

    state: ReviewState
    requested_by: str
    requested_s: float
    expires_s: float
    decided_by: str | None = None
    decided_s: float | None = None
    scanned: bool = True
    least_recall: float = 0.0


@dataclass(frozen=True, slots=True)
class Scan:
    """A scan report of the source becomes part of the request. Whoever may scan may do this."""

    by: str
    at_s: float
    scan_digest: str


@dataclass(frozen=True, slots=True)
class Approve:
    """`by`, in `role`, allows the use.

    `recall` is the worst lower bound that the scan report gives for any kind that the policy treats; None
    where none was measured.
    """

    by: str
    role: Role
    at_s: float
    reason: str
    recall: float | None = None


@dataclass(frozen=True, slots=True)
class Deny:
    """`by`, in `role`, refuses the use."""

    by: str
    role: Role
    at_s: float
    reason: str


@dataclass(frozen=True, slots=True)
class AskChanges:
    """`by`, in `role`, would allow another request: `reason` says what has to change."""

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


Decision: TypeAlias = Approve | Deny | AskChanges | Revoke
Event: TypeAlias = Scan | Decision


@dataclass(frozen=True, slots=True)
class SignAndRecord:
    """Have `by` sign this verdict and record it."""

    verdict: ReviewState
    by: str
    at_s: float
    reason: str


@dataclass(frozen=True, slots=True)
class BindScan:
    """Make the scan report part of the request, whose digest changes with it, and record that."""

    scan_digest: str
    by: str


Instruction: TypeAlias = SignAndRecord | BindScan

TRANSITIONS: Final[Mapping[tuple[ReviewState, type[Event]], ReviewState]] = {
    (ReviewState.REQUESTED, Scan): ReviewState.SCANNED,
    (ReviewState.REQUESTED, Approve): ReviewState.APPROVED,
    (ReviewState.REQUESTED, Deny): ReviewState.DENIED,
    (ReviewState.REQUESTED, AskChanges): ReviewState.CHANGES_ASKED,
    (ReviewState.REQUESTED, Revoke): ReviewState.REVOKED,
    (ReviewState.SCANNED, Approve): ReviewState.APPROVED,
    (ReviewState.SCANNED, Deny): ReviewState.DENIED,
    (ReviewState.SCANNED, AskChanges): ReviewState.CHANGES_ASKED,
    (ReviewState.SCANNED, Revoke): ReviewState.REVOKED,
    (ReviewState.APPROVED, Revoke): ReviewState.REVOKED,
}
"""What may follow what; every pair that is absent is refused.

A request is approved from REQUESTED only when its scan is part of it nevertheless: requests were made so
before there was the state SCANNED.
"""

_WORDS: Final[Mapping[type[Event], str]] = {
    Scan: "scanning",
    Approve: "approving",
    Deny: "denying",
    AskChanges: "asking for changes",
    Revoke: "revoking",
}


def step(facts: ReviewFacts, event: Event) -> tuple[ReviewFacts, tuple[Instruction, ...]]:
    """The review after `event`, and what the shell has to do.

    Raises SelfReview when requester and decider are one, NotAReviewer when the role does not decide,
    ReviewExpired when the time asked for is over, GateShut when an approval lacks its scan or the recall that
    its terms ask for, ReviewClosed when the state allows no such event.
    """
    after = TRANSITIONS.get((facts.state, type(event)))
    if after is None or (isinstance(event, Scan) and facts.scanned):
        raise ReviewClosed(
            f"The review is {_said(facts.state)} since {_when(facts)}; {_WORDS[type(event)]} is not open.",
            hint="Request a new review.",
        )
    if isinstance(event, Scan):
        return replace(facts, state=after, scanned=True), (BindScan(event.scan_digest, event.by),)
    _require_decider(facts, event)
    if isinstance(event, Approve):
        _require_open_gate(facts, event)
    decided = replace(facts, state=after, decided_by=event.by, decided_s=event.at_s)
    return decided, (SignAndRecord(after, event.by, event.at_s, event.reason),)


def _require_decider(facts: ReviewFacts, event: Decision) -> None:
    if isinstance(event, Revoke) and event.by == facts.requested_by:
        return  # withdrawn
    if event.by == facts.requested_by:
        raise SelfReview(
            f"{event.by} requested this review and cannot decide it.",
            hint="Another identity with the role reviewer must decide.",
        )
    if event.role not in DECIDING_ROLES:
        raise NotAReviewer(
            f"{event.by} has the role {event.role}; deciding takes the role reviewer or admin.",
            hint="Let a reviewer decide: stoker identity ls shows the roles.",
        )


def _require_open_gate(facts: ReviewFacts, event: Approve) -> None:
    if event.at_s >= facts.expires_s:
        raise ReviewExpired(
            f"The review asked for use until {iso_utc(facts.expires_s)}, which is over.",
            hint="Request a new review with a later expiry.",
        )
    if not facts.scanned:
        raise GateShut(
            "The source was not scanned for this request, so nobody can know what would be approved.",
            hint="Run: stoker review scan SOURCE — the report then becomes part of the request.",
        )
    if facts.least_recall > 0.0 and (event.recall is None or event.recall < facts.least_recall):
        found = "was not measured" if event.recall is None else f"is {event.recall:.3f} at its worst kind"
        raise GateShut(
            f"The terms ask for a recall of {facts.least_recall:.3f} on planted canaries, by the lower bound "
            f"of its 95 % interval; it {found}.",
            hint="Scan with canaries, treat fewer kinds, or request a review on other terms.",
        )


def standing(facts: ReviewFacts, now_s: float) -> Standing:
    """What the review is worth at `now_s`."""
    match facts.state:
        case ReviewState.REQUESTED | ReviewState.SCANNED:
            return Standing.UNDECIDED
        case ReviewState.DENIED:
            return Standing.DENIED
        case ReviewState.CHANGES_ASKED:
            return Standing.CHANGES_ASKED
        case ReviewState.REVOKED:
            return Standing.REVOKED
        case ReviewState.APPROVED:
            return Standing.EXPIRED if now_s >= facts.expires_s else Standing.IN_FORCE


def problems(facts: ReviewFacts) -> tuple[str, ...]:
    """What is wrong with the facts themselves: a review that this machine can never have made."""
    found = []
    decided = facts.state not in UNDECIDED
    if decided != (facts.decided_by is not None) or decided != (facts.decided_s is not None):
        found.append("state and decision do not fit each other")
    by_another = (ReviewState.APPROVED, ReviewState.DENIED, ReviewState.CHANGES_ASKED)
    if facts.state in by_another and facts.decided_by == facts.requested_by:
        found.append("requester and decider are the same identity")
    if facts.expires_s <= facts.requested_s:
        found.append("it expires before it was requested")
    if facts.state is ReviewState.APPROVED and (facts.decided_s or 0.0) >= facts.expires_s:
        found.append("it was approved after its expiry")
    if facts.state in (ReviewState.SCANNED, ReviewState.APPROVED) and not facts.scanned:
        found.append("no scan is part of it")
    return tuple(found)


def _when(facts: ReviewFacts) -> str:
    return iso_utc(facts.requested_s if facts.decided_s is None else facts.decided_s)


def _said(state: ReviewState) -> str:
    return state.value.replace("_", " ")
