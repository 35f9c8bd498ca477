"""Requests and decisions on a real ledger and key store, and every way they can fail to be in force."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from stoker.core.errors import BadName, StokerError
from stoker.core.ids import VersionId, new_version_id
from stoker.intake import errors
from stoker.intake.review import decide_review, request_review, revoke_review
from stoker.intake.review_gate import require_review, review_in_force, verify_decision
from stoker.intake.review_request import policy_digest, review_digest
from stoker.keys.identities import create_identity
from stoker.ledger.errors import LedgerUnusable, UnknownIdentity
from stoker.ledger.records import ReviewRecord, Role, SourceRecord
from stoker.spec.recipe import Kind, PolicySpec
from support.intake_home import IntakeHome, intake_home

DAY_S = 86_400.0


@pytest.fixture
def home(tmp_path: Path) -> Iterator[IntakeHome]:
    with intake_home(tmp_path / "home") as made:
        yield made


def add_source(home: IntakeHome, root: str = "ab" * 32) -> SourceRecord:
    version = new_version_id()
    record = SourceRecord(
        "diary", version, root, f"source/diary/{version}#1", 1, 10, {}, "asker", home.clock.now_s()
    )
    with home.ledger.act(
        actor="asker", action="source.import", subject="source/diary", detail={}
    ) as catalogue:
        catalogue.add_source(record)
    return record


def ask(home: IntakeHome, source: SourceRecord, purpose: str = "research") -> ReviewRecord:
    return request_review(
        source,
        "cd" * 32,
        PolicySpec(),
        purpose=purpose,
        requested_by="asker",
        valid_s=30 * DAY_S,
        ledger=home.ledger,
        clock=home.clock,
    )


def decide(
    home: IntakeHome, review: ReviewRecord, *, approve: bool = True, by: str = "decider"
) -> ReviewRecord:
    return decide_review(
        review.id,
        approve=approve,
        reason="read it",
        decided_by=by,
        ledger=home.ledger,
        backend=home.backend,
        clock=home.clock,
    )


def require(home: IntakeHome, source: SourceRecord, purpose: str = "research") -> ReviewRecord:
    return require_review(home.ledger, source, purpose, home.clock)


def tamper(home: IntakeHome, statement: str, *values: object) -> None:
    with sqlite3.connect(home.root / "ledger.db") as database:
        assert database.execute(statement, values).rowcount == 1


def test_a_decision_by_another_identity_is_in_force_and_signed(home: IntakeHome) -> None:
    source = add_source(home)
    review = ask(home, source)
    decided = decide(home, review)
    found = require(home, source)
    assert found == decided
    assert review_digest(found) == review_digest(review) == bytes.fromhex(review.request_digest)
    assert review_in_force(home.ledger, review.id, "research", home.clock) == decided
    terms = home.ledger.catalogue.review_terms(review.id)
    verify_decision(found, home.ledger.catalogue.identity("decider"), terms)
    actions = [entry.action for entry in home.ledger.audit.entries()]
    assert actions[-2:] == ["review.request", "review.decide"]


def test_the_same_identity_is_refused_and_nothing_is_recorded(home: IntakeHome) -> None:
    create_identity(
        "boss", Role.ADMIN, actor=None, ledger=home.ledger, backend=home.backend, clock=home.clock
    )
    source = add_source(home)
    review = request_review(
        source,
        "cd" * 32,
        PolicySpec(),
        purpose="research",
        requested_by="boss",
        valid_s=DAY_S,
        ledger=home.ledger,
        clock=home.clock,
    )
    size = home.ledger.audit.size
    with pytest.raises(errors.SelfReview):
        decide(home, review, by="boss")
    assert home.ledger.catalogue.review(review.id) == review
    assert home.ledger.audit.size == size


def test_deciding_takes_the_role(home: IntakeHome) -> None:
    create_identity(
        "peer", Role.RESEARCHER, actor=None, ledger=home.ledger, backend=home.backend, clock=home.clock
    )
    review = ask(home, add_source(home))
    with pytest.raises(errors.NotAReviewer):
        decide(home, review, by="peer")
    with pytest.raises(UnknownIdentity):
        decide(home, review, by="nobody")


def test_nothing_requested(home: IntakeHome) -> None:
    with pytest.raises(errors.ReviewMissing, match="diary"):
        require(home, add_source(home))


def test_not_decided_yet(home: IntakeHome) -> None:
    source = add_source(home)
    ask(home, source)
    with pytest.raises(errors.ReviewUndecided):
        require(home, source)


def test_denied(home: IntakeHome) -> None:
    source = add_source(home)
    decide(home, ask(home, source), approve=False)
    with pytest.raises(errors.ReviewDenied, match="read it"):
        require(home, source)


def test_revoked(home: IntakeHome) -> None:
    source = add_source(home)
    review = decide(home, ask(home, source))
    revoke_review(
        review.id,
        reason="a mistake",
        revoked_by="decider",
        ledger=home.ledger,
        backend=home.backend,
        clock=home.clock,
    )
    with pytest.raises(errors.ReviewRevoked, match="a mistake"):
        require(home, source)
    with pytest.raises(errors.ReviewClosed):
        decide(home, review)


def test_expired(home: IntakeHome) -> None:
    source = add_source(home)
    review = decide(home, ask(home, source))
    home.clock.advance(30 * DAY_S)
    with pytest.raises(errors.ReviewExpired, match=review.id):
        require(home, source)
    with pytest.raises(errors.ReviewExpired):
        review_in_force(home.ledger, review.id, "research", home.clock)


def test_for_another_purpose(home: IntakeHome) -> None:
    source = add_source(home)
    review = decide(home, ask(home, source))
    with pytest.raises(errors.OtherPurpose, match="research"):
        require(home, source, "advertising")
    with pytest.raises(errors.OtherPurpose):
        review_in_force(home.ledger, review.id, "advertising", home.clock)


def test_imported_again_since(home: IntakeHome) -> None:
    decide(home, ask(home, add_source(home)))
    with pytest.raises(errors.ReviewStale):
        require(home, add_source(home, "ef" * 32))


def test_same_version_with_another_root_is_not_covered(home: IntakeHome) -> None:
    source = add_source(home)
    decide(home, ask(home, source))
    with pytest.raises(errors.ReviewStale):
        require(home, replace(source, manifest_root="ef" * 32))


def test_a_newer_approval_serves_when_an_older_one_was_denied(home: IntakeHome) -> None:
    source = add_source(home)
    decide(home, ask(home, source), approve=False)
    approved = decide(home, ask(home, source))
    assert require(home, source) == approved


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("purpose", "advertising"),
        ("expires_s", 9e9),
        ("manifest_root", "ef" * 32),
        ("policy_digest", "00" * 32),
        ("scan_digest", "00" * 32),
        ("requested_by", "mallory"),
        ("request_digest", "00" * 32),
        ("reason", "looks fine"),
        ("decided_s", 1.7e9 + 5),
        ("decision_signature", b"\0" * 64),
    ],
)
def test_a_changed_row_is_noticed_whatever_was_changed(home: IntakeHome, column: str, value: object) -> None:
    source = add_source(home)
    review = decide(home, ask(home, source))
    tamper(home, f"UPDATE review SET {column} = ? WHERE id = ?", value, review.id)
    with pytest.raises(errors.ReviewTampered, match=review.id):
        require(home, source)


def test_a_denial_made_into_an_approval_is_noticed(home: IntakeHome) -> None:
    source = add_source(home)
    review = decide(home, ask(home, source), approve=False)
    tamper(home, "UPDATE review SET state = 'approved' WHERE id = ?", review.id)
    with pytest.raises(errors.ReviewTampered):
        require(home, source)


def test_an_approval_forged_without_a_signature_is_noticed(home: IntakeHome) -> None:
    source = add_source(home)
    review = ask(home, source)
    tamper(
        home,
        "UPDATE review SET state = 'approved', decided_by = 'decider', decided_s = requested_s WHERE id = ?",
        review.id,
    )
    with pytest.raises(errors.ReviewTampered):
        require(home, source)


def test_a_request_changed_before_its_decision_cannot_be_decided(home: IntakeHome) -> None:
    review = ask(home, add_source(home))
    tamper(home, "UPDATE review SET expires_s = 9e9 WHERE id = ?", review.id)
    with pytest.raises(errors.ReviewTampered):
        decide(home, review)


def test_a_decider_whose_key_is_another_is_refused(home: IntakeHome) -> None:
    source = add_source(home)
    decide(home, ask(home, source))
    tamper(home, "UPDATE identity SET public_key = ? WHERE name = 'decider'", b"\1" * 32)
    with pytest.raises(errors.ReviewTampered):
        require(home, source)
    with pytest.raises(errors.NotAReviewer, match="key"):
        decide(home, ask(home, source))


def test_a_revocation_undone_in_the_database_stays_revoked(home: IntakeHome) -> None:
    source = add_source(home)
    review = decide(home, ask(home, source))
    revoke_review(
        review.id,
        reason="wrong folder",
        revoked_by="decider",
        ledger=home.ledger,
        backend=home.backend,
        clock=home.clock,
    )
    tamper(
        home,
        "UPDATE review SET state = ?, decided_s = ?, reason = ?, decision_signature = ? WHERE id = ?",
        review.state.value,
        review.decided_s,
        review.reason,
        review.decision_signature,
        review.id,
    )
    catalogue = home.ledger.catalogue
    row, terms = catalogue.review(review.id), catalogue.review_terms(review.id)
    verify_decision(row, catalogue.identity("decider"), terms)
    with pytest.raises(LedgerUnusable, match=review.id):
        require(home, source)
    with pytest.raises(LedgerUnusable, match=review.id):
        review_in_force(home.ledger, review.id, "research", home.clock)


def test_a_role_that_was_raised_in_the_database_decides_nothing(home: IntakeHome) -> None:
    create_identity(
        "eve", Role.RESEARCHER, actor=None, ledger=home.ledger, backend=home.backend, clock=home.clock
    )
    source = add_source(home)
    review = ask(home, source)
    with pytest.raises(errors.NotAReviewer):
        decide(home, review, by="eve")
    tamper(home, "UPDATE identity SET role = 'admin' WHERE name = 'eve'")
    with pytest.raises(LedgerUnusable, match="identity 'eve'"):
        decide(home, review, by="eve")
    assert home.ledger.catalogue.review(review.id) == review


def test_a_purpose_is_a_name_and_a_time_lies_ahead(home: IntakeHome) -> None:
    source = add_source(home)
    with pytest.raises(BadName):
        ask(home, source, "../research")
    with pytest.raises(StokerError, match="expires"):
        request_review(
            source,
            "cd" * 32,
            PolicySpec(),
            purpose="research",
            requested_by="asker",
            valid_s=0.0,
            ledger=home.ledger,
            clock=home.clock,
        )


def test_a_policy_is_named_by_what_it_redacts_not_by_its_order() -> None:
    assert policy_digest(PolicySpec((Kind.IBAN, Kind.EMAIL))) == policy_digest(
        PolicySpec((Kind.EMAIL, Kind.IBAN))
    )
    assert policy_digest(PolicySpec((Kind.EMAIL,))) != policy_digest(PolicySpec())


def test_versions_are_told_apart(home: IntakeHome) -> None:
    source = add_source(home)
    decide(home, ask(home, source))
    with pytest.raises(errors.ReviewStale):
        require(home, replace(source, version=VersionId("0" * 32)))
