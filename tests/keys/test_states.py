"""The life of a KEK: what the table allows, what it refuses, and that no path breaks its invariants."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from stoker.core.errors import BadName
from stoker.keys.errors import DualControlRefused, KeyDestroyed, KeyNotActive
from stoker.keys.refs import KekRef
from stoker.keys.states import (
    TRANSITIONS,
    Activate,
    ApplyTombstone,
    ApproveDestroy,
    Deactivate,
    ExpireEarlier,
    Instruction,
    KekEvent,
    KekLife,
    KekState,
    RequestDestroy,
    earlier,
    step,
)

REF = KekRef("dataset/x", 1)
PEOPLE = st.sampled_from(["alice", "bob", "carol", "Alice", "alice ", "аlice", "ｂob", "", "alice\0"])
EVENTS = (Activate, Deactivate, RequestDestroy, ApproveDestroy, ApplyTombstone, ExpireEarlier)
TIMES = st.floats(0.0, 1e10)


def test_nothing_leaves_destroyed_and_nothing_returns_to_pre_active() -> None:
    assert not [state for state, _ in TRANSITIONS if state is KekState.DESTROYED]
    back = [key for key, to in TRANSITIONS.items() if to is KekState.PRE_ACTIVE != key[0]]
    assert not back


def test_a_deactivated_kek_never_wraps_again() -> None:
    reached = {to for (state, _), to in TRANSITIONS.items() if state is KekState.DEACTIVATED}
    assert reached == {KekState.DEACTIVATED, KekState.DESTROYED}


@pytest.mark.parametrize(
    ("state", "kind"), [pair for pair in itertools.product(KekState, EVENTS) if pair not in TRANSITIONS]
)
def test_a_step_that_is_not_in_the_table_is_refused(state: KekState, kind: type[KekEvent]) -> None:
    event = kind("bob") if kind in (RequestDestroy, ApproveDestroy) else kind()  # type: ignore[call-arg]
    expected = KeyDestroyed if state is KekState.DESTROYED else KeyNotActive
    with pytest.raises(expected):
        step(REF, KekLife(state, "alice" if state is KekState.DESTROYED else None), event)


class Life(RuleBasedStateMachine):
    """Any order of events, with a plain model of what two-identity control means beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.life = KekLife()
        self.requesters: set[str] = set()
        self.history = [self.life.state]
        self.expiries: list[float | None] = [None]

    def take(self, event: KekEvent) -> None:
        before = self.life
        try:
            self.life, instructions = step(REF, before, event)
        except (KeyDestroyed, KeyNotActive, DualControlRefused, BadName):
            assert self.life == before
            return
        if isinstance(event, RequestDestroy):
            self.requesters.add(event.by)
        if isinstance(event, ApproveDestroy):
            assert self.requesters, "approved though nobody asked"
            assert event.by not in self.requesters, "one identity did both"
        destroyed = self.life.state is KekState.DESTROYED
        assert instructions == ((Instruction.LEAVE_TOMBSTONE, Instruction.ERASE_KEY) if destroyed else ())
        self.history.append(self.life.state)

    @rule()
    def activate(self) -> None:
        self.take(Activate())

    @rule()
    def deactivate(self) -> None:
        self.take(Deactivate())

    @rule(by=PEOPLE)
    def request(self, by: str) -> None:
        self.take(RequestDestroy(by))

    @rule(by=PEOPLE)
    def approve(self, by: str) -> None:
        self.take(ApproveDestroy(by))

    @rule()
    def tombstone(self) -> None:
        self.take(ApplyTombstone())

    @rule(at_s=TIMES)
    def expire(self, at_s: float) -> None:
        steps = len(self.history)
        self.take(ExpireEarlier())
        if len(self.history) > steps:
            assert self.history[-1] is self.history[-2], "an expiry is no change of state"
            self.expiries.append(earlier(self.expiries[-1], at_s))

    @invariant()
    def expiry_never_moves_back(self) -> None:
        told = [each for each in self.expiries if each is not None]
        assert told == sorted(told, reverse=True)
        assert None not in self.expiries[1:]

    @invariant()
    def only_forward(self) -> None:
        self.life.validate()
        order = list(KekState)
        ranks = [order.index(state) for state in self.history]
        assert ranks == sorted(ranks)

    @invariant()
    def names_are_names(self) -> None:
        assert {self.life.requested_by, self.life.approved_by} <= {None, "alice", "bob", "carol"}


TestLife = Life.TestCase
TestLife.settings = settings(
    max_examples=60, stateful_step_count=20, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
