"""The life of a KEK: what the table allows, what it refuses, and that no path breaks its invariants."""

from __future__ import annotations

import itertools
from typing import get_args

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from stoker.core.errors import BadName
from stoker.keys.errors import (
    BadReason,
    DestroyWindowRefused,
    DualControlRefused,
    KeyDestroyed,
    KeyNotActive,
)
from stoker.keys.key_events import (
    Activate,
    ApplyTombstone,
    ApproveDestroy,
    Compromise,
    Deactivate,
    DestroyDue,
    DestroyNow,
    ExpireEarlier,
    KekEvent,
    RequestDestroy,
    Resume,
    Suspend,
    WithdrawDestroy,
)
from stoker.keys.refs import KekRef
from stoker.keys.states import (
    MAX_WINDOW_S,
    MAY_MOVE,
    MAY_UNWRAP,
    MAY_WRAP,
    MIN_WINDOW_S,
    KekLife,
    KekState,
    check_life,
    earlier,
)
from stoker.keys.transitions import TRANSITIONS, Instruction, step

REF = KekRef("dataset/x", 1)
PEOPLE = st.sampled_from(["alice", "bob", "carol", "Alice", "alice ", "аlice", "ｂob", "", "alice\0"])
REASONS = st.sampled_from(["lost laptop", "", "two\nlines", "x" * 501, "\x1b[2J"])
EVENTS: tuple[type[KekEvent], ...] = get_args(KekEvent)
TIMES = st.floats(0.0, 1e10)
ENDS = {DestroyDue, DestroyNow, ApplyTombstone}

ALIKE: dict[type[KekEvent], KekEvent] = {
    Activate: Activate(),
    Deactivate: Deactivate(),
    Suspend: Suspend("bob", "a doubt"),
    Resume: Resume("bob"),
    Compromise: Compromise("bob", "a lost laptop"),
    RequestDestroy: RequestDestroy("bob"),
    ApproveDestroy: ApproveDestroy("bob", 0.0),
    WithdrawDestroy: WithdrawDestroy("bob", 0.0),
    DestroyDue: DestroyDue(0.0),
    DestroyNow: DestroyNow("bob", ""),
    ApplyTombstone: ApplyTombstone(),
    ExpireEarlier: ExpireEarlier(),
}


def lived(*events: KekEvent) -> KekLife:
    life = KekLife()
    for event in events:
        life, _ = step(REF, life, event)
    return life


PATHS: dict[KekState, tuple[KekEvent, ...]] = {
    KekState.PRE_ACTIVE: (),
    KekState.ACTIVE: (Activate(),),
    KekState.DEACTIVATED: (Activate(), Deactivate()),
    KekState.SUSPENDED: (Activate(), ALIKE[Suspend]),
    KekState.COMPROMISED: (Activate(), ALIKE[Compromise]),
    KekState.PENDING_DESTROY: (Activate(), RequestDestroy("alice"), ApproveDestroy("carol", 0.0)),
    KekState.DESTROYED: (Activate(), RequestDestroy("alice"), DestroyNow("carol", "")),
}


def test_every_event_is_tried_and_every_state_is_reached() -> None:
    assert set(ALIKE) == set(EVENTS)
    assert {lived(*path).state for path in PATHS.values()} == set(KekState)


def test_nothing_leaves_destroyed_and_nothing_returns_to_pre_active_that_was_active() -> None:
    assert not [state for state, _ in TRANSITIONS if state is KekState.DESTROYED]
    back = {key for key, to in TRANSITIONS.items() if KekState.PRE_ACTIVE in to and key[0] not in to}
    assert back == {
        (KekState.SUSPENDED, Resume),
        (KekState.PENDING_DESTROY, WithdrawDestroy),
    }, "but a KEK that was pre-active when it was suspended, or when its destruction was approved"


def test_only_three_events_end_a_kek_and_all_of_them_leave_a_tombstone_first() -> None:
    assert {event for (_, event), to in TRANSITIONS.items() if KekState.DESTROYED in to} == ENDS
    for kind in ENDS:
        before = lived(*PATHS[KekState.PENDING_DESTROY])
        event = DestroyDue(MIN_WINDOW_S) if kind is DestroyDue else ALIKE[kind]
        after, instructions = step(REF, before, event)
        assert after.state is KekState.DESTROYED
        assert instructions == (Instruction.LEAVE_TOMBSTONE, Instruction.ERASE_KEY)


@pytest.mark.parametrize("kind", [Deactivate, Suspend, Resume, Compromise, WithdrawDestroy])
def test_no_way_back_into_use_is_open_to_what_was_compromised(kind: type[KekEvent]) -> None:
    for before in ((), (ALIKE[Suspend],), (RequestDestroy("alice"), ApproveDestroy("bob", 0.0))):
        life = lived(Activate(), *before, Compromise("carol", "a lost laptop"))
        assert life.compromised
        try:
            after, _ = step(REF, life, ALIKE[kind])
        except (KeyNotActive, DualControlRefused):
            continue
        assert after.state is KekState.COMPROMISED
        assert after.state in MAY_MOVE - MAY_UNWRAP - MAY_WRAP


@pytest.mark.parametrize(
    ("state", "kind"), [pair for pair in itertools.product(KekState, EVENTS) if pair not in TRANSITIONS]
)
def test_a_step_that_is_not_in_the_table_is_refused(state: KekState, kind: type[KekEvent]) -> None:
    life = lived(*PATHS[state])
    expected = KeyDestroyed if state is KekState.DESTROYED else KeyNotActive
    with pytest.raises(expected, match=str(REF)):
        step(REF, life, ALIKE[kind])


@pytest.mark.parametrize(
    "window_s", [0.0, 86_400.0, -1.0, MIN_WINDOW_S - 1, MAX_WINDOW_S + 1, float("nan"), float("inf")]
)
def test_atk_024_a_window_of_a_day_or_less_or_no_length_is_refused(window_s: float) -> None:
    with pytest.raises(DestroyWindowRefused, match=str(REF)):
        step(REF, lived(Activate()), RequestDestroy("alice", window_s))


def test_a_destruction_is_carried_out_when_its_window_is_over_and_withdrawn_until_then() -> None:
    life = lived(Activate(), RequestDestroy("alice", MIN_WINDOW_S), ApproveDestroy("bob", 1000.0))
    over_s = 1000.0 + MIN_WINDOW_S
    assert life.destroy_at_s == over_s
    for early_s in (0.0, 1000.0, over_s - 0.001, float("nan")):
        with pytest.raises(DestroyWindowRefused):
            step(REF, life, DestroyDue(early_s))
    for late_s in (over_s, over_s + 1, float("nan")):
        with pytest.raises(DestroyWindowRefused):
            step(REF, life, WithdrawDestroy("alice", late_s))
    withdrawn, instructions = step(REF, life, WithdrawDestroy("carol", over_s - 0.001))
    assert withdrawn == lived(Activate())
    assert instructions == (Instruction.ENABLE_KEY,)


def test_what_was_suspended_and_then_condemned_is_suspended_again_when_that_is_withdrawn() -> None:
    suspended = lived(Activate(), Deactivate(), ALIKE[Suspend])
    life, instructions = step(REF, suspended, RequestDestroy("alice"))
    assert instructions == ()
    life, instructions = step(REF, life, ApproveDestroy("bob", 0.0))
    assert instructions == (), "it was disabled already"
    life, instructions = step(REF, life, WithdrawDestroy("alice", 1.0))
    assert (life, instructions) == (suspended, ())
    life, instructions = step(REF, life, Resume("bob"))
    assert life == lived(Activate(), Deactivate())
    assert instructions == (Instruction.ENABLE_KEY,)


@pytest.mark.parametrize(
    "life",
    [
        KekLife(KekState.ACTIVE, requested_by="alice", window_s=MIN_WINDOW_S, approved_by="bob"),
        KekLife(KekState.DESTROYED, requested_by="alice", window_s=MIN_WINDOW_S, approved_by="alice"),
        KekLife(KekState.DESTROYED, approved_by="alice"),
        KekLife(KekState.PENDING_DESTROY),
        KekLife(KekState.SUSPENDED),
        KekLife(KekState.COMPROMISED),
        KekLife(KekState.ACTIVE, compromised_by="alice"),
        KekLife(KekState.SUSPENDED, resumes_as=KekState.DESTROYED, suspended_by="alice"),
    ],
)
def test_a_life_that_no_steps_lead_to_is_none(life: KekLife) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        check_life(life)


class Life(RuleBasedStateMachine):
    """Any order of events, with a plain model of what two-identity control means beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.life = KekLife()
        self.asked: str | None = None
        self.was_active = False
        self.wrapped_its_last = False
        self.expiries: list[float | None] = [None]

    def take(self, event: KekEvent) -> bool:
        before = self.life
        try:
            after, instructions = step(REF, before, event)
        except (KeyDestroyed, KeyNotActive, DualControlRefused, DestroyWindowRefused, BadName, BadReason):
            return False
        assert before.state is not KekState.DESTROYED
        self.life = after
        if isinstance(event, ApproveDestroy | DestroyNow):
            assert self.asked not in (None, event.by), "one identity did both, or nobody asked"
        if after.state is KekState.DESTROYED:
            assert type(event) in ENDS
            assert instructions == (Instruction.LEAVE_TOMBSTONE, Instruction.ERASE_KEY)
        else:
            held = {KekState.SUSPENDED, KekState.PENDING_DESTROY}
            told = [before.state in held, after.state in held]
            expected = {(False, True): Instruction.DISABLE_KEY, (True, False): Instruction.ENABLE_KEY}
            assert list(instructions) == [expected[pair] for pair in [tuple(told)] if pair in expected]  # type: ignore[index]
        self.was_active |= after.state is KekState.ACTIVE
        self.wrapped_its_last |= isinstance(event, Deactivate | Compromise)
        return True

    @rule()
    def activate(self) -> None:
        self.take(Activate())

    @rule()
    def deactivate(self) -> None:
        self.take(Deactivate())

    @rule(by=PEOPLE, reason=REASONS)
    def suspend(self, by: str, reason: str) -> None:
        self.take(Suspend(by, reason))

    @rule(by=PEOPLE)
    def resume(self, by: str) -> None:
        self.take(Resume(by))

    @rule(by=PEOPLE, reason=REASONS)
    def compromise(self, by: str, reason: str) -> None:
        self.take(Compromise(by, reason))

    @rule(by=PEOPLE, window_s=st.sampled_from([MIN_WINDOW_S, MAX_WINDOW_S, 86_400.0]))
    def request(self, by: str, window_s: float) -> None:
        if self.take(RequestDestroy(by, window_s)):
            assert self.asked in (None, by)
            self.asked = by

    @rule(by=PEOPLE)
    def approve(self, by: str) -> None:
        self.take(ApproveDestroy(by, 0.0))

    @rule(by=PEOPLE, now_s=st.sampled_from([0.0, MIN_WINDOW_S, MAX_WINDOW_S]))
    def withdraw(self, by: str, now_s: float) -> None:
        if self.take(WithdrawDestroy(by, now_s)):
            self.asked = None

    @rule(now_s=st.sampled_from([0.0, MIN_WINDOW_S - 1, MAX_WINDOW_S]))
    def due(self, now_s: float) -> None:
        window_s = self.life.window_s
        if self.take(DestroyDue(now_s)):
            assert window_s is not None
            assert now_s >= window_s

    @rule(by=PEOPLE, reason=REASONS)
    def now(self, by: str, reason: str) -> None:
        self.take(DestroyNow(by, reason))

    @rule()
    def tombstone(self) -> None:
        self.take(ApplyTombstone())

    @rule(at_s=TIMES)
    def expire(self, at_s: float) -> None:
        before = self.life
        if self.take(ExpireEarlier()):
            assert self.life == before, "an expiry is no change of state"
            self.expiries.append(earlier(self.expiries[-1], at_s))

    @invariant()
    def expiry_never_moves_back(self) -> None:
        told = [each for each in self.expiries if each is not None]
        assert told == sorted(told, reverse=True)
        assert None not in self.expiries[1:]

    @invariant()
    def what_wrapped_its_last_wraps_no_more(self) -> None:
        self.life.validate()
        assert not (self.wrapped_its_last and self.life.state in MAY_WRAP)
        assert not (self.was_active and self.life.state is KekState.PRE_ACTIVE)

    @invariant()
    def names_are_names(self) -> None:
        life = self.life
        named = {life.requested_by, life.approved_by, life.suspended_by, life.compromised_by}
        assert named <= {None, "alice", "bob", "carol"}


TestLife = Life.TestCase
TestLife.settings = settings(
    max_examples=120, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
