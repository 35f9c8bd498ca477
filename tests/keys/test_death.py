"""The end of a key: two identities, a window, live runs, the emergency path, old backups, and its proof."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from stoker.core.clock import iso_utc
from stoker.core.errors import StokerError
from stoker.keys.death import KEY_BACKEND, VAULT, Outcome, Trial, recorded_canary, recorded_proofs
from stoker.keys.destruction import reconcile_tombstones
from stoker.keys.errors import (
    BadReason,
    DeathNotProved,
    DestroyWindowRefused,
    DualControlRefused,
    KeyActRefused,
    KeyDestroyed,
    KeyInUse,
    KeyNotActive,
)
from stoker.keys.open import open_backend
from stoker.keys.refs import KekRef
from stoker.keys.states import KekState
from stoker.ledger.errors import LedgerUnusable, UnknownIdentity
from stoker.ledger.records import DatasetRecord, DatasetState, RunOutcome
from support.key_life import DAY_S, KeyLife, replace_folder
from support.ledger_samples import tamper
from support.life_home import life_home


@pytest.fixture
def life(tmp_path: Path) -> Iterator[KeyLife]:
    with life_home(tmp_path) as house:
        yield KeyLife(house)


def dataset(life: KeyLife) -> tuple[DatasetRecord, KekRef]:
    record, _ = life.house.tokens(days=100.0)
    return record, KekRef.parse(record.kek)


def outcomes(life: KeyLife, kek: KekRef) -> dict[str, Outcome]:
    return {trial.replica: trial.outcome for trial in life.prove(kek).trials}


# -- ATK-020: unwrap after the dataset's key was destroyed


def test_atk_020_after_a_destruction_nothing_opens_anywhere_and_that_is_recorded(
    life: KeyLife, tmp_path: Path
) -> None:
    record, kek = dataset(life)
    cached = life.cache(record)
    shutil.copytree(life.house.home.store_dir, tmp_path / "copy")
    life.copies = ((tmp_path / "copy").as_uri(),)
    assert len(life.read(record)) == 1100
    life.request(kek)
    life.emergency(kek)
    with pytest.raises(KeyDestroyed):
        life.read(record)
    proof = life.prove(kek)
    assert proof.holds
    streams = len([key for key in life.house.objects(record) if key.endswith(".stk")])
    seen = {trial.replica: (trial.outcome, trial.tried, dict(trial.refused)) for trial in proof.trials}
    assert seen == {
        KEY_BACKEND: (Outcome.REFUSED, 1, {"key-destroyed": 1}),
        VAULT: (Outcome.REFUSED, 1, {"it has no such key": 1}),
        "store": (Outcome.REFUSED, streams, {"key-destroyed": streams}),
        life.node_cache: (Outcome.REFUSED, 1, {"key-destroyed": 1}),
        "copy 1": (Outcome.REFUSED, streams, {"key-destroyed": streams}),
    }
    assert proof.canary == f"store: {cached}", "the canary is a stream that opened when it was asked for"
    assert recorded_proofs(life.house.ledger)[str(kek)] == proof
    assert life.house.now(record).state is DatasetState.DESTROYED


def test_atk_020_while_the_destruction_is_pending_nothing_opens_either(life: KeyLife) -> None:
    record, kek = dataset(life)
    life.request(kek)
    assert len(life.read(record)) == 1100, "a request alone stops nothing"
    info = life.approve(kek)
    assert (info.state, info.destroy_at_s) == (
        KekState.PENDING_DESTROY,
        life.house.clock.now_s() + 7 * DAY_S,
    )
    with pytest.raises(KeyNotActive):
        life.read(record)


# -- ATK-022: by one operator alone


def test_atk_022_one_identity_destroys_nothing_by_any_path(life: KeyLife) -> None:
    record, kek = dataset(life)
    with pytest.raises(DualControlRefused, match="Nobody has requested"):
        life.approve(kek, "hands")
    with pytest.raises(DualControlRefused, match="Nobody has requested"):
        life.emergency(kek, "hands")
    life.request(kek, "hands")
    for path in (life.approve, life.emergency):
        with pytest.raises(DualControlRefused, match="hands requested"):
            path(kek, "hands")
    with pytest.raises(DualControlRefused, match="hands has already requested"):
        life.request(kek, "decider")
    for powerless in ("asker", "watcher"):
        with pytest.raises(DualControlRefused, match="may not approve"):
            life.approve(kek, powerless)
        with pytest.raises(DualControlRefused, match="may not approve"):
            life.emergency(kek, powerless)
    with pytest.raises(UnknownIdentity):
        life.approve(kek, "nobody")
    with pytest.raises(KeyNotActive, match="takes no DestroyDue"):
        life.carry_out(kek, "hands")
    assert life.acts(kek) == [("hands", "key.request_destroy")]
    assert len(life.read(record)) == 1100


def test_atk_022_both_identities_stand_in_the_log_and_on_the_tombstone(life: KeyLife) -> None:
    _, kek = dataset(life)
    life.request(kek)
    life.approve(kek)
    life.house.clock.advance(7 * DAY_S)
    life.carry_out(kek)
    assert life.acts(kek) == [
        ("asker", "key.request_destroy"),
        ("decider", "key.approve_destroy"),
        ("hands", "key.destroy"),
    ]
    (stone,) = life.house.ledger.catalogue.tombstones()
    assert (stone.kek, stone.requested_by, stone.approved_by) == (str(kek), "asker", "decider")
    assert life.house.ledger.audit.verify().holds


def test_atk_022_a_role_raised_in_the_database_takes_no_emergency_path(life: KeyLife) -> None:
    record, kek = dataset(life)
    life.request(kek, "decider")
    tamper(life.house.home.root, "UPDATE identity SET role = 'admin' WHERE name = 'asker'")
    with pytest.raises(LedgerUnusable, match="identity 'asker'"):
        life.emergency(kek, "asker")
    assert len(life.read(record)) == 1100


# -- ATK-024: short windows, live runs


@pytest.mark.parametrize("days", [0.0, 1.0, 6.9, -7.0, 31.0, float("nan"), float("inf")])
def test_atk_024_a_window_that_is_too_short_or_none_is_refused(life: KeyLife, days: float) -> None:
    record, kek = dataset(life)
    with pytest.raises(StokerError) as refused:
        life.request(kek, window_s=days * DAY_S)
    if days == days and abs(days) != float("inf"):
        assert isinstance(refused.value, DestroyWindowRefused)
    assert life.acts(kek) == []
    with pytest.raises(DualControlRefused, match="Nobody has requested"):
        life.approve(kek)
    assert len(life.read(record)) == 1100


def test_atk_024_nothing_is_destroyed_before_its_window_is_over(life: KeyLife) -> None:
    _, kek = dataset(life)
    life.request(kek, window_s=8 * DAY_S)
    life.approve(kek)
    life.house.clock.advance(8 * DAY_S - 1)
    with pytest.raises(DestroyWindowRefused):
        life.carry_out(kek)
    assert life.sweep().failed == ()
    assert life.backend.info(kek).state is KekState.PENDING_DESTROY
    assert "key.destroy" not in [action for _, action in life.acts(kek)]


def test_atk_024_while_a_run_reads_the_data_the_usual_path_is_refused(life: KeyLife) -> None:
    record, kek = dataset(life)
    run = life.house.run(record)
    life.request(kek)
    with pytest.raises(KeyInUse, match=run) as refused:
        life.approve(kek)
    assert "--emergency" in refused.value.hint
    assert len(life.read(record)) == 1100
    with life.house.ledger.act(actor="asker", action="run.end", subject=f"run/{run}", detail={}) as catalogue:
        catalogue.end_run(run, RunOutcome.CANCELLED, life.house.clock.now_s())
    assert life.approve(kek).state is KekState.PENDING_DESTROY


def test_atk_024_the_emergency_path_needs_a_reason_and_records_the_runs(life: KeyLife) -> None:
    record, kek = dataset(life)
    run = life.house.run(record)
    life.request(kek)
    for reason in ("", "  ", "two\nlines", "x" * 501):
        with pytest.raises(BadReason):
            life.emergency(kek, reason=reason)
    life.emergency(kek, reason="the disk was stolen")
    (death,) = life.house.acts("key.destroy")
    assert (death["how"], death["reason"], death["runs"]) == ("emergency", "the disk was stolen", [run])
    assert (death["requested_by"], death["actor"]) == ("asker", "decider")


def test_atk_024_an_emergency_ends_a_pending_destruction_at_once(life: KeyLife) -> None:
    _, kek = dataset(life)
    life.request(kek)
    life.approve(kek, "hands")
    with pytest.raises(DualControlRefused):
        life.emergency(kek, "asker")
    assert life.emergency(kek, "decider").state is KekState.DESTROYED


# -- withdrawing


@pytest.mark.parametrize("by", ["asker", "decider"])
def test_who_asked_or_approved_may_withdraw_until_the_window_is_over(life: KeyLife, by: str) -> None:
    record, kek = dataset(life)
    life.request(kek)
    life.approve(kek)
    with pytest.raises(KeyActRefused, match="hands neither asked"):
        life.withdraw(kek, "hands")
    life.house.clock.advance(7 * DAY_S - 1)
    assert life.withdraw(kek, by).state is KekState.ACTIVE
    assert len(life.read(record)) == 1100
    life.house.clock.advance(DAY_S)
    assert [each.did for each in life.sweep().done if each.did != "warn"] == []
    assert len(life.read(record)) == 1100


def test_what_is_over_cannot_be_withdrawn(life: KeyLife) -> None:
    _, kek = dataset(life)
    life.request(kek)
    life.approve(kek)
    life.house.clock.advance(7 * DAY_S)
    with pytest.raises(DestroyWindowRefused):
        life.withdraw(kek, "asker")
    assert life.carry_out(kek).state is KekState.DESTROYED


# -- ATK-034: an old backup of the key store comes back


@pytest.mark.parametrize("when", ["before it was asked for", "while it was pending"])
def test_atk_034_a_restored_key_store_loses_its_dead_key_before_anything_is_opened(
    tmp_path: Path, when: str
) -> None:
    with life_home(tmp_path) as house:
        life = KeyLife(house)
        record, kek = dataset(life)
        if when == "while it was pending":
            life.request(kek)
            life.approve(kek)
        shutil.copytree(house.home.keys_dir, tmp_path / "backup")
        if when == "before it was asked for":
            life.request(kek)
        life.emergency(kek)
        assert life.prove(kek).holds
    replace_folder(house.home.keys_dir, tmp_path / "backup")
    with life_home(tmp_path) as house:
        life = KeyLife(house)
        assert house.backend.info(kek).state is not KekState.DESTROYED, "the backup held it"
        assert not life.prove(kek).holds, "and the proof says so until the tombstones are applied"
        reconcile_tombstones(ledger=house.ledger, backend=house.backend)  # what every face does first
        with pytest.raises(KeyDestroyed):
            life.read(house.now(record))
        assert life.prove(kek).holds
        assert house.ledger.audit.verify().holds


# -- the proof itself


def test_a_proof_needs_a_death(life: KeyLife) -> None:
    _, kek = dataset(life)
    life.request(kek)
    life.approve(kek)
    with pytest.raises(DeathNotProved, match="pending-destroy"):
        life.prove(kek)


def test_a_copy_that_cannot_be_reached_leaves_the_proof_open(life: KeyLife, tmp_path: Path) -> None:
    _, kek = dataset(life)
    life.request(kek)
    life.emergency(kek)
    (tmp_path / "a file").write_text("")
    life.copies = ((tmp_path / "a file" / "store").as_uri(),)
    assert outcomes(life, kek)["copy 1"] is Outcome.UNTRIED
    assert not recorded_proofs(life.house.ledger)[str(kek)].holds
    (warned,) = life.sweep().failed
    assert (warned.did, warned.detail.startswith("not proved")) == ("prove", True)
    life.copies = ()
    assert [each.did for each in life.sweep().done] == ["prove"]
    assert life.sweep().done == ()


def test_a_key_that_still_opens_what_it_sealed_is_found_on_every_replica(
    life: KeyLife, tmp_path: Path
) -> None:
    """Two key stores: the destroyed one is proved against the one that somebody kept."""
    record, kek = dataset(life)
    life.cache(record)
    shutil.copytree(life.house.home.keys_dir, tmp_path / "kept")
    life.request(kek)
    life.emergency(kek)
    life.house = type(life.house)(
        **{
            name: getattr(life.house, name) for name in ("home", "ledger", "store", "cache", "clock", "watch")
        },
        backend=open_backend((tmp_path / "kept").as_uri(), clock=life.house.clock, passphrase=None),
    )
    proof = life.prove(kek)
    assert not proof.holds
    assert {trial.replica: trial.outcome for trial in proof.trials} == {
        KEY_BACKEND: Outcome.OPENED,
        VAULT: Outcome.UNTRIED,
        "store": Outcome.OPENED,
        life.node_cache: Outcome.OPENED,
    }


def test_a_kek_without_any_stream_is_proved_by_a_key_wrapped_for_it(life: KeyLife) -> None:
    record, kek = dataset(life)
    life.house.store.delete_prefix(f"datasets/{record.name}/{record.version}")
    life.request(kek)
    canary = recorded_canary(life.house.ledger, kek)
    assert canary is not None
    assert canary.where == "a key that was wrapped for this"
    life.emergency(kek)
    assert outcomes(life, kek) == {
        KEY_BACKEND: Outcome.REFUSED,
        VAULT: Outcome.REFUSED,
        "store": Outcome.ABSENT,
        life.node_cache: Outcome.ABSENT,
    }


def test_what_opened_outweighs_everything_and_a_refusal_proves_nothing_beside_the_untried() -> None:
    assert Trial.of("x", ["gone"], ["a"], ["b"]).outcome is Outcome.OPENED
    assert Trial.of("x", ["gone"], [], ["b"]).outcome is Outcome.UNTRIED
    assert Trial.of("x", ["gone"]).outcome is Outcome.REFUSED
    assert Trial.of("x", []).outcome is Outcome.ABSENT


def test_the_log_comes_before_the_death(life: KeyLife) -> None:
    """Where the log cannot be written, no key is destroyed, suspended or approved away."""
    record, kek = dataset(life)
    life.request(kek)
    tip = life.house.ledger.audit.size
    tamper(life.house.home.root, f"UPDATE audit_checkpoint SET note = 'no note' WHERE size = {tip}")
    for path in (life.approve, life.emergency):
        with pytest.raises(LedgerUnusable):
            path(kek)
    assert life.backend.info(kek).state is KekState.ACTIVE
    assert len(life.read(record)) == 1100


def test_times_are_told_to_people_in_utc(life: KeyLife) -> None:
    _, kek = dataset(life)
    life.request(kek)
    info = life.approve(kek)
    assert info.destroy_at_s is not None
    (warning,) = (each for each in life.sweep().warnings if each.kek == str(kek))
    assert iso_utc(info.destroy_at_s) in warning.detail
