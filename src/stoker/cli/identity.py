"""`stoker identity`: people and services that act."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import click

from stoker.cli.command import Deed, House, command
from stoker.cli.table import day, table
from stoker.ledger.records import Role


@dataclass(frozen=True, slots=True)
class IdentityRow:
    """One identity, for people and scripts. `public_key` is 64 hexadecimal digits."""

    name: str
    role: str
    public_key: str
    created_s: float


@dataclass(frozen=True, slots=True)
class Identities:
    """The answer of both commands: the identities concerned."""

    kind: ClassVar[str] = "identities"
    version: ClassVar[int] = 1
    identities: tuple[IdentityRow, ...]


def _text(result: Identities) -> str:
    rows = [(row.name, row.role, row.public_key[:16], day(row.created_s)) for row in result.identities]
    return table(("name", "role", "public key", "created"), rows)


@click.group()
def identity() -> None:
    """People and services that act, and their roles."""


@command("create", needs=Deed.IDENTITY_CREATE, text=_text)
@click.argument("name")
@click.option("--role", type=click.Choice([role.value for role in Role]), required=True)
def create(house: House, name: str, role: str) -> Identities:
    """Make NAME known, with a signing key of its own."""
    from stoker.keys.identities import create_identity

    record = create_identity(
        name,
        Role(role),
        actor=None if house.admitted is None else house.admitted.name,
        ledger=house.ledger,
        backend=house.backend,
        clock=house.clock,
    )
    return Identities((IdentityRow(record.name, record.role, record.public_key.hex(), record.created_s),))


@command("ls", needs=Deed.LOOK, text=_text)
def ls(house: House) -> Identities:
    """Every identity."""
    return Identities(
        tuple(
            IdentityRow(each.name, each.role, each.public_key.hex(), each.created_s)
            for each in house.ledger.catalogue.identities()
        )
    )


identity.add_command(create)
identity.add_command(ls)
