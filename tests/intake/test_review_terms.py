"""Terms of an approval on a real house: what they bound, who cannot change them, and what is approved."""

from __future__ import annotations

import dataclasses
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stoker.core.canonical import JsonValue
from stoker.core.errors import ConfigError
from stoker.core.ids import ReviewId
from stoker.fleet.errands import require_leave
from stoker.intake import errors
from stoker.intake.policy.gate import worst_recall
from stoker.intake.prepare import recipe_digest
from stoker.intake.proportion import share
from stoker.intake.review import ask_changes, bind_scan, decide_review, request_review, revoke_review
from stoker.intake.review_gate import Use, require_review, terms_of
from stoker.intake.review_request import answers_in, policy_in, terms_in
from stoker.ledger.records import ReviewRecord, ReviewState, ReviewTermsRecord
from stoker.spec.kinds import Kind
from stoker.spec.policy import Treatment
from stoker.spec.recipe import PolicySpec
from stoker.spec.terms import NO_TERMS, Protection, ReviewTerms, at_least
from support.intake_home import IntakeHome, intake_home
from support.letters import LETTERS, approve_letters, prepare_letters, write_letters

DAY_S = 86_400.0
RECIPE = dataclasses.replace(LETTERS, policy=PolicySpec((Kind.EMAIL,)))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with the source `letters`, whose first review is revoked: only what a test asks for counts."""
    root = tmp_path_factory.mktemp("base")
    write_letters(root / "letters")
    with intake_home(root / "home") as made:
        approve_letters(made, root / "letters", RECIPE)
        (first,) = made.ledger.catalogue.reviews()
        revoke(made, first.id)
    return root / "home"


@pytest.fixture
def home(tmp_path: Path, base: Path) -> Iterator[IntakeHome]:
    """A copy of it."""
    with intake_home(shutil.copytree(base, tmp_path / "home")) as made:
        yield made


def ask(home: IntakeHome, terms: ReviewTerms = NO_TERMS, **more: Any) -> ReviewRecord:
    return request_review(
        home.ledger.catalogue.latest_source("letters"),
        more.pop("scan_digest", "cd" * 32),
        more.pop("policy", RECIPE.policy),
        purpose="research",
        requested_by="asker",
        valid_s=30 * DAY_S,
        ledger=home.ledger,
        clock=home.clock,
        terms=terms,
        **more,
    )


def approve(home: IntakeHome, review: ReviewRecord, **more: Any) -> ReviewRecord:
    return decide_review(
        review.id,
        approve=True,
        reason="read it",
        decided_by="decider",
        ledger=home.ledger,
        backend=home.backend,
        clock=home.clock,
        **more,
    )


def revoke(home: IntakeHome, review: ReviewId) -> None:
    revoke_review(
        review,
        reason="no longer",
        revoked_by="decider",
        ledger=home.ledger,
        backend=home.backend,
        clock=home.clock,
    )


def test_terms_and_policy_are_part_of_what_is_approved(home: IntakeHome) -> None:
    terms = ReviewTerms(("ab" * 32,), ("nightly",), Protection.TLS, 0.0)
    policy = PolicySpec((Kind.EMAIL,), {Kind.CARD: Treatment.REMOVE})
    review = approve(home, ask(home, terms, policy=policy))
    row = home.ledger.catalogue.review_terms(review.id)
    assert terms_of(home.ledger, review) == terms
    assert policy_in(row) == {"email": "mask", "card": "remove"}
    assert answers_in(row) == ""


@pytest.mark.parametrize(
    "statement",
    [
        """UPDATE review_terms SET terms = replace(terms, '"nightly"', '"another"')""",
        """UPDATE review_terms SET terms = replace(terms, '"tls"', '"none"')""",
        """UPDATE review_terms SET terms = replace(terms, '"email"', '"phone"')""",
        "DELETE FROM review_terms",
    ],
)
def test_terms_that_were_changed_or_taken_away_let_nothing_through(home: IntakeHome, statement: str) -> None:
    review = approve(home, ask(home, ReviewTerms((), ("nightly",), Protection.TLS, 0.0)))
    with sqlite3.connect(home.root / "ledger.db") as database:
        assert database.execute(statement + " WHERE review = ?", (review.id,)).rowcount == 1
    source = home.ledger.catalogue.latest_source("letters")
    with pytest.raises(errors.ReviewTampered, match=review.id):
        require_review(home.ledger, source, "research", home.clock)
    with pytest.raises(errors.ReviewTampered):
        terms_of(home.ledger, review)


def test_only_the_named_recipe_prepares(home: IntakeHome) -> None:
    approve(home, ask(home, ReviewTerms(recipes=(recipe_digest(RECIPE),))))
    other = dataclasses.replace(RECIPE, seed=7)
    with pytest.raises(errors.OutsideTerms, match="they name 1 recipes"):
        prepare_letters(home, other)
    assert home.objects("datasets") == set()
    assert prepare_letters(home, RECIPE).record.recipe_digest == recipe_digest(RECIPE)


def test_only_the_named_run_reads_and_another_review_may_allow_more(home: IntakeHome) -> None:
    first = approve(home, ask(home, ReviewTerms(runs=("nightly",))))
    record = prepare_letters(home, RECIPE).record

    def leave(run: str) -> str:
        ((_, review),) = require_leave(home.ledger, [record], "research", home.clock, run=run)
        return review.id

    assert leave("nightly") == first.id
    with pytest.raises(errors.OutsideTerms, match="they name the runs nightly"):
        leave("another")
    wider = approve(home, ask(home, ReviewTerms(runs=("another", "third"))))
    assert (leave("another"), leave("nightly")) == (wider.id, first.id)


def test_a_revocation_refuses_the_very_next_renewal(home: IntakeHome) -> None:
    review = approve(home, ask(home))
    record = prepare_letters(home, RECIPE).record
    require_leave(home.ledger, [record], "research", home.clock, run="nightly")
    revoke(home, review.id)
    with pytest.raises(errors.ReviewRevoked):
        require_leave(home.ledger, [record], "research", home.clock, run="nightly")


def test_approving_is_on_exactly_the_request_that_was_shown(home: IntakeHome) -> None:
    first, second = ask(home), ask(home)
    with pytest.raises(errors.OtherRequest, match="not the request that was shown"):
        approve(home, second, shown=first.request_digest)
    assert home.ledger.catalogue.review(second.id).state is ReviewState.SCANNED
    assert approve(home, second, shown=second.request_digest).state is ReviewState.APPROVED


def test_a_scan_bound_after_the_request_was_shown_makes_it_another_request(home: IntakeHome) -> None:
    asked = ask(home, scan_digest="")
    assert asked.state is ReviewState.REQUESTED
    with pytest.raises(errors.GateShut, match="not scanned"):
        approve(home, asked)
    source = home.ledger.catalogue.latest_source("letters")
    bound = bind_scan(asked.id, "ef" * 32, source=source, by="asker", ledger=home.ledger, clock=home.clock)
    assert (bound.state, bound.scan_digest) == (ReviewState.SCANNED, "ef" * 32)
    with pytest.raises(errors.OtherRequest):
        approve(home, asked, shown=asked.request_digest)
    assert approve(home, asked, shown=bound.request_digest).state is ReviewState.APPROVED
    with pytest.raises(errors.ReviewClosed):
        bind_scan(asked.id, "ab" * 32, source=source, by="asker", ledger=home.ledger, clock=home.clock)


def test_changes_asked_for_are_answered_by_another_request(home: IntakeHome) -> None:
    first = ask(home)
    with pytest.raises(errors.ReviewClosed, match="cannot answer"):
        ask(home, answers=first.id)
    asked = ask_changes(
        first.id,
        reason="mask the cards",
        decided_by="decider",
        ledger=home.ledger,
        backend=home.backend,
        clock=home.clock,
    )
    assert asked.state is ReviewState.CHANGES_ASKED
    with pytest.raises(errors.ChangesAsked, match="mask the cards") as refused:
        prepare_letters(home, RECIPE)
    assert f"--answers {first.id}" in refused.value.hint
    second = ask(home, answers=first.id)
    assert answers_in(home.ledger.catalogue.review_terms(second.id)) == first.id
    approve(home, second)
    assert not prepare_letters(home, RECIPE).found


def test_below_the_recall_of_its_terms_nothing_is_approved(home: IntakeHome) -> None:
    review = ask(home, ReviewTerms(least_recall=0.9))
    recall = {"email": share(960, 1000), "card": share(10, 1000)}
    policy = policy_in(home.ledger.catalogue.review_terms(review.id))
    worst = worst_recall(recall, policy)
    assert worst == recall["email"].low > 0.9, "cards are not treated, so their recall does not matter"
    for low in (None, worst_recall(recall, ["email", "card"]), worst_recall(recall, ["phone"])):
        with pytest.raises(errors.GateShut):
            approve(home, review, recall=low)
    assert worst_recall({}, ["email"]) is None
    assert approve(home, review, recall=worst).state is ReviewState.APPROVED


@pytest.mark.parametrize(
    ("terms", "why"),
    [
        (ReviewTerms(recipes=("short",)), "64 hex digits"),
        (ReviewTerms(runs=("../up",)), "no name of a run"),
        (ReviewTerms(runs=("a", "a")), "more than once"),
        (ReviewTerms(least_recall=1.5), "between 0 and 1"),
        (ReviewTerms(recipes=tuple(f"{n:064x}" for n in range(257))), "at most 256"),
    ],
)
def test_terms_that_do_not_hold_are_refused(home: IntakeHome, terms: ReviewTerms, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        ask(home, terms)


def test_protection_rises_from_none_to_loopback() -> None:
    assert [each.value for each in Protection] == ["none", "isolated_fabric", "tls", "loopback"]
    assert at_least(Protection.LOOPBACK, Protection.TLS)
    assert at_least(Protection.TLS, Protection.TLS)
    assert not at_least(Protection.ISOLATED_FABRIC, Protection.TLS)


def test_what_a_use_leaves_open_no_term_bounds(home: IntakeHome) -> None:
    approve(home, ask(home, ReviewTerms(("ab" * 32,), ("nightly",))))
    source = home.ledger.catalogue.latest_source("letters")
    assert require_review(home.ledger, source, "research", home.clock, Use()).purpose == "research"


@pytest.mark.parametrize("asked", [{"redact": 5}, {"kinds": []}, {"redact": [], "kinds": "all"}])
def test_a_policy_or_terms_that_are_none_are_named_and_crash_no_list(asked: dict[str, JsonValue]) -> None:
    row = ReviewTermsRecord(ReviewId("rev-1"), {"policy": asked, "terms": 5})
    with pytest.raises(errors.ReviewTampered, match="policy of review rev-1"):
        policy_in(row)
    with pytest.raises(ConfigError, match="terms of rev-1: expected a table"):
        terms_in(row)
