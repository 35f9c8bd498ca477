"""Promise 1 broken on purpose: uses without a decision in force, by another person, on the exact bytes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stoker.core.canonical import canonical_json
from stoker.intake.review import decide_review, request_review, revoke_review
from stoker.intake.review_request import decision_message, request_digest
from stoker.keys.identities import identity_signer
from stoker.ledger.records import ReviewRecord, ReviewState
from stoker.spec.terms import ReviewTerms
from support.ledger_samples import tamper
from support.promise_home import DAY_S, RECIPE, PromiseHome, broken, failures, open_promise_home


def rewrite(house: PromiseHome, review: ReviewRecord, **changes: Any) -> None:
    """Put a whole review in the place of another: its own digest, signed with the decider's true key.

    Only someone who has the ledger's file and every key of the house can do this.
    """
    forged = replace(review, **changes)
    forged = replace(
        forged, request_digest=request_digest(forged, house.ledger.catalogue.review_terms(review.id))
    )
    signer = identity_signer(house.backend, forged.decided_by or "")
    row = (
        forged.requested_s,
        forged.expires_s,
        forged.request_digest,
        forged.decided_by,
        signer.sign(decision_message(forged)),
        review.id,
    )
    tamper(
        house.home.root,
        (
            "UPDATE review SET requested_s = ?, expires_s = ?, request_digest = ?, decided_by = ?, "
            "decision_signature = ? WHERE id = ?",
            row,
        ),
    )


def expire_before_use(house: PromiseHome) -> None:
    prepared_s = house.dataset.prepared_s
    rewrite(house, house.review, expires_s=prepared_s - 0.001, requested_s=prepared_s - DAY_S)


BREAKS: dict[str, tuple[str | Callable[[PromiseHome], None], str]] = {
    "decided by the requester": (
        "UPDATE review SET decided_by = 'asker'",
        "requester and decider are the same identity",
    ),
    "decided by the requester, truly signed": (
        lambda house: rewrite(house, house.review, decided_by="asker"),
        "requester and decider are the same identity",
    ),
    "decided by somebody who did not sign": (
        "UPDATE review SET decided_by = 'third'",
        "third",
    ),
    "a forged signature": (
        "UPDATE review SET decision_signature = zeroblob(64)",
        "decider did not sign what it says",
    ),
    "the signature taken away": (
        "UPDATE review SET decision_signature = NULL",
        "no signature by its decider",
    ),
    "another verdict": ("UPDATE review SET state = 'denied'", "did not sign what it says"),
    "never decided": (
        "UPDATE review SET state = 'requested', decided_by = NULL, decided_s = NULL, "
        "decision_signature = NULL",
        "nobody decided its review",
    ),
    "a review of other bytes": (
        f"UPDATE review SET manifest_root = '{'1' * 64}'",
        "do not hash to its request digest",
    ),
    "a dataset of other bytes": (
        f"UPDATE dataset SET source_root = '{'1' * 64}'",
        "its review is of other bytes",
    ),
    "a longer time than was asked for": (
        "UPDATE review SET expires_s = expires_s + 1000000",
        "do not hash to its request digest",
    ),
    "expired when it was used": (expire_before_use, "another request than its review"),
    "a longer time, truly signed": (
        lambda house: rewrite(house, house.review, expires_s=house.review.expires_s + 1e7),
        "the decision in the log is on another request than its review",
    ),
    "used before anybody decided": (
        "UPDATE dataset SET prepared_s = prepared_s - 1000",
        "the log holds no decision from before it",
    ),
    "used after it expired": (
        "UPDATE dataset SET prepared_s = prepared_s + 100 * 86400.0",
        "its review had expired at that time",
    ),
    "a source that is not recorded": (
        f"UPDATE source SET manifest_root = '{'1' * 64}'",
        "was made from other bytes than its source's",
    ),
}


@pytest.mark.parametrize("name", BREAKS)
def test_a_use_that_no_decision_covers_is_named(name: str, house: PromiseHome) -> None:
    change, why = BREAKS[name]
    dataset = f"dataset text {house.dataset.version[:8]}"
    if isinstance(change, str):
        tamper(house.home.root, change)
    else:
        change(house)
    report = house.verify(1, 8)
    assert {1, 8} <= broken(report)
    (check,) = failures(report, 1)[:1]
    assert dataset in check.seen
    assert why in check.seen


def approve_within(house: PromiseHome, terms: ReviewTerms) -> ReviewRecord:
    """A second review of the same bytes and policy, for the same purpose, approved within `terms`."""
    asked = request_review(
        house.source,
        house.review.scan_digest,
        RECIPE.policy,
        purpose=house.review.purpose,
        requested_by="asker",
        valid_s=60 * DAY_S,
        ledger=house.ledger,
        clock=house.clock,
        terms=terms,
    )
    return decide_review(
        asked.id,
        approve=True,
        reason="within these",
        decided_by="decider",
        ledger=house.ledger,
        backend=house.backend,
        clock=house.clock,
    )


def test_a_dataset_outside_the_terms_of_its_review_is_named(house: PromiseHome) -> None:
    second = approve_within(house, ReviewTerms(recipes=("ab" * 32,)))
    tamper(
        house.home.root,
        ("UPDATE dataset SET review = ?, prepared_s = ?", (second.id, house.clock.now_s() + 5)),
    )
    seen = " ".join(check.seen for check in failures(house.verify(1, 8), 1))
    assert "it lies outside the terms of its review: they name 1 recipes" in seen


def test_keys_leased_to_a_run_outside_the_terms_are_named(house: PromiseHome) -> None:
    """The first review is revoked; the second, which is in force, names another run."""
    approve_within(house, ReviewTerms(runs=("nightly",)))
    revoke_review(
        house.review.id,
        reason="narrower from now on",
        revoked_by="decider",
        ledger=house.ledger,
        backend=house.backend,
        clock=house.clock,
    )
    detail = {"attempt": 3, "resume_step": 6, "may_open": [], "may_seal": []}
    with open_later(house, 60.0) as later:
        with later.ledger.act(
            actor="asker", action="run.lease", subject=f"run/{house.run.id}", detail=detail
        ):
            pass
        (check,) = failures(later.verify(1), 1)
    assert f"run {house.run.id}, attempt 3: it lies outside the terms of its review" in check.seen
    assert "they name the runs nightly" in check.seen


def test_a_run_for_another_purpose_than_was_reviewed_is_named(house: PromiseHome) -> None:
    spec = canonical_json({**house.run.spec, "purpose": "advertising"}).decode()
    tamper(house.home.root, ("UPDATE run SET spec = ?", (spec,)))
    (check,) = failures(house.verify(1, 8), 1)
    assert f"run {house.run.id}: nobody was asked for leave for its purpose" in check.seen


def test_an_approval_that_only_the_table_knows_of_is_named(house: PromiseHome) -> None:
    """A request is turned into an approval behind the log, with the decider's stolen key."""
    second = house.approve(house.source, "advertising")
    tamper(
        house.home.root,
        ("DELETE FROM audit_entry WHERE action = 'review.decide' AND detail LIKE ?", (f"%{second.id}%",)),
        ("UPDATE dataset SET review = ?", (second.id,)),
    )
    report = house.verify(1, 8)
    assert {1, 8} <= broken(report)
    assert "of the audit log is missing" in failures(report, 1)[0].seen


def test_a_dataset_under_another_review_than_it_was_sealed_under_is_named(house: PromiseHome) -> None:
    second = house.approve(house.source, "advertising")
    tamper(
        house.home.root,
        ("UPDATE dataset SET review = ?, prepared_s = ?", (second.id, house.clock.now_s() + 5)),
    )
    report = house.verify(1, 8)
    names = [check.tried for check in failures(report, 1)]
    assert "the signed manifests of 1 datasets" in names
    assert any(f"another review than {second.id}" in check.seen for check in failures(report, 1))


def test_keys_leased_after_the_review_was_revoked_are_named(house: PromiseHome) -> None:
    revoke_review(
        house.review.id,
        reason="no longer",
        revoked_by="decider",
        ledger=house.ledger,
        backend=house.backend,
        clock=house.clock,
    )
    assert 1 not in broken(house.verify(1, 8)), "what was used before the revocation was covered"
    detail = {"attempt": 3, "resume_step": 6, "may_open": [], "may_seal": []}
    with open_later(house, 60.0) as later:
        with later.ledger.act(
            actor="asker", action="run.lease", subject=f"run/{house.run.id}", detail=detail
        ):
            pass
        report = later.verify(1)
    (check,) = failures(report, 1)
    assert check.seen == f"run {house.run.id}, attempt 3: its review was {ReviewState.REVOKED} at that time"


def test_a_request_that_its_author_withdraws_later_does_not_spoil_earlier_uses(house: PromiseHome) -> None:
    revoke_review(
        house.review.id,
        reason="done with it",
        revoked_by="asker",
        ledger=house.ledger,
        backend=house.backend,
        clock=house.clock,
    )
    assert broken(house.verify()) == set()


def test_a_run_under_a_newer_review_of_the_same_bytes_is_covered(house: PromiseHome) -> None:
    """The dataset's own review is revoked; a second one lets training go on."""
    house.approve(house.source)
    revoke_review(
        house.review.id,
        reason="replaced",
        revoked_by="decider",
        ledger=house.ledger,
        backend=house.backend,
        clock=house.clock,
    )
    with open_later(house, 60.0) as later:
        detail = {"attempt": 3, "resume_step": 6, "may_open": [], "may_seal": []}
        with later.ledger.act(
            actor="asker", action="run.lease", subject=f"run/{house.run.id}", detail=detail
        ):
            pass
        assert 1 not in broken(later.verify(1))


def open_later(house: PromiseHome, seconds: float) -> Any:
    from stoker.core.clock import ManualClock

    place: Path = house.home.root.parent
    return open_promise_home(place, ManualClock(house.clock.now_s() + seconds))
