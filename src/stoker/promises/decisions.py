"""Promise 1: every use stands on a decision in force, by another person, bound to the exact bytes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from stoker.core.errors import StokerError
from stoker.intake.errors import SelfReview
from stoker.intake.review_gate import Use, outside, require_review, verify_decision
from stoker.intake.review_machine import UNDECIDED, Approve, ReviewFacts, step
from stoker.intake.review_request import review_digest, terms_in
from stoker.ledger.records import DatasetRecord, ReviewRecord, ReviewState, Role, RunRecord
from stoker.ledger.verification import CLOCK_TOLERANCE_S
from stoker.promises.acts import Acts, Verdict
from stoker.promises.house import OpenHouse
from stoker.promises.promise import Check, PromiseReport, judged

_NEVER_ASKED = "purpose-nobody-asked-for"


@dataclass(frozen=True, slots=True)
class _Use:
    """Reviewed bytes were used: by whom, when, under one of which reviews and terms."""

    what: str
    at_s: float
    source_root: str
    reviews: tuple[ReviewRecord, ...]
    allowing: Use


def check_decisions(house: OpenHouse, acts: Acts) -> PromiseReport:
    """Judge every dataset, run and lease, then try to get through the gate without a decision."""
    sources = house.ledger.catalogue.sources()
    if not sources:
        return judged(1, [], missing="No source has been imported, so there was no gate to try.")
    checks = [*_uses_and_bytes(house, acts), _self_review()]
    tried = "use of a source for a purpose that nobody asked for"
    try:
        require_review(house.ledger, sources[-1], _NEVER_ASKED, house.clock)
    except StokerError as refusal:
        checks.append(Check(tried, True, f"refused ({refusal.id})"))
    else:
        checks.append(Check(tried, False, "was allowed"))
    return judged(1, checks)


def _uses_and_bytes(house: OpenHouse, acts: Acts) -> list[Check]:
    datasets = house.ledger.catalogue.datasets()
    runs = house.ledger.catalogue.runs()
    if acts.damage or not (datasets or runs):
        return [*acts.readable(), *([_bound(house, datasets)] if datasets else [])]
    broken: list[str] = []
    uses = 0
    for what, found in [
        *((f"dataset {each.name} {each.version[:8]}", _preparation(house, each)) for each in datasets),
        *((f"run {each.id}", _training(house, each, acts)) for each in runs),
    ]:
        try:
            for use in found:
                uses += 1
                broken += [f"{use.what}: {why}" for why in _uncovered(house, acts, use)]
        except StokerError as error:
            broken.append(f"{what}: {error.message}")
    tried = f"decisions behind {uses} uses: signature, other person, same bytes, purpose, in force then"
    return [Check(tried, not broken, "; ".join(broken[:5]) or "all hold"), _bound(house, datasets)]


def _preparation(house: OpenHouse, record: DatasetRecord) -> Iterator[_Use]:
    review = house.ledger.catalogue.review(record.review)
    what = f"dataset {record.name} {record.version[:8]}"
    yield _Use(what, record.prepared_s, record.source_root, (review,), Use(recipe=record.recipe_digest))


def _training(house: OpenHouse, run: RunRecord, acts: Acts) -> Iterator[_Use]:
    """A run may stand on any review of the same bytes and policy for its purpose, anew at each lease.

    So for each dataset of a mixture.
    """
    roots = house.ledger.catalogue.roots_of_run(run)
    for root in roots:
        dataset = house.ledger.catalogue.dataset_of_root(root)
        own = house.ledger.catalogue.review(run.review if root == run.dataset_root else dataset.review)
        reviews = tuple(
            each
            for each in reversed(house.ledger.catalogue.reviews(dataset.source))
            if each.source_version == dataset.source_version
            and each.policy_digest == own.policy_digest
            and each.purpose == run.spec.get("purpose")
        )
        read = f"run {run.id}" if len(roots) == 1 else f"run {run.id}, part {dataset.name}"
        use = Use(recipe=dataset.recipe_digest, run=run.name)
        yield _Use(read, run.started_s, dataset.source_root, reviews, use)
        for lease in acts.leases.get(run.id, ()):
            what = f"{read}, attempt {lease.attempt}"
            yield _Use(what, lease.time_s, dataset.source_root, reviews, use)


def _uncovered(house: OpenHouse, acts: Acts, use: _Use) -> list[str]:
    """Why no review covered the use when it was made; nothing when one did."""
    reasons = []
    for review in use.reviews:
        why = _broken(house, review, use, acts.verdicts.get(review.id, ()))
        if why is None:
            return []
        reasons.append(why)
    return reasons[:1] or ["nobody was asked for leave for its purpose"]


def _broken(house: OpenHouse, review: ReviewRecord, use: _Use, verdicts: tuple[Verdict, ...]) -> str | None:
    """Why this review did not cover the use, by its signed row and by what the log says held then."""
    if review.state in UNDECIDED:
        return "nobody decided its review"
    terms = house.ledger.catalogue.review_terms(review.id)
    try:
        verify_decision(review, house.ledger.catalogue.identity(review.decided_by or ""), terms)
    except StokerError as error:
        return error.message
    if review.manifest_root != use.source_root:
        return "its review is of other bytes"
    until_then = [each for each in verdicts if each.time_s <= use.at_s + CLOCK_TOLERANCE_S]
    if not until_then:
        return "the log holds no decision from before it"
    last = until_then[-1]
    if last.by == review.requested_by and last.word == ReviewState.APPROVED:
        return "requester and decider are one person"
    if last.request_digest != review.request_digest:
        return "the decision in the log is on another request than its review"
    if last.word != ReviewState.APPROVED:
        return f"its review was {last.word} at that time"
    if use.at_s >= review.expires_s:
        return "its review had expired at that time"
    if why := outside(terms_in(terms), use.allowing):
        return f"it lies outside the terms of its review: {why}"
    return None


def _bound(house: OpenHouse, datasets: tuple[DatasetRecord, ...]) -> Check:
    """What the signed manifest of each dataset says it was made from, against what the ledger says."""
    wrong, gone = [], 0
    roots = {(each.name, each.version): each.manifest_root for each in house.ledger.catalogue.sources()}
    for record in datasets:
        thing = house.sealed_dataset(record)
        try:
            block = house.manifest(thing).superblock
            digest = review_digest(house.ledger.catalogue.review(record.review))
        except StokerError as error:
            gone += house.is_lost(thing)
            wrong += [] if house.is_lost(thing) else [f"{thing.what}: {error.message}"]
            continue
        source_root = roots.get((record.source, record.source_version))
        if not block.source_root == record.source_root == source_root:
            wrong.append(f"{thing.what} was made from other bytes than its source's")
        if block.review_digest != digest:
            wrong.append(f"{thing.what} was sealed under another review than {record.review}")
    seen = "the same source and review as in the ledger" + (f"; {gone} are gone" if gone else "")
    return Check(f"the signed manifests of {len(datasets)} datasets", not wrong, "; ".join(wrong[:5]) or seen)


def _self_review() -> Check:
    facts = ReviewFacts(ReviewState.REQUESTED, "alice", 0.0, 100.0, None, None)
    try:
        step(facts, Approve("alice", Role.ADMIN, 1.0, ""))
    except SelfReview as refusal:
        return Check("approval by the requester, an admin", True, f"refused ({refusal.id})")
    return Check("approval by the requester, an admin", False, "was allowed")
