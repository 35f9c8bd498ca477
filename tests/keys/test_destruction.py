"""Identities and destroying a key with two of them, on a real ledger and a real key store."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from stoker.core.clock import ManualClock
from stoker.core.errors import BadName
from stoker.keys.backend import KeyBackend
from stoker.keys.destruction import (
    approve_destruction,
    destroy_in_emergency,
    reconcile_tombstones,
    request_destruction,
)
from stoker.keys.errors import DualControlRefused, KeyDestroyed, KeyUnknown
from stoker.keys.identities import create_identity, identity_signer
from stoker.keys.open import open_backend
from stoker.keys.partition import BackendKeySource
from stoker.keys.refs import KekRef, Purpose
from stoker.keys.states import KekState
from stoker.ledger.errors import LedgerUnusable, UnknownIdentity
from stoker.ledger.ledger import Ledger
from stoker.ledger.records import Role
from support.key_death import destroy_at_once


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def ledger(tmp_path: Path, clock: ManualClock) -> Iterator[Ledger]:
    with Ledger.open(f"sqlite:///{tmp_path}/ledger.db", tmp_path / "ledger.key", clock) as ledger:
        yield ledger


@pytest.fixture
def backend(tmp_path: Path, clock: ManualClock) -> KeyBackend:
    (tmp_path / "keys").mkdir(mode=0o700)
    return open_backend((tmp_path / "keys").as_uri(), clock=clock, passphrase=None)


@pytest.fixture
def people(ledger: Ledger, backend: KeyBackend, clock: ManualClock) -> None:
    for name, role in (
        ("alice", Role.RESEARCHER),
        ("bob", Role.REVIEWER),
        ("carol", Role.AUDITOR),
        ("dan", Role.REVIEWER),
    ):
        create_identity(name, role, actor=None, ledger=ledger, backend=backend, clock=clock)


def actions(ledger: Ledger) -> list[tuple[str, str, str]]:
    return [(each.actor, each.action, each.subject) for each in ledger.audit.entries()]


def test_an_identity_has_a_key_whose_public_half_is_in_the_ledger(
    ledger: Ledger, backend: KeyBackend, people: None
) -> None:
    alice = ledger.catalogue.identity("alice")
    assert alice.role is Role.RESEARCHER
    assert alice.public_key == identity_signer(backend, "alice").public_key
    assert ("alice", "identity.create", "identity/alice") in actions(ledger)


def test_an_identity_named_like_a_path_is_refused(
    ledger: Ledger, backend: KeyBackend, clock: ManualClock
) -> None:
    with pytest.raises(BadName):
        create_identity("../root", Role.ADMIN, actor=None, ledger=ledger, backend=backend, clock=clock)
    assert actions(ledger) == []


def test_two_identities_destroy_a_key_and_everything_says_so(
    ledger: Ledger, backend: KeyBackend, people: None
) -> None:
    kek = backend.create_kek("dataset/own-text", Purpose.DATASET, expires_s=None)
    keys = BackendKeySource(backend)
    key, wrapped = keys.new_partition_key(kek, Purpose.DATASET)
    key.wipe()
    request_destruction(kek, actor="alice", ledger=ledger, backend=backend)
    keys.open_partition_key(kek, wrapped, Purpose.DATASET).wipe()
    info = destroy_in_emergency(kek, actor="bob", reason="a leak", ledger=ledger, backend=backend)
    assert info.state is KekState.DESTROYED
    with pytest.raises(KeyDestroyed):
        keys.open_partition_key(kek, wrapped, Purpose.DATASET)
    (stone,) = ledger.catalogue.tombstones()
    assert (stone.kek, stone.requested_by, stone.approved_by) == (str(kek), "alice", "bob")
    assert actions(ledger)[-2:] == [
        ("alice", "key.request_destroy", f"key/{kek}"),
        ("bob", "key.destroy", f"key/{kek}"),
    ]


@pytest.mark.parametrize(
    ("requester", "approver"), [("bob", "bob"), ("bob", "carol"), ("alice", "alice"), (None, "bob")]
)
def test_one_identity_an_auditor_or_no_request_destroys_nothing(
    ledger: Ledger, backend: KeyBackend, people: None, requester: str | None, approver: str
) -> None:
    kek = backend.create_kek("dataset/own-text", Purpose.DATASET, expires_s=None)
    if requester is not None:
        request_destruction(kek, actor=requester, ledger=ledger, backend=backend)
    with pytest.raises(DualControlRefused):
        approve_destruction(kek, actor=approver, ledger=ledger, backend=backend)
    assert backend.info(kek).state is KekState.ACTIVE
    assert ledger.catalogue.tombstones() == ()
    assert "key.destroy" not in [action for _, action, _ in actions(ledger)]


def test_unknown_identities_and_keys_are_named(ledger: Ledger, backend: KeyBackend, people: None) -> None:
    kek = backend.create_kek("dataset/own-text", Purpose.DATASET, expires_s=None)
    with pytest.raises(UnknownIdentity):
        request_destruction(kek, actor="mallory", ledger=ledger, backend=backend)
    with pytest.raises(KeyUnknown):
        request_destruction(KekRef("dataset/other", 1), actor="alice", ledger=ledger, backend=backend)


def test_a_death_that_the_ledger_missed_is_recorded_later(
    ledger: Ledger, backend: KeyBackend, people: None
) -> None:
    kek = backend.create_kek("dataset/own-text", Purpose.DATASET, expires_s=None)
    backend.request_destroy(kek, "alice")
    backend.destroy(kek, "bob")
    assert not ledger.catalogue.is_tombstoned(str(kek))
    reconcile_tombstones(ledger=ledger, backend=backend)
    reconcile_tombstones(ledger=ledger, backend=backend)
    (stone,) = ledger.catalogue.tombstones()
    assert (stone.kek, stone.requested_by, stone.approved_by) == (str(kek), "alice", "bob")


def test_a_key_store_restored_from_a_copy_loses_the_key_again(
    ledger: Ledger, backend: KeyBackend, people: None, clock: ManualClock, tmp_path: Path
) -> None:
    kek = backend.create_kek("dataset/own-text", Purpose.DATASET, expires_s=None)
    shutil.copytree(tmp_path / "keys", tmp_path / "copy")
    destroy_at_once(kek, ledger=ledger, backend=backend, asker="alice", decider="bob")
    restored = open_backend((tmp_path / "copy").as_uri(), clock=clock, passphrase=None)
    assert restored.info(kek).state is KekState.ACTIVE
    reconcile_tombstones(ledger=ledger, backend=restored)
    assert restored.info(kek).state is KekState.DESTROYED


def edit(folder: Path, statement: str, *values: object) -> None:
    with contextlib.closing(sqlite3.connect(folder / "ledger.db")) as database, database:
        assert database.execute(statement, values).rowcount == 1


def test_a_tombstone_planted_in_the_database_destroys_nothing(
    ledger: Ledger, backend: KeyBackend, people: None, tmp_path: Path
) -> None:
    """Whoever can only write the ledger's database must not get around the two identities."""
    kek = backend.create_kek("dataset/own-text", Purpose.DATASET, expires_s=None)
    edit(tmp_path, "INSERT INTO tombstone VALUES (?, 'alice', 'bob', 1.0, 0, 0)", str(kek))
    with pytest.raises(LedgerUnusable, match="tombstone 'dataset/own-text#1'"):
        reconcile_tombstones(ledger=ledger, backend=backend)
    assert backend.info(kek).state is KekState.ACTIVE


def test_a_role_that_was_raised_in_the_database_approves_nothing(
    ledger: Ledger, backend: KeyBackend, people: None, tmp_path: Path
) -> None:
    kek = backend.create_kek("dataset/own-text", Purpose.DATASET, expires_s=None)
    request_destruction(kek, actor="bob", ledger=ledger, backend=backend)
    edit(tmp_path, "UPDATE identity SET role = 'admin' WHERE name = 'alice'")
    with pytest.raises(LedgerUnusable, match="identity 'alice'"):
        approve_destruction(kek, actor="alice", ledger=ledger, backend=backend)
    assert backend.info(kek).state is KekState.ACTIVE
