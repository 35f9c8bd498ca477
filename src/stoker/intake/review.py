"""Requests, decisions and whether one is in force: the gate before every use of a source.

A decision is one identity's Ed25519 signature over another's request, which is bound to the digests of the
source's bytes, the scan report and the policy. See docs/design/intake.md, "Review".
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Final

from stoker.core.canonical import JsonValue, canonical_json, digest_of
from stoker.core.clock import Clock, iso_utc
from stoker.core.errors import BadSignature, StokerError
from stoker.core.ids import ReviewId, check_name, new_review_id
from stoker.core.result import plain
from stoker.core.signing import verify_signature
from stoker.intake.errors import (
    NotAReviewer,
    OtherPurpose,
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
    Approve,
    Deny,
    Event,
    ReviewFacts,
    Revoke,
    Standing,
    problems,
    standing,
    step,
)
from stoker.keys.backend import KeyBackend
from stoker.keys.identities import identity_signer
from stoker.ledger.ledger import Ledger
from stoker.ledger.records import IdentityRecord, ReviewRecord, ReviewState, SourceRecord
from stoker.spec.policy import PolicySpec, policy_table

REQUEST_FORMAT: Final = "stoker review request 1"
DECISION_FORMAT: Final = "stoker review decision 1"
MAX_REASON_CHARACTERS: Final = 2000


def policy_digest(policy: PolicySpec) -> str:
    """Names a policy by what it does to each kind, in whatever words it is written; 64 hex digits."""
    return digest_of(policy_table(policy))


def request_digest(review: ReviewRecord) -> str:
    """What the request's own fields hash to; a row whose `request_digest` differs was changed."""
    fields = plain(
        {
            "format": REQUEST_FORMAT,
            "id": review.id,
            "source": review.source,
            "source_version": review.source_version,
            "manifest_root": review.manifest_root,
            "scan_digest": review.scan_digest,
            "policy_digest": review.policy_digest,
            "purpose": review.purpose,
            "requested_by": review.requested_by,
            "requested_s": review.requested_s,
            "expires_s": review.expires_s,
        }
    )
    return digest_of(fields)


def review_digest(review: ReviewRecord) -> bytes:
    """32 bytes for stream headers: they bind sealed data to this request, whatever becomes of it later."""
    return bytes.fromhex(review.request_digest)


def decision_message(review: ReviewRecord) -> bytes:
    """What the decider signs: the request's digest and the verdict with its author, time and reason."""
    return canonical_json(
        {
            "format": DECISION_FORMAT,
            "id": review.id,
            "request_digest": review.request_digest,
            "verdict": review.state.value,
            "decided_by": review.decided_by,
            "decided_s": review.decided_s,
            "reason": review.reason,
        }
    )


def facts_of(review: ReviewRecord) -> ReviewFacts:
    """The part of the record that the state machine judges."""
    return ReviewFacts(
        review.state,
        review.requested_by,
        review.requested_s,
        review.expires_s,
        review.decided_by,
        review.decided_s,
    )


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
) -> ReviewRecord:
    """Ask for leave to use `source` for `purpose` for `valid_s` seconds from now.

    `scan_digest` names the scan report that the reviewer will judge by. Raises BadName for a purpose that is
    no name, UnknownIdentity for a requester who is none.
    """
    check_name(purpose, "purpose")
    ledger.catalogue.identity(requested_by)
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
        state=ReviewState.REQUESTED,
        decided_by=None,
        decided_s=None,
        reason=None,
        decision_signature=None,
    )
    review = replace(review, request_digest=request_digest(review))
    wrong = problems(facts_of(review))
    if wrong:
        raise ReviewExpired(
            f"The review would not be valid: {wrong[0]}.", hint="Ask for a time that is still to come."
        )
    detail: dict[str, JsonValue] = {
        "review": review.id,
        "request_digest": review.request_digest,
        "purpose": purpose,
        "expires_s": review.expires_s,
    }
    with ledger.act(
        actor=requested_by, action="review.request", subject=f"source/{source.name}", detail=detail
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
) -> ReviewRecord:
    """Allow or refuse, signed by `decided_by`'s own key.

    Raises SelfReview, NotAReviewer, ReviewClosed, ReviewExpired, or ReviewTampered when the request's row was
    changed after it was made, LedgerUnusable when the audit log does not vouch for request or decider.
    """
    identity = ledger.catalogue.identity(decided_by)
    make = Approve if approve else Deny
    event = make(decided_by, identity.role, clock.now_s(), reason[:MAX_REASON_CHARACTERS])
    return _carry_out(review_id, event, identity, "review.decide", ledger, backend)


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
) -> ReviewRecord:
    review = ledger.catalogue.review(review_id)
    _check_request(review)
    if review.state is not ReviewState.REQUESTED:
        _check_decision(review, ledger)
    _, instructions = step(facts_of(review), event)
    for instruction in instructions:
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


def verify_decision(review: ReviewRecord, identity: IdentityRecord) -> None:
    """Raise ReviewTampered unless the row is whole and `identity` signed exactly this decision.

    Raises NotAReviewer when an approval is by an identity whose role does not decide.
    """
    _check_request(review)
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


def require_review(ledger: Ledger, source: SourceRecord, purpose: str, clock: Clock) -> ReviewRecord:
    """The review that permits using exactly these bytes for `purpose` now; the newest when several do.

    Raises ReviewMissing, ReviewUndecided, ReviewDenied, ReviewRevoked, ReviewExpired, ReviewStale (other
    bytes), OtherPurpose, ReviewTampered, or LedgerUnusable when a row is not what the audit log says. Every
    signature is checked each time.
    """
    reviews = tuple(reversed(ledger.catalogue.reviews(source.name)))
    for review in reviews:
        _check_request(review)
    exact = [review for review in reviews if _covers(review, source) and review.purpose == purpose]
    refusals = []
    for review in exact:
        if review.state is not ReviewState.REQUESTED:
            _check_decision(review, ledger)
        refusal = _refusal(review, clock.now_s())
        if refusal is None:
            return review
        refusals.append(refusal)
    if refusals:
        raise refusals[0]
    raise _uncovered(source, purpose, reviews)


def review_in_force(ledger: Ledger, review_id: ReviewId, purpose: str, clock: Clock) -> ReviewRecord:
    """The review of that id when it is in force for `purpose` now: for what was prepared under it.

    Raises as require_review does, and UnknownReview.
    """
    review = ledger.catalogue.review(review_id)
    _check_request(review)
    if review.purpose != purpose:
        raise _other_purpose(review.source, purpose, [review])
    if review.state is not ReviewState.REQUESTED:
        _check_decision(review, ledger)
    refusal = _refusal(review, clock.now_s())
    if refusal is not None:
        raise refusal
    return review


def _covers(review: ReviewRecord, source: SourceRecord) -> bool:
    return review.source_version == source.version and review.manifest_root == source.manifest_root


def _check_request(review: ReviewRecord) -> None:
    if review.request_digest != request_digest(review):
        raise _tampered(review, "its fields do not hash to its request digest")


def _check_decision(review: ReviewRecord, ledger: Ledger) -> None:
    if review.decided_by is None:
        raise _tampered(review, "it is decided but names no decider")
    decider = ledger.catalogue.identity(review.decided_by)
    verify_decision(review, decider)
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
