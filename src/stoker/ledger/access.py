"""Who is calling: tokens are made, shown once, proved and revoked. See docs/design/ledger.md, "Tokens".

A token is `stoker-token-1.ID.SECRET`: 64 bits that name it and 256 that prove it. The ledger keeps SHA-256 of
the secret only, so that whoever reads the database can use none.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from stoker.core.canonical import JsonValue
from stoker.core.clock import Clock, iso_utc
from stoker.ledger.errors import LedgerRefused, PermissionRefused, TokenRefused
from stoker.ledger.ledger import Ledger
from stoker.ledger.permissions import ALL_SCOPES, Deed, known_scopes, may
from stoker.ledger.records import AccessTokenRecord, Role
from stoker.ledger.token_text import TOKEN_SHAPE

MAX_VALID_S: Final = 366 * 86_400.0
_MIN_VALID_S: Final = 60.0
_NONE_HERE: Final = "The token is not one of this ledger."
_ASK: Final = "Ask an admin for a new one: stoker token create."


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is calling. `token` and `scopes` are of the token that proves it; None where `--as` was trusted."""

    name: str
    role: Role
    token: str | None = None
    scopes: tuple[str, ...] | None = None


def known_caller(ledger: Ledger, name: str) -> Caller:
    """The identity `name`, unproved: for where `--as` is trusted. Raises UnknownIdentity, LedgerUnusable."""
    identity = ledger.catalogue.identity(name)
    ledger.vouch(identity)
    return Caller(identity.name, identity.role)


def create_token(
    identity: str, scopes: Collection[str], valid_s: float, *, by: Caller | None, ledger: Ledger, clock: Clock
) -> tuple[AccessTokenRecord, str]:
    """A new token of `identity` and its text, which is shown once and kept nowhere.

    `by` is who makes it, None for whoever sits at the machine. Everybody may make tokens of their own, an
    admin for others; by means of a token nobody makes one that may do more, or lives longer, than it does
    itself. Raises PermissionRefused, UnknownIdentity, LedgerRefused for an unknown scope or a wrong time.
    """
    owner = ledger.catalogue.identity(identity)
    if by is not None and by.name != owner.name and not may(by.role, Deed.TOKEN_CREATE):
        raise PermissionRefused(
            f"{by.name} is {by.role.value} and may not make a token for {owner.name}.", hint="Ask an admin."
        )
    wanted = tuple(sorted(set(scopes)))
    unknown = [each for each in wanted if each not in known_scopes()]
    if unknown or not wanted:
        raise LedgerRefused(
            f"{unknown[0][:60]!a} is no scope." if unknown else "A token needs a scope.",
            hint=f"Scopes are: {', '.join(known_scopes())}.",
        )
    if not _MIN_VALID_S <= valid_s <= MAX_VALID_S:
        raise LedgerRefused(
            "A token is valid for a minute at least and 366 days at most.", hint="Choose a time between."
        )
    now_s = clock.now_s()
    expires_s = now_s + valid_s
    if by is not None and by.token is not None:
        expires_s = min(expires_s, _require_no_more(by, wanted, ledger))
    id, secret = secrets.token_hex(8), secrets.token_bytes(32)
    maker = owner.name if by is None else by.name
    digest = hashlib.sha256(secret).digest()
    record = AccessTokenRecord(
        id, owner.name, digest, {"scopes": list(wanted)}, maker, now_s, expires_s, None
    )
    detail: dict[str, JsonValue] = {
        "identity": owner.name,
        "scopes": list(wanted),
        "expires_s": expires_s,
        "at_the_machine": by is None,
    }
    with ledger.act(actor=maker, action="token.create", subject=f"token/{id}", detail=detail) as catalogue:
        catalogue.add_token(record)
    return record, f"stoker-token-1.{id}.{secret.hex()}"


def _require_no_more(by: Caller, wanted: Collection[str], ledger: Ledger) -> float:
    """When the token that `by` used ends; raises PermissionRefused when `wanted` is more than it may do."""
    scopes = by.scopes or ()
    more = [
        each
        for each in wanted
        if ALL_SCOPES not in scopes and each not in scopes and each.partition(".")[0] not in scopes
    ]
    if more:
        raise PermissionRefused(
            f"The token of {by.name} is not for {more[0]}, so it can make none that is.",
            hint="Make it with a token of scope all.",
        )
    used = ledger.catalogue.token(by.token or "")
    return 0.0 if used is None else used.expires_s


def revoke_token(id: str, *, by: Caller | None, ledger: Ledger, clock: Clock) -> AccessTokenRecord:
    """End a token at once, everywhere. One's own, or as an admin. Raises TokenRefused, PermissionRefused."""
    record = ledger.catalogue.token(id)
    if record is None:
        raise TokenRefused(f"There is no token {id[:40]!a}.", hint="List them with: stoker token ls")
    if by is not None and by.name != record.identity and not may(by.role, Deed.TOKEN_REVOKE):
        raise PermissionRefused(
            f"{by.name} is {by.role.value} and may not revoke a token of {record.identity}.",
            hint="Ask an admin.",
        )
    actor = record.identity if by is None else by.name
    with ledger.act(
        actor=actor, action="token.revoke", subject=f"token/{id}", detail={"identity": record.identity}
    ) as catalogue:
        catalogue.revoke_token(id, clock.now_s())
    after = ledger.catalogue.token(id)
    assert after is not None, "nothing removes a token"
    return after


def authenticate(text: str, *, ledger: Ledger, clock: Clock) -> Caller:
    """Whose token `text` is. Raises TokenRefused, which never says more than the text itself proves.

    The rows of token and identity are vouched for by the audit log: whoever can only write the database makes
    no token, and revives none. Raises LedgerUnusable then.
    """
    shape = TOKEN_SHAPE.fullmatch(text)
    if shape is None:
        raise TokenRefused("The text is no token of Stoker.", hint=_ASK)
    id, digest = shape[1], hashlib.sha256(bytes.fromhex(shape[2])).digest()
    record = ledger.catalogue.token(id)
    if not hmac.compare_digest(digest, bytes(32) if record is None else record.digest) or record is None:
        raise TokenRefused(_NONE_HERE, hint=_ASK)
    return caller_of_token(record.id, ledger=ledger, clock=clock)


def caller_of_token(id: str, *, ledger: Ledger, clock: Clock) -> Caller:
    """Who a token that was proved before stands for now. Raises TokenRefused once revoked or over."""
    record = ledger.catalogue.token(id)
    if record is None:
        raise TokenRefused(_NONE_HERE, hint=_ASK)
    identity = ledger.catalogue.identity(record.identity)
    ledger.vouch(record, identity)
    if record.revoked_s is not None:
        raise TokenRefused(f"Token {id} was revoked at {iso_utc(record.revoked_s)}.", hint=_ASK)
    if clock.now_s() >= record.expires_s:
        raise TokenRefused(f"Token {id} expired at {iso_utc(record.expires_s)}.", hint=_ASK)
    return Caller(identity.name, identity.role, record.id, scopes_of(record))


def scopes_of(record: AccessTokenRecord) -> tuple[str, ...]:
    """What a token is for."""
    found = record.scopes.get("scopes")
    return tuple(str(each) for each in found) if isinstance(found, list) else ()
