"""What every key back end must do: wrapping, times, identities, signers, tombstones.

`bench` is each back end in turn (support/key_bench.py); its states are judged in test_backend_states.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from stoker.core.errors import BadName, BadSignature
from stoker.core.signing import verify_signature
from stoker.keys.errors import (
    BadKekRef,
    DualControlRefused,
    KeyDestroyed,
    KeyExpired,
    KeyNotActive,
    KeyUnknown,
    KeyUsageExceeded,
    WrongContext,
)
from stoker.keys.refs import KekRef, Purpose
from stoker.keys.secret import SecretKey
from stoker.keys.states import KekState
from support.key_bench import CONTEXT, Bench
from support.key_stores import SCOPE


def test_a_wrapped_key_opens_again_after_a_restart(bench: Bench) -> None:
    ref = bench.kek()
    with SecretKey.generate() as key:
        wrapped = bench.backend.wrap(ref, key, CONTEXT)
        assert len(wrapped) <= 1024
        assert bytes(key.view()) not in wrapped
        with bench.reopen().unwrap(ref, wrapped, CONTEXT) as opened:
            assert opened.view() == key.view()


def test_wrapping_twice_gives_different_bytes(bench: Bench) -> None:
    ref = bench.kek()
    with SecretKey.generate() as key:
        assert bench.backend.wrap(ref, key, CONTEXT) != bench.backend.wrap(ref, key, CONTEXT)


def test_the_context_must_be_the_same(bench: Bench) -> None:
    ref = bench.kek()
    wrapped = bench.wrapped(ref)
    for other in (b"", CONTEXT[:-1], CONTEXT + b"\0", CONTEXT.upper()):
        with pytest.raises(WrongContext):
            bench.backend.unwrap(ref, wrapped, other)


def test_every_flipped_bit_of_a_wrapped_key_is_refused(bench: Bench) -> None:
    ref = bench.kek()
    wrapped = bench.wrapped(ref)
    for position in range(8 * len(wrapped)):
        flipped = bytearray(wrapped)
        flipped[position // 8] ^= 1 << position % 8
        with pytest.raises(WrongContext):
            bench.backend.unwrap(ref, bytes(flipped), CONTEXT)


@pytest.mark.parametrize("size", [0, 1, 65, 67, 10_000_000])
def test_a_wrapped_key_of_another_size_is_refused(bench: Bench, size: int) -> None:
    ref = bench.kek()
    wrapped = (bench.wrapped(ref) * (size // 66 + 1))[:size]
    with pytest.raises(WrongContext, match=str(ref)):
        bench.backend.unwrap(ref, wrapped, CONTEXT)


def test_a_key_wrapped_by_another_kek_is_refused(bench: Bench) -> None:
    one, other = bench.kek(), bench.kek()
    with pytest.raises(WrongContext):
        bench.backend.unwrap(other, bench.wrapped(one), CONTEXT)


def test_a_new_kek_is_active_and_the_next_epoch(bench: Bench) -> None:
    first, second = bench.kek(), bench.kek(expires_in_s=60)
    assert (first, second) == (KekRef(SCOPE, 1), KekRef(SCOPE, 2))
    info = bench.backend.info(second)
    assert (info.state, info.purpose) == (KekState.ACTIVE, Purpose.DATASET)
    assert info.created_s == bench.clock.now_s()
    assert info.expires_s == bench.clock.now_s() + 60
    assert [each.ref for each in bench.backend.list_keks()] == [first, second]


def test_scopes_count_their_own_epochs(bench: Bench) -> None:
    bench.kek()
    assert bench.backend.create_kek("run/r-1", Purpose.CHECKPOINT, expires_s=None).epoch == 1


@pytest.mark.parametrize("scope", ["", "dataset", "dataset/../x", "/etc/passwd", "dataset/x#2", "run/" + "é"])
def test_a_bad_scope_is_refused(bench: Bench, scope: str) -> None:
    with pytest.raises(BadKekRef):
        bench.backend.create_kek(scope, Purpose.DATASET, expires_s=None)
    assert bench.backend.list_keks() == ()


@pytest.mark.parametrize("expires_s", [0.0, -1.0, float("nan"), float("inf"), float("-inf")])
def test_an_expiry_must_lie_ahead(bench: Bench, expires_s: float) -> None:
    with pytest.raises(KeyExpired):
        bench.backend.create_kek(SCOPE, Purpose.DATASET, expires_s=expires_s)
    assert bench.backend.list_keks() == ()


def test_an_unknown_kek_is_named(bench: Bench) -> None:
    unknown = KekRef("dataset/nowhere", 1)
    with SecretKey.generate() as key:
        for use in (
            lambda: bench.backend.info(unknown),
            lambda: bench.backend.wrap(unknown, key, CONTEXT),
            lambda: bench.backend.unwrap(unknown, bytes(66), CONTEXT),
            lambda: bench.backend.deactivate(unknown),
            lambda: bench.backend.request_destroy(unknown, "alice"),
            lambda: bench.backend.destroy(unknown, "bob"),
        ):
            with pytest.raises(KeyUnknown, match="dataset/nowhere#1"):
                use()


def test_a_deactivated_kek_opens_but_wraps_nothing(bench: Bench) -> None:
    ref = bench.kek()
    wrapped = bench.wrapped(ref)
    bench.backend.deactivate(ref)
    bench.reopen().unwrap(ref, wrapped, CONTEXT).wipe()
    with pytest.raises(KeyNotActive):
        bench.wrapped(ref)
    with pytest.raises(KeyNotActive):
        bench.backend.deactivate(ref)
    assert bench.backend.info(ref).deactivated_s == bench.clock.now_s()


def test_an_expired_kek_neither_opens_nor_wraps(bench: Bench) -> None:
    ref = bench.kek(expires_in_s=100)
    wrapped = bench.wrapped(ref)
    bench.clock.advance(99.9)
    bench.backend.unwrap(ref, wrapped, CONTEXT).wipe()
    bench.clock.advance(0.1)
    for backend in (bench.backend, bench.reopen()):
        assert backend.info(ref).expired(bench.clock.now_s())
        with pytest.raises(KeyExpired, match=str(ref)):
            backend.unwrap(ref, wrapped, CONTEXT)
        with pytest.raises(KeyExpired):
            bench.wrapped(ref)


def test_an_expiry_moves_forward_and_never_back(bench: Bench) -> None:
    now_s = bench.clock.now_s()
    for ref in (bench.kek(expires_in_s=100.0), bench.kek()):
        assert bench.backend.expire_earlier(ref, now_s + 50.0).expires_s == now_s + 50.0
        assert bench.backend.expire_earlier(ref, now_s + 80.0).expires_s == now_s + 50.0
        assert bench.reopen().info(ref).expires_s == now_s + 50.0
        assert bench.backend.info(ref).state is KekState.ACTIVE


def test_a_kek_whose_expiry_was_brought_to_now_opens_nothing_at_once(bench: Bench) -> None:
    ref = bench.kek(expires_in_s=1e6)
    wrapped = bench.wrapped(ref)
    other = bench.opener(bench.place, bench.clock, 2**32)
    bench.backend.expire_earlier(ref, bench.clock.now_s())
    for backend in (bench.backend, other, bench.reopen()):
        with pytest.raises(KeyExpired, match=str(ref)):
            backend.unwrap(ref, wrapped, CONTEXT)
    with SecretKey.generate() as key, pytest.raises(KeyExpired):
        other.wrap(ref, key, CONTEXT)
    bench.backend.expire_earlier(ref, bench.clock.now_s() + 1e6)
    with pytest.raises(KeyExpired):
        bench.backend.unwrap(ref, wrapped, CONTEXT)


def test_what_may_not_expire_earlier_is_refused(bench: Bench) -> None:
    unknown = KekRef(SCOPE, 9)
    with pytest.raises(KeyUnknown, match=str(unknown)):
        bench.backend.expire_earlier(unknown, 1.0)
    ref = bench.kek()
    for no_time in (float("nan"), float("inf"), -1.0, 1e18):
        with pytest.raises(KeyExpired, match="is no time"):
            bench.backend.expire_earlier(ref, no_time)
    assert bench.backend.info(ref).expires_s is None
    bench.destroy(ref)
    with pytest.raises(KeyDestroyed):
        bench.backend.expire_earlier(ref, 1.0)


def test_an_expired_kek_can_still_be_destroyed(bench: Bench) -> None:
    ref = bench.kek(expires_in_s=1)
    bench.clock.advance(2)
    bench.destroy(ref)
    with pytest.raises(KeyDestroyed):
        bench.wrapped(ref)


def test_a_destroyed_kek_is_gone_for_good(bench: Bench) -> None:
    ref = bench.kek()
    wrapped = bench.wrapped(ref)
    bench.backend.request_destroy(ref, "alice")
    bench.backend.unwrap(ref, wrapped, CONTEXT).wipe()
    info = bench.backend.destroy(ref, "bob")
    assert info == bench.backend.info(ref)
    assert (info.state, info.destroyed_s) == (KekState.DESTROYED, bench.clock.now_s())
    assert (info.destroy_requested_by, info.destroy_approved_by) == ("alice", "bob")
    for backend in (bench.backend, bench.reopen()):
        with pytest.raises(KeyDestroyed, match=str(ref)):
            backend.unwrap(ref, wrapped, CONTEXT)
        with pytest.raises(KeyDestroyed):
            bench.wrapped(ref)
        with pytest.raises(KeyDestroyed):
            backend.deactivate(ref)
        with pytest.raises(KeyDestroyed):
            backend.request_destroy(ref, "carol")
        with pytest.raises(KeyDestroyed):
            backend.destroy(ref, "carol")
    assert bench.kek().epoch == 2


def test_destroying_takes_a_request_first(bench: Bench) -> None:
    ref = bench.kek()
    with pytest.raises(DualControlRefused, match="Nobody"):
        bench.backend.destroy(ref, "bob")
    assert bench.backend.info(ref).state is KekState.ACTIVE


def test_the_requester_cannot_approve_nor_a_second_request_stand_in(bench: Bench) -> None:
    ref = bench.kek()
    bench.backend.request_destroy(ref, "alice")
    bench.backend.request_destroy(ref, "alice")
    with pytest.raises(DualControlRefused, match="already requested"):
        bench.backend.request_destroy(ref, "bob")
    with pytest.raises(DualControlRefused, match="alice"):
        bench.reopen().destroy(ref, "alice")
    assert bench.backend.info(ref).state is KekState.ACTIVE
    assert bench.backend.info(ref).destroy_requested_by == "alice"


SAME_PERSON = ["Alice", "ALICE", "alice ", " alice", "аlice", "ａlice", "alice\u200b", "alic\u0065\u0301", ""]


@pytest.mark.parametrize("spelling", SAME_PERSON)
def test_another_spelling_of_the_requester_is_no_second_identity(bench: Bench, spelling: str) -> None:
    ref = bench.kek()
    with pytest.raises(BadName):
        bench.backend.request_destroy(ref, spelling)
    bench.backend.request_destroy(ref, "alice")
    with pytest.raises(BadName):
        bench.backend.destroy(ref, spelling)
    assert bench.backend.info(ref).state is KekState.ACTIVE


def test_a_kek_wraps_no_more_than_its_limit_also_after_restarts(bench: Bench) -> None:
    bench.reopen(max_wraps=3)
    ref = bench.kek()
    last = [bench.wrapped(ref) for _ in range(3)][-1]
    for backend in (bench.backend, bench.reopen(max_wraps=3)):
        with pytest.raises(KeyUsageExceeded, match=str(ref)):
            bench.wrapped(ref)
        backend.unwrap(ref, last, CONTEXT).wipe()
    assert bench.backend.info(ref).wraps == 3
    assert len(bench.wrapped(bench.kek())) > 0


def test_the_count_of_wraps_is_never_too_low(bench: Bench) -> None:
    ref = bench.kek()
    for _ in range(2):
        for _ in range(5):
            bench.wrapped(ref)
        bench.reopen()
    assert bench.backend.info(ref).wraps >= 10


def test_a_signer_is_made_once_and_signs_for_good(bench: Bench) -> None:
    signer = bench.backend.signer("identity/alice")
    signature = signer.sign(b"yes")
    again = bench.reopen().signer("identity/alice")
    assert again.public_key == signer.public_key
    verify_signature(again.public_key, signature, b"yes", "the decision")
    with pytest.raises(BadSignature):
        verify_signature(bench.backend.signer("identity/bob").public_key, signature, b"yes", "the decision")


@pytest.mark.parametrize("name", ["", "/", "Manifest", "a//b", "../x", "a/../b", "a..b", "x" * 64, "a/b/c/d"])
def test_a_bad_signer_name_is_refused(bench: Bench, name: str) -> None:
    with pytest.raises(BadName):
        bench.backend.signer(name)


def test_a_canary_is_the_same_each_time_and_another_for_each_subject(bench: Bench) -> None:
    canary = bench.backend.canary("source/a/1")
    assert canary.startswith("stoker-canary-")
    assert len(canary) == len("stoker-canary-") + 32
    assert int(canary.removeprefix("stoker-canary-"), 16) > 0
    others = {bench.backend.canary(f"source/a/{number}") for number in range(2, 50)}
    assert canary not in others
    assert len(others) == 48
    assert bench.reopen().canary("source/a/1") == canary


def test_another_key_store_has_other_canaries_and_signers(bench: Bench, tmp_path: Path) -> None:
    other = bench.opener(tmp_path / "other", bench.clock, 1)
    assert other.canary("x") != bench.backend.canary("x")
    assert other.signer("manifest").public_key != bench.backend.signer("manifest").public_key


def test_tombstones_destroy_what_is_alive_and_say_which(bench: Bench) -> None:
    alive, gone, untouched = bench.kek(), bench.kek(), bench.kek()
    wrapped = bench.wrapped(alive)
    bench.destroy(gone)
    named = [str(alive), str(gone), "dataset/never-here#1"]
    assert bench.backend.apply_tombstones(named) == (str(alive),)
    assert bench.backend.apply_tombstones(named) == ()
    with pytest.raises(KeyDestroyed):
        bench.reopen().unwrap(alive, wrapped, CONTEXT)
    assert bench.backend.info(untouched).state is KekState.ACTIVE


def test_an_epoch_that_has_a_tombstone_is_never_used_again(bench: Bench) -> None:
    bench.backend.apply_tombstones([f"{SCOPE}#7"])
    assert bench.kek() == KekRef(SCOPE, 8)


def test_one_bad_tombstone_changes_nothing(bench: Bench) -> None:
    ref = bench.kek()
    with pytest.raises(BadKekRef):
        bench.backend.apply_tombstones([str(ref), "no such thing"])
    assert bench.backend.info(ref).state is KekState.ACTIVE
