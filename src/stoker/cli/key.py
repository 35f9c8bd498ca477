"""`stoker key`: keys, their states, and destroying one by two identities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import click

from stoker.cli.command import Deed, House, command
from stoker.cli.table import day, table
from stoker.keys.backend import KekInfo
from stoker.keys.refs import KekRef


@dataclass(frozen=True, slots=True)
class KeyRow:
    """One KEK without its bytes. Times are seconds since the Unix epoch."""

    kek: str
    purpose: str
    state: str
    created_s: float
    expires_s: float | None
    destroy_requested_by: str | None
    destroy_approved_by: str | None


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys concerned."""

    kind: ClassVar[str] = "keys"
    version: ClassVar[int] = 1
    keys: tuple[KeyRow, ...]


def _row(info: KekInfo) -> KeyRow:
    return KeyRow(
        str(info.ref),
        info.purpose,
        info.state,
        info.created_s,
        info.expires_s,
        info.destroy_requested_by,
        info.destroy_approved_by,
    )


def _text(result: Keys) -> str:
    rows = [
        (row.kek, row.purpose, row.state, day(row.expires_s), row.destroy_requested_by or "-")
        for row in result.keys
    ]
    return table(("key", "purpose", "state", "expires", "destruction asked by"), rows)


@click.group()
def key() -> None:
    """Keys and their states; destroying one takes two identities."""


@command("ls", needs=Deed.LOOK, text=_text)
def ls(house: House) -> Keys:
    """Every KEK, destroyed ones too."""
    return Keys(tuple(_row(info) for info in house.backend.list_keks()))


@command(
    "destroy", needs=Deed.KEY_REQUEST_DESTROY, needs_with={"approve": Deed.KEY_APPROVE_DESTROY}, text=_text
)
@click.argument("kek")
@click.option("--approve", is_flag=True, help="Carry out what another identity asked for.")
def destroy(house: House, kek: str, approve: bool) -> Keys:
    """Ask that KEK be destroyed; with --approve, as another identity, do it. What it sealed is then lost."""
    from stoker.keys.destruction import approve_destruction, request_destruction

    act = approve_destruction if approve else request_destruction
    return Keys(
        (_row(act(KekRef.parse(kek), actor=house.actor, ledger=house.ledger, backend=house.backend)),)
    )


key.add_command(ls)
key.add_command(destroy)
