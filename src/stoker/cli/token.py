"""`stoker token`: proving who one is, by a secret that is shown once."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import click

from stoker.cli.command import Deed, House, command
from stoker.cli.table import day, pairs, table
from stoker.core.errors import StokerError
from stoker.ledger.access import create_token, revoke_token, scopes_of
from stoker.ledger.permissions import ALL_SCOPES, known_scopes
from stoker.ledger.records import AccessTokenRecord

_DAY_S = 86_400.0


class NoTokenFile(StokerError):
    """The file that a new token was to be written to exists already, or cannot be made."""

    exit_code = 176


@dataclass(frozen=True, slots=True)
class TokenRow:
    """One token without its secret. Times are seconds since the Unix epoch."""

    id: str
    identity: str
    scopes: tuple[str, ...]
    created_by: str
    created_s: float
    expires_s: float
    revoked_s: float | None


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens concerned, oldest first."""

    kind: ClassVar[str] = "tokens"
    version: ClassVar[int] = 1
    tokens: tuple[TokenRow, ...]


@dataclass(frozen=True, slots=True)
class NewToken:
    """A token that was just made. `text` is the secret, told this once; None when it went to `file`."""

    kind: ClassVar[str] = "token"
    version: ClassVar[int] = 1
    token: TokenRow
    file: str | None
    text: str | None


def _row(record: AccessTokenRecord) -> TokenRow:
    return TokenRow(
        record.id,
        record.identity,
        scopes_of(record),
        record.created_by,
        record.created_s,
        record.expires_s,
        record.revoked_s,
    )


def _list_text(result: Tokens) -> str:
    rows = [
        (
            row.id,
            row.identity,
            ", ".join(row.scopes),
            row.created_by,
            day(row.expires_s),
            day(row.revoked_s),
        )
        for row in result.tokens
    ]
    return table(("token", "identity", "scopes", "made by", "expires", "revoked"), rows)


def _new_text(result: NewToken) -> str:
    row = result.token
    where = ("written to", result.file) if result.text is None else ("token", result.text)
    note = "keep it in a file of mode 600 and let STOKER_TOKEN_FILE name that; it is not shown again"
    return pairs(
        [
            ("id", row.id),
            ("identity", row.identity),
            ("scopes", ", ".join(row.scopes)),
            ("expires", day(row.expires_s)),
            where,
            ("note", note),
        ]
    )


@contextlib.contextmanager
def _new_file(path: Path | None) -> Iterator[Callable[[str], None]]:
    """Something that writes a token to a file that was made for it, before there is a token; or nowhere."""
    if path is None:
        yield lambda _: None
        return
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise NoTokenFile(
            f"{path} cannot be made: {error.strerror}.", hint="Name a new file in a folder that you own."
        ) from error
    try:
        with os.fdopen(descriptor, "w") as file:
            yield lambda text: print(text, file=file)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


@click.group()
def token() -> None:
    """Tokens by which identities prove themselves: make, list, revoke."""


@command("create", needs=Deed.TOKEN_CREATE, text=_new_text)
@click.argument("identity")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    type=click.Choice(known_scopes()),
    metavar="SCOPE",
    help=f"What it is for: {ALL_SCOPES}, a group such as review, or one deed, review.decide; repeatable.",
)
@click.option("--days", type=click.FloatRange(0, 366, min_open=True), default=30.0, show_default=True)
@click.option("--to", "target", type=click.Path(path_type=Path), help="Write it to this new file, mode 600.")
def create(
    house: House, identity: str, scopes: tuple[str, ...], days: float, target: Path | None
) -> NewToken:
    """Make a token of IDENTITY. It is shown once: the ledger keeps a digest of it only.

    Everybody may make tokens of their own, an admin for others. All scopes when none is given.
    """
    with _new_file(target) as write:
        record, text = create_token(
            identity,
            scopes or (ALL_SCOPES,),
            days * _DAY_S,
            by=house.admitted,
            ledger=house.ledger,
            clock=house.clock,
        )
        write(text)
    row = _row(record)
    return NewToken(row, None, text) if target is None else NewToken(row, str(target), None)


@command("ls", needs=Deed.LOOK, text=_list_text)
def ls(house: House) -> Tokens:
    """Every token, revoked and expired ones too; never a secret."""
    return Tokens(tuple(_row(each) for each in house.ledger.catalogue.tokens()))


@command("revoke", needs=Deed.TOKEN_REVOKE, text=_list_text)
@click.argument("token_id", metavar="TOKEN")
def revoke(house: House, token_id: str) -> Tokens:
    """End TOKEN at once: its sessions too. One's own, or any as an admin."""
    record = revoke_token(token_id, by=house.admitted, ledger=house.ledger, clock=house.clock)
    return Tokens((_row(record),))


for each in (create, ls, revoke):
    token.add_command(each)
