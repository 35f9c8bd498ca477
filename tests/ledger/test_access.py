"""Tokens: shown once, a digest at rest, scoped, expiring, revocable, and vouched for by the log."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from stoker.core.clock import ManualClock
from stoker.ledger.access import Caller, authenticate, caller_of_token, create_token, revoke_token
from stoker.ledger.errors import LedgerRefused, LedgerUnusable, PermissionRefused, TokenRefused
from stoker.ledger.ledger import Ledger
from stoker.ledger.records import Role
from support import ledger_samples as samples

HOUR_S = 3600.0


@pytest.fixture
def people(ledger: Ledger) -> Ledger:
    for name, role in (("root", Role.ADMIN), ("ben", Role.REVIEWER), ("ada", Role.RESEARCHER)):
        with ledger.act(actor=name, action="identity.create", subject=name, detail={}) as catalogue:
            catalogue.add_identity(samples.identity_record(name, role))
    return ledger


def make(ledger: Ledger, name: str, *scopes: str, by: Caller | None = None, valid_s: float = HOUR_S) -> str:
    clock = ManualClock(samples.NOW_S)
    return create_token(name, scopes or ("all",), valid_s, by=by, ledger=ledger, clock=clock)[1]


def test_a_token_proves_its_identity_and_its_secret_is_nowhere(people: Ledger, tmp_path: Path) -> None:
    text = make(people, "ben", "review")
    clock = ManualClock(samples.NOW_S)
    caller = authenticate(text, ledger=people, clock=clock)
    assert (caller.name, caller.role, caller.scopes) == ("ben", Role.REVIEWER, ("review",))
    secret = text.rpartition(".")[2]
    (record,) = people.catalogue.tokens()
    assert record.digest == hashlib.sha256(bytes.fromhex(secret)).digest()
    people.close()
    for path in tmp_path.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert secret.encode() not in data and bytes.fromhex(secret) not in data, path


def test_a_wrong_token_tells_nothing_and_an_expired_or_revoked_one_opens_nothing(people: Ledger) -> None:
    text, clock = make(people, "ben"), ManualClock(samples.NOW_S)
    _, id, secret = text.split(".")
    wrong_secret = f"stoker-token-1.{id}.{'0' * 64}"
    wrong_id = f"stoker-token-1.{'0' * 16}.{secret}"
    messages = set()
    for wrong in (wrong_secret, wrong_id):
        with pytest.raises(TokenRefused) as refusal:
            authenticate(wrong, ledger=people, clock=clock)
        messages.add(str(refusal.value))
        assert secret not in refusal.value.message + refusal.value.hint
    assert len(messages) == 1, "whether an id exists is not told"
    for junk in ("", "stoker-token-1", text + "0", text.upper(), "x" * 100_000, text + "\n"):
        with pytest.raises(TokenRefused):
            authenticate(junk, ledger=people, clock=clock)
    clock.advance(HOUR_S)
    with pytest.raises(TokenRefused, match="expired"):
        authenticate(text, ledger=people, clock=clock)
    other = make(people, "ben")
    revoke_token(other.split(".")[1], by=None, ledger=people, clock=clock)
    with pytest.raises(TokenRefused, match="revoked"):
        authenticate(other, ledger=people, clock=ManualClock(samples.NOW_S))


def test_whoever_can_write_the_database_makes_and_revives_no_token(people: Ledger, tmp_path: Path) -> None:
    text, clock = make(people, "ben"), ManualClock(samples.NOW_S)
    id = text.split(".")[1]
    revoke_token(id, by=None, ledger=people, clock=clock)
    samples.tamper(tmp_path, "UPDATE access_token SET revoked_s = NULL")
    with pytest.raises(LedgerUnusable):
        caller_of_token(id, ledger=people, clock=clock)
    forged = hashlib.sha256(bytes(32)).digest()
    other = make(people, "ada").split(".")[1]
    samples.tamper(
        tmp_path, ("UPDATE access_token SET identity = 'root', digest = ? WHERE id = ?", (forged, other))
    )
    with pytest.raises(LedgerUnusable):
        authenticate(f"stoker-token-1.{other}.{'00' * 32}", ledger=people, clock=clock)


def test_nobody_makes_or_revokes_a_token_of_somebody_else_but_an_admin(people: Ledger) -> None:
    clock = ManualClock(samples.NOW_S)
    ada, root = Caller("ada", Role.RESEARCHER), Caller("root", Role.ADMIN)
    make(people, "ada", by=ada)
    make(people, "ben", by=root)
    with pytest.raises(PermissionRefused):
        make(people, "ben", by=ada)
    bens = people.catalogue.tokens("ben")[0]
    assert bens.created_by == "root"
    with pytest.raises(PermissionRefused):
        revoke_token(bens.id, by=ada, ledger=people, clock=clock)
    revoke_token(bens.id, by=root, ledger=people, clock=clock)
    with pytest.raises(TokenRefused, match="already"):
        revoke_token(bens.id, by=root, ledger=people, clock=clock)


def test_by_means_of_a_token_none_is_made_that_may_do_more_or_lives_longer(people: Ledger) -> None:
    clock = ManualClock(samples.NOW_S)
    caller = authenticate(make(people, "ben", "review.scan", "token"), ledger=people, clock=clock)
    for more in ("all", "review", "review.decide"):
        with pytest.raises(PermissionRefused):
            make(people, "ben", more, by=caller)
    record, _ = create_token("ben", ["review.scan"], 90 * HOUR_S, by=caller, ledger=people, clock=clock)
    assert record.expires_s == samples.NOW_S + HOUR_S


@pytest.mark.parametrize(
    ("scopes", "valid_s"), [((), 60.0), (("reviews",), 60.0), (("all",), 0.0), (("all",), 1e9)]
)
def test_a_token_for_nothing_or_for_ever_is_refused(
    people: Ledger, scopes: tuple[str, ...], valid_s: float
) -> None:
    with pytest.raises(LedgerRefused):
        create_token("ben", scopes, valid_s, by=None, ledger=people, clock=ManualClock(samples.NOW_S))
    assert people.catalogue.tokens() == ()
