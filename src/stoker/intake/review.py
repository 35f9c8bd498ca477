"""Requests, decisions and whether one is in force: the gate before every use of a source.

A decision is one identity's Ed25519 signature over another's request, which is bound to the digests of the
source's bytes, the scan report and the policy. See docs/design/intake.md, "Review".
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Final

from stoker.core.canonical import JsonValue
from stoker.core.clock import Clock, iso_utc
from stoker.core.errors import BadSignature, ConfigError, StokerError
from stoker.core.ids import ReviewId, check_name, new_review_id
from stoker.core.signing import verify_signature
from stoker.intake.errors import (
    ChangesAsked,
    NotAReviewer,
    OtherPurpose,
    OtherRequest,
    OutsideTerms,
    ReviewClosed,
    ReviewDenied,
    ReviewExpired,
    ReviewMissing,
    ReviewRevoked,
    ReviewStale,
    ReviewTampered,
    ReviewUndecided,
)
from stoker.intake.review_machine import (
    DECIDING_ROLES,
    UNDECIDED,
    Approve,
    AskChanges,
    BindScan,
    Deny,
    Event,
    ReviewFacts,
    Revoke,
    Scan,
    SignAndRecord,
    Standing,
    problems,
    standing,
    step,
)
from stoker.intake.review_request import decision_message as decision_message
from stoker.intake.review_request import policy_digest as policy_digest
from stoker.intake.review_request import request_digest as request_digest
from stoker.intake.review_request import request_fault, terms_in, terms_row
from stoker.intake.review_request import review_digest as review_digest
from stoker.keys.backend import KeyBackend
from stoker.keys.identities import identity_signer
from stoker.ledger.ledger import Ledger
from stoker.ledger.records import (
    IdentityRecord,
    ReviewRecord,
    ReviewState,
    ReviewTermsRecord,
    SourceRecord,
)
from stoker.spec.policy import PolicySpec
from stoker.spec.terms import NO_TERMS, ReviewTerms

MAX_REASON_CHARACTERS: Final = 2000


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
    return terms_in(_checked(review, ledger))


def outside(terms: ReviewTerms, use: Use) -> str | None:
    """Why a use lies outside terms, as the end of a sentence; None when it does not."""
    if use.recipe and terms.recipes and use.recipe not in terms.recipes:
        return f"they name {len(terms.recipes)} recipes, and {use.recipe[:12]} is none of them"
    if use.run and terms.runs and use.run not in terms.runs:
        return f"they name the runs {', '.join(terms.runs[:5])}, and {use.run[:80]!a} is none of them"
    return None


def request_review(
    source: SourceRecord,
    scan_digest: str,
    policy: PolicySpec,
    *,
    purpose: str,
    requested_by: str,
    valid_s: float,
    ledger: Ledger,
    clock: Clock,
    terms: ReviewTerms = NO_TERMS,
    answers: ReviewId | None = None,
) -> ReviewRecord:
    """Ask for leave to use `source` for `purpose` for `valid_s` seconds from now, within `terms`.

    `scan_digest` names the scan report that the reviewer will judge by; empty: the scan is still to come, see
    `bind_scan`. `answers` names the review that asked for the changes that are now made. Raises BadName for a
    purpose that is no name, UnknownIdentity for a requester who is none, ConfigError for a policy or terms
    that do not hold, ReviewClosed when `answers` asked for none of this source.
    """
    check_name(purpose, "purpose")
    ledger.catalogue.identity(requested_by)
    if wrong := [*policy.problems(), *terms.problems()]:
        raise ConfigError("The request does not hold: " + " ".join(wrong), hint="Mend what is named.")
    if answers is not None:
        _require_asked(ledger.catalogue.review(answers), source)
    now_s = clock.now_s()
    review = ReviewRecord(
        id=new_review_id(clock),
        source=source.name,
        source_version=source.version,
        manifest_root=source.manifest_root,
        scan_digest=scan_digest,
        policy_digest=policy_digest(policy),
        purpose=purpose,
        requested_by=requested_by,
        requested_s=now_s,
        expires_s=now_s + valid_s,
        request_digest="",
        state=ReviewState.SCANNED if scan_digest else ReviewState.REQUESTED,
        decided_by=None,
        decided_s=None,
        reason=None,
        decision_signature=None,
    )
    row = terms_row(review.id, terms, policy, answers)
    review = replace(review, request_digest=request_digest(review, row))
    if faults := problems(facts_of(review)):
        raise ReviewExpired(
            f"The review would not be valid: {faults[0]}.", hint="Ask for a time that is still to come."
        )
    detail: dict[str, JsonValue] = {
        "review": review.id,
        "request_digest": review.request_digest,
        "purpose": purpose,
        "expires_s": review.expires_s,
        **({"answers": answers} if answers else {}),
    }
    with ledger.act(
        actor=requested_by, action="review.request", subject=f"source/{source.name}", detail=detail
    ) as catalogue:
        catalogue.put_review(review, row)
    return review


def _require_asked(review: ReviewRecord, source: SourceRecord) -> None:
    if review.source != source.name or review.state is not ReviewState.CHANGES_ASKED:
        raise ReviewClosed(
            f"Review {review.id} of source {review.source} is {review.state.value.replace('_', ' ')}; a "
            f"request for {source.name} cannot answer it.",
            hint="Answer a review of the same source that asked for changes: stoker review ls.",
        )


def bind_scan(
    review_id: ReviewId, scan_digest: str, *, source: SourceRecord, by: str, ledger: Ledger, clock: Clock
) -> ReviewRecord:
    """Make the scan report of `source` with this digest part of a request that waits for one.

    The request's digest changes with it: what is approved is the request with its scan. Raises ReviewClosed,
    and ReviewStale when the request is for other bytes.
    """
    review = ledger.catalogue.review(review_id)
    row = _checked(review, ledger)
    if not _covers(review, source):
        raise ReviewStale(
            f"Review {review.id} is for version {review.source_version[:12]} of {review.source}, not for "
            f"{source.version[:12]}.",
            hint="Request a review of the newest version.",
        )
    _, instructions = step(facts_of(review), Scan(by, clock.now_s(), scan_digest))
    for instruction in instructions:
        assert isinstance(instruction, BindScan)
        review = replace(review, scan_digest=instruction.scan_digest, state=ReviewState.SCANNED)
        review = replace(review, request_digest=request_digest(review, row))
        detail = {
            "review": review.id,
            "request_digest": review.request_digest,
            "scan_digest": scan_digest,
        }
        with ledger.act(
            actor=by, action="review.scan", subject=f"source/{review.source}", detail=detail
        ) as catalogue:
            catalogue.put_review(review)
    return review


def decide_review(
    review_id: ReviewId,
    *,
    approve: bool,
    reason: str,
    decided_by: str,
    ledger: Ledger,
    backend: KeyBackend,
    clock: Clock,
    shown: str | None = None,
    recall: float | None = None,
) -> ReviewRecord:
    """Allow or refuse, signed by `decided_by`'s own key.

    `shown` is the digest of the request that the decider was shown; every face gives it, and another request
    is then never decided. `recall` is what `policy.gate.worst_recall` tells of the scan report the request
    names; terms that ask for a recall are not approved without it. Raises SelfReview, NotAReviewer,
    ReviewClosed, ReviewExpired, GateShut, OtherRequest, or ReviewTampered when the request's row was changed
    after it was made, LedgerUnusable when the audit log does not vouch for request or decider.
    """
    identity = ledger.catalogue.identity(decided_by)
    now_s, why = clock.now_s(), reason[:MAX_REASON_CHARACTERS]
    event: Event = (
        Approve(decided_by, identity.role, now_s, why, recall)
        if approve
        else Deny(decided_by, identity.role, now_s, why)
    )
    return _carry_out(review_id, event, identity, "review.decide", ledger, backend, shown)


def ask_changes(
    review_id: ReviewId,
    *,
    reason: str,
    decided_by: str,
    ledger: Ledger,
    backend: KeyBackend,
    clock: Clock,
    shown: str | None = None,
) -> ReviewRecord:
    """Say what has to change, signed; another request may answer. Raises as decide_review does."""
    identity = ledger.catalogue.identity(decided_by)
    event = AskChanges(decided_by, identity.role, clock.now_s(), reason[:MAX_REASON_CHARACTERS])
    return _carry_out(review_id, event, identity, "review.decide", ledger, backend, shown)


def revoke_review(
    review_id: ReviewId, *, reason: str, revoked_by: str, ledger: Ledger, backend: KeyBackend, clock: Clock
) -> ReviewRecord:
    """Take back an approval, or withdraw a request. Raises as decide_review does."""
    identity = ledger.catalogue.identity(revoked_by)
    event = Revoke(revoked_by, identity.role, clock.now_s(), reason[:MAX_REASON_CHARACTERS])
    return _carry_out(review_id, event, identity, "review.revoke", ledger, backend)


def _carry_out(
    review_id: ReviewId,
    event: Event,
    identity: IdentityRecord,
    action: str,
    ledger: Ledger,
    backend: KeyBackend,
    shown: str | None = None,
) -> ReviewRecord:
    review = ledger.catalogue.review(review_id)
    row = _checked(review, ledger)
    if shown is not None and shown != review.request_digest:
        raise OtherRequest(
            f"Review {review.id} is not the request that was shown: its digest is "
            f"{review.request_digest[:16]}…, not {shown[:16]!a}….",
            hint=f"Look at it again, then decide: stoker review show {review.id}",
        )
    if review.state not in UNDECIDED:
        _check_decision(review, row, ledger)
    _, instructions = step(facts_of(review, terms_in(row)), event)
    for instruction in instructions:
        assert isinstance(instruction, SignAndRecord)
        signer = identity_signer(backend, identity.name)
        if signer.public_key != identity.public_key:
            raise NotAReviewer(
                f"The key held here for {identity.name} is not the key that the ledger knows them by.",
                hint="Decide where that identity's key is kept.",
            )
        ledger.vouch(review, identity)
        decided = replace(
            review,
            state=instruction.verdict,
            decided_by=instruction.by,
            decided_s=instruction.at_s,
            reason=instruction.reason,
        )
        decided = replace(decided, decision_signature=signer.sign(decision_message(decided)))
        detail = {
            "review": review.id,
            "request_digest": review.request_digest,
            "verdict": decided.state.value,
            "message_sha256": hashlib.sha256(decision_message(decided)).hexdigest(),
        }
        with ledger.act(
            actor=identity.name, action=action, subject=f"source/{review.source}", detail=detail
        ) as catalogue:
            catalogue.put_review(decided)
        review = decided
    return review


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
    rows = {review.id: _checked(review, ledger) for review in reviews}
    exact = [review for review in reviews if _covers(review, source) and review.purpose == purpose]
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
    row = _checked(review, ledger)
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
        _check_decision(review, row, ledger)
    refusal = _refusal(review, clock.now_s())
    if refusal is None and (why := outside(terms_in(row), use)):
        return OutsideTerms(
            f"Review {review.id} of source {review.source} is in force, but not for this: {why}.",
            hint="Keep to its terms (stoker review show), or request a review on other terms.",
        )
    return refusal


def _covers(review: ReviewRecord, source: SourceRecord) -> bool:
    return review.source_version == source.version and review.manifest_root == source.manifest_root


def _checked(review: ReviewRecord, ledger: Ledger) -> ReviewTermsRecord | None:
    """The row of terms of a request, when both are the ones that were made."""
    row = ledger.catalogue.review_terms(review.id)
    _check_request(review, row)
    return row


def _check_request(review: ReviewRecord, row: ReviewTermsRecord | None) -> None:
    if fault := request_fault(review, row):
        raise _tampered(review, fault)


def _check_decision(review: ReviewRecord, row: ReviewTermsRecord | None, ledger: Ledger) -> None:
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
    same_bytes = [review for review in reviews if _covers(review, source)]
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
