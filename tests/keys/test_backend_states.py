"""States, cryptoperiods, rotation, batches and the end of keys, on every key back end, in any order."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from stoker.core.errors import StokerError
from stoker.keys.backend import KeyBackend
from stoker.keys.errors import (
    DestroyWindowRefused,
    DualControlRefused,
    KeyDestroyed,
    KeyExpired,
    KeyNotActive,
    KeyUnknown,
    WrongContext,
)
from stoker.keys.key_events import (
    Activate,
    ApproveDestroy,
    Compromise,
    Deactivate,
    DestroyDue,
    DestroyNow,
    KekEvent,
    RequestDestroy,
    Resume,
    Suspend,
    WithdrawDestroy,
)
from stoker.keys.refs import KekRef, Purpose
from stoker.keys.secret import SecretKey
from stoker.keys.states import (
    DAY_S,
    DEFAULT_ORIGINATOR_S,
    MAY_MOVE,
    MAY_UNWRAP,
    MAY_WRAP,
    MIN_WINDOW_S,
    KekLife,
    KekState,
)
from stoker.keys.transitions import step
from support.key_bench import CONTEXT, Bench
from support.key_stores import SCOPE


def opens(backend: KeyBackend, ref: KekRef, wrapped: bytes, *, moving: bool = False) -> str:
    """ "opens", or the name of the error that says why not; one key and a batch must agree."""
    said = []
    for use in (
        lambda: [backend.unwrap(ref, wrapped, CONTEXT, moving=moving)],
        lambda: backend.unwrap_many(ref, [(wrapped, CONTEXT)], moving=moving),
    ):
        try:
            for key in use():
                key.wipe()
        except StokerError as error:
            said.append(type(error).__name__)
        else:
            said.append("opens")
    assert said[0] == said[1]
    return said[0]


def test_a_batch_opens_in_order_or_not_at_all(bench: Bench) -> None:
    ref = bench.kek()
    keys = [SecretKey.generate() for _ in range(300)]
    wrapped = [(bench.backend.wrap(ref, key, b"%d" % index), b"%d" % index) for index, key in enumerate(keys)]
    opened = bench.reopen().unwrap_many(ref, wrapped)
    assert [bytes(each.view()) for each in opened] == [bytes(each.view()) for each in keys]
    assert bench.backend.unwrap_many(ref, []) == []
    for spoiled in (0, 299):
        wrong = list(wrapped)
        wrong[spoiled] = (wrong[spoiled][0], b"another place")
        with pytest.raises(WrongContext):
            bench.backend.unwrap_many(ref, wrong)


def test_a_pre_active_kek_waits_for_its_time_and_wraps_until_the_end_of_it(bench: Bench) -> None:
    now_s = bench.clock.now_s()
    ref = bench.backend.create_kek(
        SCOPE, Purpose.DATASET, expires_s=now_s + 300, activates_s=now_s + 100, wraps_until_s=now_s + 200
    )
    assert bench.backend.info(ref).state is KekState.PRE_ACTIVE
    with pytest.raises(KeyNotActive, match="pre-active"):
        bench.wrapped(ref)
    bench.clock.advance(100)
    wrapped = bench.wrapped(ref)
    assert bench.backend.info(ref).state is KekState.ACTIVE
    bench.clock.advance(100)
    with pytest.raises(KeyNotActive, match="wraps is over"):
        bench.wrapped(ref)
    assert opens(bench.reopen(), ref, wrapped) == "opens"
    bench.clock.advance(100)
    assert opens(bench.backend, ref, wrapped) == "KeyExpired"


def test_a_cryptoperiod_that_is_not_said_is_two_years_of_wrapping(bench: Bench) -> None:
    ref = bench.kek()
    info = bench.backend.info(ref)
    assert (info.activates_s, info.wraps_until_s) == (info.created_s, info.created_s + DEFAULT_ORIGINATOR_S)
    wrapped = bench.wrapped(ref)
    bench.clock.advance(DEFAULT_ORIGINATOR_S)
    with pytest.raises(KeyNotActive):
        bench.wrapped(ref)
    assert opens(bench.backend, ref, wrapped) == "opens"


@pytest.mark.parametrize(
    ("begins", "until", "expires"), [(-1, 10, 20), (10, 10, 20), (0, 30, 20), (0, 0, 20)]
)
def test_times_in_the_wrong_order_make_no_kek(bench: Bench, begins: int, until: int, expires: int) -> None:
    now_s = bench.clock.now_s()
    with pytest.raises(KeyExpired):
        bench.backend.create_kek(
            SCOPE,
            Purpose.DATASET,
            expires_s=now_s + expires,
            activates_s=now_s + begins,
            wraps_until_s=now_s + until,
        )
    assert bench.backend.list_keks() == ()


def test_rotating_makes_the_next_epoch_and_ends_the_wrapping_of_all_older_ones(bench: Bench) -> None:
    first, second = bench.kek(), bench.kek()
    bench.backend.suspend(second, "alice", "a doubt")
    old = bench.wrapped(first)
    third = bench.backend.rotate(SCOPE, expires_s=None)
    assert third == KekRef(SCOPE, 3)
    assert bench.reopen().info(first).state is KekState.DEACTIVATED
    assert bench.backend.info(third).purpose is Purpose.DATASET
    assert opens(bench.backend, first, old) == "opens"
    assert opens(bench.backend, third, bench.wrapped(third)) == "opens"
    assert bench.backend.resume(second, "bob").state is KekState.DEACTIVATED
    with pytest.raises(KeyUnknown):
        bench.backend.rotate("dataset/nowhere", expires_s=None)


def test_a_suspended_kek_does_nothing_until_it_is_resumed(bench: Bench) -> None:
    ref = bench.kek()
    wrapped = bench.wrapped(ref)
    info = bench.backend.suspend(ref, "alice", "a laptop is missing")
    assert (info.state, info.suspended_by) == (KekState.SUSPENDED, "alice")
    for backend in (bench.backend, bench.reopen()):
        assert opens(backend, ref, wrapped) == opens(backend, ref, wrapped, moving=True) == "KeyNotActive"
        with pytest.raises(KeyNotActive, match="suspended"):
            bench.wrapped(ref)
    assert bench.backend.resume(ref, "bob").state is KekState.ACTIVE
    assert opens(bench.reopen(), ref, wrapped) == "opens"
    assert len(bench.wrapped(ref)) > 0


def test_a_compromised_kek_opens_for_moving_what_survives_and_for_nothing_else(bench: Bench) -> None:
    ref = bench.kek()
    wrapped = bench.wrapped(ref)
    info = bench.backend.compromise(ref, "alice", "a laptop was stolen")
    assert (info.state, info.compromised_s) == (KekState.COMPROMISED, bench.clock.now_s())
    for backend in (bench.backend, bench.reopen()):
        assert opens(backend, ref, wrapped) == "KeyNotActive"
        assert opens(backend, ref, wrapped, moving=True) == "opens"
        with pytest.raises(KeyNotActive, match="compromised"):
            bench.wrapped(ref)
    bench.destroy(ref)
    assert bench.backend.info(ref).compromised
    assert opens(bench.backend, ref, wrapped, moving=True) == "KeyDestroyed"


def test_a_pending_destruction_opens_nothing_and_can_be_withdrawn_in_its_window(bench: Bench) -> None:
    ref = bench.kek()
    wrapped = bench.wrapped(ref)
    bench.backend.request_destroy(ref, "alice", window_s=10 * DAY_S, reason="the contract ended")
    assert opens(bench.backend, ref, wrapped) == "opens", "a request alone changes nothing"
    info = bench.backend.approve_destroy(ref, "bob")
    assert (info.state, info.destroy_at_s) == (KekState.PENDING_DESTROY, bench.clock.now_s() + 10 * DAY_S)
    assert (info.destroy_reason, info.destroy_window_s) == ("the contract ended", 10 * DAY_S)
    for backend in (bench.backend, bench.reopen()):
        assert opens(backend, ref, wrapped) == opens(backend, ref, wrapped, moving=True) == "KeyNotActive"
    bench.clock.advance(10 * DAY_S - 1)
    with pytest.raises(DestroyWindowRefused):
        bench.backend.destroy_due(ref)
    assert bench.backend.withdraw_destroy(ref, "carol").state is KekState.ACTIVE
    assert bench.backend.info(ref).destroy_requested_by is None
    assert opens(bench.reopen(), ref, wrapped) == "opens"


def test_a_destruction_whose_window_is_over_is_carried_out_and_not_withdrawn(bench: Bench) -> None:
    ref = bench.kek()
    wrapped = bench.wrapped(ref)
    bench.backend.request_destroy(ref, "alice")
    bench.backend.approve_destroy(ref, "bob")
    bench.clock.advance(MIN_WINDOW_S)
    with pytest.raises(DestroyWindowRefused):
        bench.backend.withdraw_destroy(ref, "alice")
    assert opens(bench.backend, ref, wrapped) == "KeyNotActive"
    info = bench.reopen().destroy_due(ref)
    assert (info.state, info.destroyed_s) == (KekState.DESTROYED, bench.clock.now_s())
    assert opens(bench.reopen(), ref, wrapped) == "KeyDestroyed"
    assert not bench.backend.vault_has(ref)
    scheduled = bench.backend.vault_erases_at_s(ref) is not None
    assert scheduled == (bench.name == "aws"), "only KMS keeps what it made for a while"
    with pytest.raises(KeyDestroyed):
        bench.backend.destroy_due(ref)


@pytest.mark.parametrize("window_s", [0.0, DAY_S, -1.0, 365 * DAY_S, float("nan")])
def test_atk_024_a_window_of_a_day_or_less_is_refused(bench: Bench, window_s: float) -> None:
    ref = bench.kek()
    with pytest.raises(DestroyWindowRefused, match=str(ref)):
        bench.backend.request_destroy(ref, "alice", window_s=window_s)
    with pytest.raises(DualControlRefused, match="Nobody"):
        bench.backend.destroy_now(ref, "bob", reason="at once")
    assert bench.backend.info(ref).state is KekState.ACTIVE


def test_an_emergency_ends_the_window_but_takes_two_identities(bench: Bench) -> None:
    ref = bench.kek()
    wrapped = bench.wrapped(ref)
    bench.backend.request_destroy(ref, "alice")
    bench.backend.approve_destroy(ref, "bob")
    with pytest.raises(DualControlRefused, match="alice"):
        bench.backend.destroy_now(ref, "alice", reason="now")
    info = bench.backend.destroy_now(ref, "carol", reason="a subpoena of the wrong kind")
    assert (info.state, info.destroy_approved_by) == (KekState.DESTROYED, "carol")
    assert info.destroy_reason == "a subpoena of the wrong kind"
    assert opens(bench.reopen(), ref, wrapped) == "KeyDestroyed"


class BackendLife(RuleBasedStateMachine):
    """Any order of acts on one KEK, beside the pure table: both must agree, and use must follow the state."""

    def __init__(self, bench: Bench, number: int) -> None:
        super().__init__()
        self.bench = bench
        self.ref = bench.backend.create_kek(f"run/life-{number}", Purpose.DATASET, expires_s=None)
        self.wrapped = bench.wrapped(self.ref)
        self.life, _ = step(self.ref, KekLife(), Activate())

    def take(self, event: KekEvent, act: Callable[[], object]) -> None:
        expected = actual = None
        try:
            self.life, _ = step(self.ref, self.life, event)
        except StokerError as error:
            expected = type(error)
        try:
            act()
        except StokerError as error:
            actual = type(error)
        assert actual == expected

    @rule(
        by=st.sampled_from(["alice", "bob", "Alice"]), kind=st.sampled_from(["ask", "agree", "back", "now"])
    )
    def end(self, by: str, kind: str) -> None:
        backend, now_s = self.bench.backend, self.bench.clock.now_s()
        match kind:
            case "ask":
                self.take(RequestDestroy(by), lambda: backend.request_destroy(self.ref, by))
            case "agree":
                self.take(ApproveDestroy(by, now_s), lambda: backend.approve_destroy(self.ref, by))
            case "back":
                self.take(WithdrawDestroy(by, now_s), lambda: backend.withdraw_destroy(self.ref, by))
            case _:
                self.take(DestroyNow(by, "now"), lambda: backend.destroy_now(self.ref, by, reason="now"))

    @rule(kind=st.sampled_from(["suspend", "resume", "compromise", "deactivate"]))
    def hold(self, kind: str) -> None:
        backend = self.bench.backend
        match kind:
            case "suspend":
                self.take(Suspend("bob", "a doubt"), lambda: backend.suspend(self.ref, "bob", "a doubt"))
            case "resume":
                self.take(Resume("bob"), lambda: backend.resume(self.ref, "bob"))
            case "compromise":
                self.take(Compromise("bob", "a loss"), lambda: backend.compromise(self.ref, "bob", "a loss"))
            case _:
                self.take(Deactivate(), lambda: backend.deactivate(self.ref))

    @rule(passed_s=st.sampled_from([1.0, MIN_WINDOW_S]))
    def wait(self, passed_s: float) -> None:
        self.bench.clock.advance(passed_s)
        self.take(DestroyDue(self.bench.clock.now_s()), lambda: self.bench.backend.destroy_due(self.ref))

    @rule()
    def restart(self) -> None:
        self.bench.backend.close()
        self.bench.reopen()

    @invariant()
    def use_follows_the_state(self) -> None:
        state, backend = self.life.state, self.bench.backend
        assert backend.info(self.ref).state is state
        assert (opens(backend, self.ref, self.wrapped) == "opens") == (state in MAY_UNWRAP)
        assert (opens(backend, self.ref, self.wrapped, moving=True) == "opens") == (state in MAY_MOVE)
        assert backend.vault_has(self.ref) == (state is not KekState.DESTROYED)
        refused = (
            "" if state in MAY_WRAP else "KeyDestroyed" if state is KekState.DESTROYED else "KeyNotActive"
        )
        try:
            self.bench.wrapped(self.ref)
        except StokerError as error:
            assert type(error).__name__ == refused
        else:
            assert refused == ""


def test_no_order_of_acts_leads_past_the_table(bench: Bench) -> None:
    numbers = iter(range(1_000_000))
    run_state_machine_as_test(
        lambda: BackendLife(bench, next(numbers)),
        settings=settings(
            max_examples=4 if bench.name.startswith("aws") else 12,  # a request a step
            stateful_step_count=10,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            database=None,
        ),
    )
