"""The gate before every use of a source: which review is in force for it now, and why none is.

Every signature is checked each time, and the audit log is asked. See docs/design/intake.md, "Review".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from stoker.core.clock import Clock, iso_utc
from stoker.core.errors import BadSignature, StokerError
from stoker.core.ids import ReviewId
from stoker.core.signing import verify_signature
from stoker.intake.errors import (
    ChangesAsked,
    NotAReviewer,
    OtherPurpose,
    OutsideTerms,
    ReviewDenied,
    ReviewExpired,
    ReviewMissing,
    ReviewRevoked,
    ReviewStale,
    ReviewTampered,
    ReviewUndecided,
)
from stoker.intake.review_machine import DECIDING_ROLES, UNDECIDED, ReviewFacts, Standing, problems, standing
from stoker.intake.review_request import decision_message, request_fault, terms_in
from stoker.ledger.ledger import Ledger
from stoker.ledger.records import IdentityRecord, ReviewRecord, ReviewState, ReviewTermsRecord, SourceRecord
from stoker.spec.terms import NO_TERMS, ReviewTerms


@dataclass(frozen=True, slots=True)
class Use:
    """What is to be done under a review, as far as its terms bound it; empty: not a matter of this use."""

    recipe: str = ""
    """The digest of the recipe that prepares, or prepared."""

    run: str = ""
    """The name of the run that reads."""


ANY_USE: Final = Use()


def facts_of(review: ReviewRecord, terms: ReviewTerms = NO_TERMS) -> ReviewFacts:
    """The part of the record that the state machine judges."""
    return ReviewFacts(
        review.state,
        review.requested_by,
        review.requested_s,
        review.expires_s,
        review.decided_by,
        review.decided_s,
        scanned=bool(review.scan_digest),
        least_recall=terms.least_recall,
    )


def terms_of(ledger: Ledger, review: ReviewRecord) -> ReviewTerms:
    """The terms of a review; those of before there were terms bound nothing.

    Raises ReviewTampered when the row is not the one that was asked for.
    """
    return terms_in(checked_terms(review, ledger))


def outside(terms: ReviewTerms, use: Use) -> str | None:
    """Why a use lies outside terms, as the end of a sentence; None when it does not."""
    if use.recipe and terms.recipes and use.recipe not in terms.recipes:
        return f"they name {len(terms.recipes)} recipes, and {use.recipe[:12]} is none of them"
    if use.run and terms.runs and use.run not in terms.runs:
        return f"they name the runs {', '.join(terms.runs[:5])}, and {use.run[:80]!a} is none of them"
    return None


def verify_decision(
    review: ReviewRecord, identity: IdentityRecord, terms: ReviewTermsRecord | None = None
) -> None:
    """Raise ReviewTampered unless the rows are whole and `identity` signed exactly this decision.

    Raises NotAReviewer when an approval is by an identity whose role does not decide.
    """
    _check_request(review, terms)
    wrong = problems(facts_of(review))
    if wrong:
        raise _tampered(review, wrong[0])
    if review.decision_signature is None or review.decided_by != identity.name:
        raise _tampered(review, "it has no signature by its decider")
    try:
        verify_signature(
            identity.public_key,
            review.decision_signature,
            decision_message(review),
            f"the decision on {review.id}",
        )
    except BadSignature as error:
        raise _tampered(review, f"{identity.name} did not sign what it says") from error
    if review.state is ReviewState.APPROVED and identity.role not in DECIDING_ROLES:
        raise NotAReviewer(
            f"{review.id} was approved by {identity.name}, whose role is {identity.role}.",
            hint="A reviewer or admin must decide: request a new review.",
        )


def require_review(
    ledger: Ledger, source: SourceRecord, purpose: str, clock: Clock, use: Use = ANY_USE
) -> ReviewRecord:
    """The review that permits using exactly these bytes for `purpose` now; the newest when several do.

    Raises ReviewMissing, ReviewUndecided, ReviewDenied, ChangesAsked, ReviewRevoked, ReviewExpired,
    ReviewStale (other bytes), OtherPurpose, OutsideTerms, ReviewTampered, or LedgerUnusable when a row is not
    what the audit log says. Every signature is checked each time.
    """
    reviews = tuple(reversed(ledger.catalogue.reviews(source.name)))
    rows = {review.id: checked_terms(review, ledger) for review in reviews}
    exact = [review for review in reviews if covers(review, source) and review.purpose == purpose]
    refusals = []
    for review in exact:
        refusal = _refused(review, rows[review.id], use, ledger, clock)
        if refusal is None:
            return review
        refusals.append(refusal)
    if refusals:
        raise refusals[0]
    raise _uncovered(source, purpose, reviews)


def review_in_force(
    ledger: Ledger, review_id: ReviewId, purpose: str, clock: Clock, use: Use = ANY_USE
) -> ReviewRecord:
    """The review of that id when it is in force for `purpose` now: for what was prepared under it.

    Raises as require_review does, and UnknownReview.
    """
    review = ledger.catalogue.review(review_id)
    row = checked_terms(review, ledger)
    if review.purpose != purpose:
        raise _other_purpose(review.source, purpose, [review])
    refusal = _refused(review, row, use, ledger, clock)
    if refusal is not None:
        raise refusal
    return review


def _refused(
    review: ReviewRecord, row: ReviewTermsRecord | None, use: Use, ledger: Ledger, clock: Clock
) -> StokerError | None:
    if review.state not in UNDECIDED:
        check_decision(review, row, ledger)
    refusal = _refusal(review, clock.now_s())
    if refusal is None and (why := outside(terms_in(row), use)):
        return OutsideTerms(
            f"Review {review.id} of source {review.source} is in force, but not for this: {why}.",
            hint="Keep to its terms (stoker review show), or request a review on other terms.",
        )
    return refusal


def covers(review: ReviewRecord, source: SourceRecord) -> bool:
    """Whether a review is for exactly these bytes."""
    return review.source_version == source.version and review.manifest_root == source.manifest_root


def checked_terms(review: ReviewRecord, ledger: Ledger) -> ReviewTermsRecord | None:
    """The row of terms of a request; raises ReviewTampered unless both are the ones that were made."""
    row = ledger.catalogue.review_terms(review.id)
    _check_request(review, row)
    return row


def _check_request(review: ReviewRecord, row: ReviewTermsRecord | None) -> None:
    if fault := request_fault(review, row):
        raise _tampered(review, fault)


def check_decision(review: ReviewRecord, row: ReviewTermsRecord | None, ledger: Ledger) -> None:
    """Raise unless its decider signed this decision and the audit log vouches for both."""
    if review.decided_by is None:
        raise _tampered(review, "it is decided but names no decider")
    decider = ledger.catalogue.identity(review.decided_by)
    verify_decision(review, decider, row)
    # A signature says that this decision was made, not that it is the last, nor that the role is real.
    ledger.vouch(review, decider)


def _refusal(review: ReviewRecord, now_s: float) -> StokerError | None:
    about = f"{review.id} (source {review.source}, purpose {review.purpose})"
    again = "Request a new review: stoker review request."
    match standing(facts_of(review), now_s):
        case Standing.IN_FORCE:
            return None
        case Standing.UNDECIDED:
            return ReviewUndecided(
                f"Review {about} waits for its decision.",
                hint=f"Let a reviewer other than {review.requested_by} decide it.",
            )
        case Standing.DENIED:
            return ReviewDenied(
                f"Review {about} was denied by {review.decided_by}: {review.reason or 'no reason given'}.",
                hint="Mend what the reviewer named, then request a new review.",
            )
        case Standing.CHANGES_ASKED:
            return ChangesAsked(
                f"Review {about} asks for changes, says {review.decided_by}: "
                f"{review.reason or 'no reason given'}.",
                hint=f"Change that, then: stoker review request {review.source} --answers {review.id}",
            )
        case Standing.REVOKED:
            return ReviewRevoked(
                f"Review {about} was revoked by {review.decided_by}: {review.reason or 'no reason given'}.",
                hint=again,
            )
        case Standing.EXPIRED:
            return ReviewExpired(f"Review {about} expired at {iso_utc(review.expires_s)}.", hint=again)


def _uncovered(source: SourceRecord, purpose: str, reviews: tuple[ReviewRecord, ...]) -> StokerError:
    same_bytes = [review for review in reviews if covers(review, source)]
    if same_bytes:
        return _other_purpose(source.name, purpose, same_bytes)
    if reviews:
        return ReviewStale(
            f"The reviews of source {source.name} cover other bytes than its version {source.version[:12]}; "
            f"the newest covers version {reviews[0].source_version[:12]}.",
            hint="The source was imported again or changed since. Scan it and request a new review.",
        )
    return ReviewMissing(
        f"No review of source {source.name} was ever requested.",
        hint=f"Run: stoker review request {source.name} --purpose {purpose}",
    )


def _other_purpose(source: str, purpose: str, reviews: list[ReviewRecord]) -> OtherPurpose:
    purposes = ", ".join(sorted({review.purpose for review in reviews}))
    return OtherPurpose(
        f"Source {source} was reviewed for {purposes}, not for {purpose}.",
        hint="Use it for what it was reviewed for, or request a review for this purpose.",
    )


def _tampered(review: ReviewRecord, why: str) -> ReviewTampered:
    return ReviewTampered(
        f"Review {review.id} in the ledger was changed outside Stoker: {why}.",
        hint="Nothing may be used under it. Run: stoker audit verify.",
    )
