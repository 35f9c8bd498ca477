"""The life of a review, step by step and under any sequence of events."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from stoker.core.errors import StokerError
from stoker.intake.errors import NotAReviewer, ReviewClosed, ReviewExpired, SelfReview
from stoker.intake.review_machine import (
    DECIDING_ROLES,
    TRANSITIONS,
    Approve,
    Deny,
    Event,
    ReviewFacts,
    Revoke,
    SignAndRecord,
    Standing,
    problems,
    standing,
    step,
)
from stoker.ledger.catalogue import REVIEW_STEPS
from stoker.ledger.records import ReviewState, Role

REQUEST = ReviewFacts(ReviewState.REQUESTED, "asker", 100.0, 1000.0)
EVENTS: tuple[type[Event], ...] = (Approve, Deny, Revoke)


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


@pytest.mark.parametrize("event", [Approve, Deny])
def test_the_requester_cannot_decide_even_as_admin(event: type[Event]) -> None:
    with pytest.raises(SelfReview):
        step(REQUEST, event("asker", Role.ADMIN, 200.0, ""))


@pytest.mark.parametrize("role", sorted(set(Role) - DECIDING_ROLES))
@pytest.mark.parametrize("event", EVENTS)
def test_other_roles_cannot_decide(event: type[Event], role: Role) -> None:
    with pytest.raises(NotAReviewer):
        step(REQUEST, event("someone", role, 200.0, ""))


def test_the_requester_may_withdraw() -> None:
    after, _ = step(REQUEST, Revoke("asker", Role.RESEARCHER, 200.0, "not needed"))
    assert standing(after, 200.0) is Standing.REVOKED


def test_an_expired_request_cannot_be_approved() -> None:
    with pytest.raises(ReviewExpired):
        step(REQUEST, Approve("decider", Role.REVIEWER, 1000.0, ""))


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
    """Whatever happens, nothing is in force without somebody else's approval that is still running."""

    def __init__(self) -> None:
        super().__init__()
        self.facts = REQUEST
        self.now_s = 100.0
        self.carried_out: list[SignAndRecord] = []

    @rule(seconds=st.floats(0.0, 700.0))
    def time_passes(self, seconds: float) -> None:
        self.now_s += seconds

    @rule(
        event=st.sampled_from(EVENTS),
        by=st.sampled_from(["asker", "decider", "other"]),
        role=st.sampled_from(list(Role)),
    )
    def something_is_tried(self, event: type[Event], by: str, role: Role) -> None:
        before = self.facts
        try:
            self.facts, instructions = step(before, event(by, role, self.now_s, "why"))
        except StokerError:
            assert self.facts == before
            return
        assert TRANSITIONS[before.state, event] is self.facts.state
        assert [one.verdict for one in instructions] == [self.facts.state]
        self.carried_out += instructions

    @precondition(lambda self: standing(self.facts, self.now_s) is Standing.IN_FORCE)
    @rule()
    def what_is_in_force_was_approved_by_another(self) -> None:
        assert self.carried_out[-1].verdict is ReviewState.APPROVED
        assert self.carried_out[-1].by != "asker"
        assert self.now_s < self.facts.expires_s

    @invariant()
    def facts_are_possible_and_decided_at_most_twice(self) -> None:
        assert problems(self.facts) == ()
        assert len(self.carried_out) <= 2


TestAnyLife = AnyLife.TestCase
