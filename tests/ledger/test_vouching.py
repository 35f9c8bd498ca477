"""A row that gives power is believed when the signed log says the same of it, and not otherwise."""

from __future__ import annotations

import dataclasses
import sqlite3
from pathlib import Path

import pytest

from stoker.core.clock import ManualClock
from stoker.ledger.errors import LedgerUnusable
from stoker.ledger.ledger import Ledger
from stoker.ledger.records import ReviewState, Role
from support import ledger_samples as samples


def edit(folder: Path, *statements: str) -> None:
    connection = sqlite3.connect(folder / "ledger.db")
    with connection:
        for statement in statements:
            assert connection.execute(statement).rowcount == 1
    connection.close()


def act(ledger: Ledger) -> None:
    with ledger.act(actor="alice", action="test", subject="test", detail={}):
        pass


def test_every_kind_of_row_is_vouched_for_also_after_further_acts(tmp_path: Path) -> None:
    with samples.open_ledger(tmp_path) as ledger:
        samples.fill(ledger)
        catalogue = ledger.catalogue
        records = (
            *catalogue.identities(),
            *catalogue.sources(),
            *catalogue.reviews(),
            *catalogue.datasets(),
            *catalogue.runs(),
            *catalogue.checkpoints(catalogue.runs()[0].id),
            *catalogue.tombstones(),
        )
        assert len({type(record) for record in records}) == 7
        for _ in range(5):
            ledger.vouch(*records)
            act(ledger)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE identity SET role = 'admin'",
        "UPDATE identity SET entry = entry + 1",
        "UPDATE identity SET entry = 10000",
        "UPDATE identity SET entry = 'first'",
    ],
)
def test_a_row_that_never_changes_is_refused_once_it_did(tmp_path: Path, statement: str) -> None:
    with samples.open_ledger(tmp_path) as ledger:
        samples.fill(ledger)
        edit(tmp_path, statement)
        with pytest.raises(LedgerUnusable, match=r"identity 'alice'.*changed outside Stoker"):
            ledger.vouch(ledger.catalogue.identity("alice"))


def test_a_row_that_was_slipped_in_is_refused(tmp_path: Path) -> None:
    with samples.open_ledger(tmp_path) as ledger:
        samples.fill(ledger)
        edit(tmp_path, "INSERT INTO tombstone VALUES ('dataset/a/b#1', 'alice', 'bob', 1.0, 0, 0)")
        planted = next(each for each in ledger.catalogue.tombstones() if each.kek == "dataset/a/b#1")
        with pytest.raises(LedgerUnusable, match="tombstone"):
            ledger.vouch(planted)


@pytest.mark.parametrize("asked_before", [False, True])
def test_an_earlier_state_put_back_is_refused_though_it_was_once_written(
    tmp_path: Path, asked_before: bool
) -> None:
    revoked = dataclasses.replace(samples.approved(), state=ReviewState.REVOKED, reason="withdrawn")
    with samples.open_ledger(tmp_path) as ledger:
        samples.fill(ledger)
        if asked_before:
            ledger.vouch(samples.approved())
        with ledger.act(actor="bob", action="review.revoke", subject="review", detail={}) as catalogue:
            catalogue.put_review(revoked)
        act(ledger)
        ledger.vouch(revoked)
        edit(tmp_path, f"UPDATE review SET state = 'approved', reason = '{samples.approved().reason}'")
        assert ledger.catalogue.review(revoked.id) == samples.approved()
        with pytest.raises(LedgerUnusable, match="review 'rev-1'"):
            ledger.vouch(samples.approved())


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_entry SET row_digests = '[]' WHERE action = 'review.revoke'",
        "DELETE FROM audit_entry WHERE action = 'review.revoke'",
        "UPDATE audit_checkpoint SET root = zeroblob(32) WHERE size = (SELECT max(size) FROM audit_entry)",
    ],
)
def test_editing_the_log_as_well_does_not_help(tmp_path: Path, statement: str) -> None:
    statement = statement.replace("max(size) FROM audit_entry", "max(idx) + 1 FROM audit_entry")
    revoked = dataclasses.replace(samples.approved(), state=ReviewState.REVOKED, reason="withdrawn")
    with samples.open_ledger(tmp_path) as ledger:
        samples.fill(ledger)
        with ledger.act(actor="bob", action="review.revoke", subject="review", detail={}) as catalogue:
            catalogue.put_review(revoked)
        act(ledger)
        edit(
            tmp_path,
            f"UPDATE review SET state = 'approved', reason = '{samples.approved().reason}'",
            statement,
        )
        with pytest.raises(LedgerUnusable):
            ledger.vouch(samples.approved())


def test_a_record_that_is_not_the_row_is_refused(tmp_path: Path) -> None:
    with samples.open_ledger(tmp_path) as ledger:
        samples.fill(ledger)
        made_up = dataclasses.replace(ledger.catalogue.identity("alice"), role=Role.ADMIN)
        with pytest.raises(LedgerUnusable, match="not what was read"):
            ledger.vouch(made_up)
        with pytest.raises(LedgerUnusable, match="gone"):
            ledger.vouch(samples.identity_record("nobody"))


def test_asking_again_reads_only_what_is_new(tmp_path: Path) -> None:
    with samples.open_ledger(tmp_path, ManualClock(samples.NOW_S)) as ledger:
        samples.fill(ledger)
        ledger.vouch(samples.approved())
        # What was read and verified is not read again: damage there is for `audit verify` to find.
        edit(tmp_path, "UPDATE audit_entry SET actor = 'mallory' WHERE idx = 2")
        act(ledger)
        ledger.vouch(samples.approved())
