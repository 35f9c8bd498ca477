"""The life of a review, step by step and under any sequence of events."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from stoker.core.errors import StokerError
from stoker.intake.errors import GateShut, NotAReviewer, ReviewClosed, ReviewExpired, SelfReview
from stoker.intake.review_machine import (
    DECIDING_ROLES,
    TRANSITIONS,
    UNDECIDED,
    Approve,
    AskChanges,
    BindScan,
    Decision,
    Deny,
    Event,
    Instruction,
    ReviewFacts,
    Revoke,
    Scan,
    SignAndRecord,
    Standing,
    problems,
    standing,
    step,
)
from stoker.ledger.catalogue import REVIEW_STEPS
from stoker.ledger.records import ReviewState, Role

REQUEST = ReviewFacts(ReviewState.REQUESTED, "asker", 100.0, 1000.0)
UNSCANNED = ReviewFacts(ReviewState.REQUESTED, "asker", 100.0, 1000.0, scanned=False)
EVENTS: tuple[type[Decision], ...] = (Approve, Deny, AskChanges, Revoke)


def test_approval_puts_a_review_in_force_until_it_expires() -> None:
    after, instructions = step(REQUEST, Approve("decider", Role.REVIEWER, 200.0, "fine"))
    assert instructions == (SignAndRecord(ReviewState.APPROVED, "decider", 200.0, "fine"),)
    assert standing(after, 999.9) is Standing.IN_FORCE
    assert standing(after, 1000.0) is Standing.EXPIRED
    assert standing(REQUEST, 200.0) is Standing.UNDECIDED


def test_denial_and_revocation_are_final() -> None:
    denied, _ = step(REQUEST, Deny("decider", Role.ADMIN, 200.0, "no"))
    approved, _ = step(REQUEST, Approve("decider", Role.REVIEWER, 200.0, "fine"))
    revoked, _ = step(approved, Revoke("other", Role.REVIEWER, 300.0, "mistake"))
    assert standing(denied, 0.0) is Standing.DENIED
    assert standing(revoked, 0.0) is Standing.REVOKED
    for facts, event in itertools.product((denied, revoked), EVENTS):
        with pytest.raises(ReviewClosed):
            step(facts, event("decider", Role.REVIEWER, 400.0, ""))


@pytest.mark.parametrize("event", [Approve, Deny, AskChanges])
def test_the_requester_cannot_decide_even_as_admin(event: type[Decision]) -> None:
    with pytest.raises(SelfReview):
        step(REQUEST, event("asker", Role.ADMIN, 200.0, ""))


@pytest.mark.parametrize("role", sorted(set(Role) - DECIDING_ROLES))
@pytest.mark.parametrize("event", EVENTS)
def test_other_roles_cannot_decide(event: type[Decision], role: Role) -> None:
    with pytest.raises(NotAReviewer):
        step(REQUEST, event("someone", role, 200.0, ""))


def test_the_requester_may_withdraw() -> None:
    after, _ = step(REQUEST, Revoke("asker", Role.RESEARCHER, 200.0, "not needed"))
    assert standing(after, 200.0) is Standing.REVOKED


def test_an_expired_request_cannot_be_approved() -> None:
    with pytest.raises(ReviewExpired):
        step(REQUEST, Approve("decider", Role.REVIEWER, 1000.0, ""))


def test_a_request_is_approved_only_with_its_scan() -> None:
    with pytest.raises(GateShut, match="not scanned"):
        step(UNSCANNED, Approve("decider", Role.REVIEWER, 200.0, ""))
    scanned, instructions = step(UNSCANNED, Scan("anyone", 150.0, "ab" * 32))
    assert instructions == (BindScan("ab" * 32, "anyone"),)
    assert (scanned.state, scanned.decided_by) == (ReviewState.SCANNED, None)
    assert standing(scanned, 160.0) is Standing.UNDECIDED
    with pytest.raises(ReviewClosed, match="scanning is not open"):
        step(scanned, Scan("anyone", 160.0, "cd" * 32))
    approved, _ = step(scanned, Approve("decider", Role.REVIEWER, 200.0, ""))
    assert standing(approved, 300.0) is Standing.IN_FORCE


def test_asked_changes_are_final_for_that_request() -> None:
    asked, _ = step(REQUEST, AskChanges("decider", Role.REVIEWER, 200.0, "mask the cards"))
    assert standing(asked, 300.0) is Standing.CHANGES_ASKED
    with pytest.raises(ReviewClosed, match="changes asked"):
        step(asked, Approve("decider", Role.REVIEWER, 300.0, ""))


@pytest.mark.parametrize(("recall", "is_open"), [(None, False), (0.89, False), (0.9, True), (1.0, True)])
def test_the_gate_stays_shut_below_the_recall_that_terms_ask_for(recall: float | None, is_open: bool) -> None:
    facts = ReviewFacts(ReviewState.SCANNED, "asker", 100.0, 1000.0, least_recall=0.9)
    event = Approve("decider", Role.REVIEWER, 200.0, "", recall)
    if is_open:
        assert step(facts, event)[0].state is ReviewState.APPROVED
        return
    with pytest.raises(GateShut, match=r"recall of 0\.900"):
        step(facts, event)
    assert step(facts, Deny("decider", Role.REVIEWER, 200.0, ""))[0].state is ReviewState.DENIED


def test_the_catalogue_allows_exactly_the_same_steps() -> None:
    ours: dict[ReviewState, set[ReviewState]] = {state: set() for state in ReviewState}
    for (before, _), after in TRANSITIONS.items():
        ours[before].add(after)
    assert ours == {state: set(REVIEW_STEPS[state]) for state in ReviewState}


def test_impossible_facts_are_named() -> None:
    assert problems(REQUEST) == ()
    assert problems(ReviewFacts(ReviewState.APPROVED, "asker", 100.0, 1000.0)) != ()
    assert problems(ReviewFacts(ReviewState.APPROVED, "asker", 100.0, 1000.0, "asker", 200.0)) != ()
    assert problems(ReviewFacts(ReviewState.REQUESTED, "asker", 100.0, 100.0)) != ()
    assert problems(ReviewFacts(ReviewState.APPROVED, "asker", 100.0, 1000.0, "decider", 1000.0)) != ()


class AnyLife(RuleBasedStateMachine):
    """Whatever happens, nothing is in force without somebody else's approval, of a scan, that is running."""

    def __init__(self) -> None:
        super().__init__()
        self.facts = UNSCANNED
        self.now_s = 100.0
        self.carried_out: list[Instruction] = []

    @initialize(scanned=st.booleans(), least_recall=st.sampled_from([0.0, 0.5, 0.9]))
    def request(self, scanned: bool, least_recall: float) -> None:
        self.facts = replace(UNSCANNED, scanned=scanned, least_recall=least_recall)

    @rule(seconds=st.floats(0.0, 700.0))
    def time_passes(self, seconds: float) -> None:
        self.now_s += seconds

    @rule(by=st.sampled_from(["asker", "decider"]))
    def a_scan_is_made(self, by: str) -> None:
        self.try_step(Scan(by, self.now_s, "ab" * 32))

    @rule(
        make=st.sampled_from(EVENTS),
        by=st.sampled_from(["asker", "decider", "other"]),
        role=st.sampled_from(list(Role)),
        recall=st.sampled_from([None, 0.4, 0.6, 0.95]),
    )
    def something_is_decided(self, make: type[Decision], by: str, role: Role, recall: float | None) -> None:
        event = make(by, role, self.now_s, "why")
        self.try_step(replace(event, recall=recall) if isinstance(event, Approve) else event)

    def try_step(self, event: Event) -> None:
        before = self.facts
        try:
            self.facts, instructions = step(before, event)
        except StokerError:
            assert self.facts == before
            return
        assert TRANSITIONS[before.state, type(event)] is self.facts.state
        assert len(instructions) == 1
        if isinstance(event, Approve):
            assert before.scanned
            assert before.least_recall <= (event.recall or 0.0)
        self.carried_out += instructions

    @precondition(lambda self: standing(self.facts, self.now_s) is Standing.IN_FORCE)
    @rule()
    def what_is_in_force_was_approved_by_another(self) -> None:
        last = self.carried_out[-1]
        assert isinstance(last, SignAndRecord)
        assert last.verdict is ReviewState.APPROVED
        assert last.by != "asker"
        assert self.facts.scanned
        assert self.now_s < self.facts.expires_s

    @invariant()
    def facts_are_possible_and_decided_at_most_twice(self) -> None:
        assert problems(self.facts) == ()
        assert sum(isinstance(one, SignAndRecord) for one in self.carried_out) <= 2
        assert sum(isinstance(one, BindScan) for one in self.carried_out) <= 1
        assert (self.facts.state in UNDECIDED) == (self.facts.decided_by is None)


TestAnyLife = AnyLife.TestCase
