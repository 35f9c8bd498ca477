"""Promise 1: every use stands on a decision in force, by another person, bound to the exact bytes."""

from __future__ import annotations

from stoker.core.errors import StokerError
from stoker.core.ids import ReviewId
from stoker.intake.errors import SelfReview
from stoker.intake.review import require_review, verify_decision
from stoker.intake.review_machine import Approve, ReviewFacts, step
from stoker.ledger.records import ReviewState, Role
from stoker.promises.house import OpenHouse
from stoker.promises.promise import Check, PromiseReport, judged

_NEVER_ASKED = "purpose-nobody-asked-for"


def check_decisions(house: OpenHouse) -> PromiseReport:
    """Judge every dataset and run in the ledger, then try to get through the gate without a decision."""
    checks = _uses(house)
    checks.append(_self_review())
    sources = house.ledger.catalogue.sources()
    if not sources:
        return judged(1, [], missing="No source has been imported, so there was no gate to try.")
    try:
        require_review(house.ledger, sources[-1], _NEVER_ASKED, house.clock)
    except StokerError as refusal:
        checks.append(
            Check("use of a source for a purpose that nobody asked for", True, f"refused ({refusal.id})")
        )
    else:
        checks.append(Check("use of a source for a purpose that nobody asked for", False, "was allowed"))
    return judged(1, checks)


def _uses(house: OpenHouse) -> list[Check]:
    catalogue = house.ledger.catalogue
    uses = [
        (f"dataset {each.name} {each.version[:8]}", each.review, each.source_root, each.prepared_s)
        for each in catalogue.datasets()
    ]
    for run in catalogue.runs():
        dataset = catalogue.dataset_of_root(run.dataset_root)
        uses.append((f"run {run.id}", run.review, dataset.source_root, run.started_s))
    broken = [
        f"{what}: {why}"
        for what, review, root, used_s in uses
        if (why := _broken(house, review, root, used_s))
    ]
    tried = f"decisions behind {len(uses)} uses: signature, other person, same bytes, in force then"
    if not uses:
        return []
    return [Check(tried, not broken, "; ".join(broken) or "all hold")]


def _broken(house: OpenHouse, review_id: ReviewId, source_root: str, used_s: float) -> str | None:
    """Why the use at `used_s` was not covered, or None."""
    try:
        review = house.ledger.catalogue.review(review_id)
        verify_decision(review, house.ledger.catalogue.identity(review.decided_by or ""))
    except StokerError as error:
        return error.message
    if review.state not in (ReviewState.APPROVED, ReviewState.REVOKED):
        return f"its review is {review.state}"
    if review.decided_by == review.requested_by:
        return "requester and decider are one person"
    if review.manifest_root != source_root:
        return "its review is of other bytes"
    revoked = review.state is ReviewState.REVOKED and (review.decided_s or 0) < used_s
    decided_late = review.state is ReviewState.APPROVED and (review.decided_s or 0) > used_s
    if revoked or decided_late or used_s >= review.expires_s:
        return "its review was not in force at that time"
    return None


def _self_review() -> Check:
    facts = ReviewFacts(ReviewState.REQUESTED, "alice", 0.0, 100.0, None, None)
    try:
        step(facts, Approve("alice", Role.ADMIN, 1.0, ""))
    except SelfReview as refusal:
        return Check("approval by the requester, an admin", True, f"refused ({refusal.id})")
    return Check("approval by the requester, an admin", False, "was allowed")
