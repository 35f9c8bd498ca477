"""Requests and decisions: who asks for the use of a source, and who allows it.

A decision is one identity's Ed25519 signature over another's request, which is bound to the digests of the
source's bytes, the scan report and the policy. See docs/design/intake.md, "Review".
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Final

from stoker.core.canonical import JsonValue
from stoker.core.clock import Clock
from stoker.core.errors import ConfigError
from stoker.core.ids import ReviewId, check_name, new_review_id
from stoker.intake.errors import (
    NotAReviewer,
    OtherRequest,
    ReviewClosed,
    ReviewExpired,
    ReviewStale,
)
from stoker.intake.review_gate import check_decision, checked_terms, covers, facts_of
from stoker.intake.review_machine import (
    UNDECIDED,
    Approve,
    AskChanges,
    BindScan,
    Deny,
    Event,
    Revoke,
    Scan,
    SignAndRecord,
    problems,
    step,
)
from stoker.intake.review_request import decision_message, policy_digest, request_digest, terms_in, terms_row
from stoker.keys.backend import KeyBackend
from stoker.keys.identities import identity_signer
from stoker.ledger.ledger import Ledger
from stoker.ledger.records import (
    IdentityRecord,
    ReviewRecord,
    ReviewState,
    SourceRecord,
)
from stoker.spec.policy import PolicySpec
from stoker.spec.terms import NO_TERMS, ReviewTerms

MAX_REASON_CHARACTERS: Final = 2000


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
    row = checked_terms(review, ledger)
    if not covers(review, source):
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
    row = checked_terms(review, ledger)
    if shown is not None and shown != review.request_digest:
        raise OtherRequest(
            f"Review {review.id} is not the request that was shown: its digest is "
            f"{review.request_digest[:16]}…, not {shown[:16]!a}….",
            hint=f"Look at it again, then decide: stoker review show {review.id}",
        )
    if review.state not in UNDECIDED:
        check_decision(review, row, ledger)
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
