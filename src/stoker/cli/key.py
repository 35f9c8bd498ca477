"""`stoker key`: keys, their states and periods, and what is coming to them."""

from __future__ import annotations

import click

from stoker.cli.command import Deed, House, command
from stoker.cli.key_life import compromise, destroy, prove, resume, rewrap, rotate, suspend, sweep
from stoker.cli.key_text import keys_text, show_text
from stoker.keys.overview import Keys, overview
from stoker.keys.refs import KekRef


@click.group()
def key() -> None:
    """Keys and their states; destroying one takes two identities and a window."""


@command("ls", needs=Deed.LOOK, text=keys_text)
def ls(house: House) -> Keys:
    """Every KEK, destroyed ones too, and what is coming: an expiry, a rotation, a destruction."""
    return overview(ledger=house.ledger, backend=house.backend, clock=house.clock)


@command("show", needs=Deed.LOOK, text=show_text)
@click.argument("kek")
def show(house: House, kek: str) -> Keys:
    """All that may be known of KEK but its bytes."""
    return overview(ledger=house.ledger, backend=house.backend, clock=house.clock, only=(KekRef.parse(kek),))


for _each in (ls, show, rotate, rewrap, suspend, resume, compromise, destroy, sweep, prove):
    key.add_command(_each)
