"""`stoker serve`: the page, on this machine's loopback."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import click

from stoker.cli.command import Deed, House, command
from stoker.core.errors import MissingExtra

SWEEP_EVERY_S = 3600.0


@dataclass(frozen=True, slots=True)
class Served:
    """How long the page was served. `sweeps` are the rounds of the timer."""

    kind: ClassVar[str] = "served"
    version: ClassVar[int] = 1
    url: str
    sweeps: int


def _text(result: Served) -> str:
    return f"served {result.url}, swept keys {result.sweeps} times"


@command("serve", needs=Deed.SERVE, text=_text)
@click.option(
    "--port", type=click.IntRange(0, 65_535), default=8470, show_default=True, help="0 takes a free one."
)
@click.option(
    "--certificate", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="PEM, to speak TLS."
)
@click.option("--key", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="Its private key.")
@click.option(
    "--host", "hosts", multiple=True, help="A further name under which it is asked for, by a proxy."
)
def serve(
    house: House, port: int, certificate: Path | None, key: Path | None, hosts: tuple[str, ...]
) -> Served:
    """Serve the page on 127.0.0.1 until it is ended; log in with a token. With --as it sweeps keys hourly."""
    import asyncio

    try:
        from stoker.web.app import make_app
        from stoker.web.server import listen, make_server
    except ImportError as error:
        raise MissingExtra(
            f"The page needs the package {error.name}.",
            hint="Install the extra 'web': pip install 'stoker[web]'",
        ) from error
    from stoker.web.house import WebHouse

    if (certificate is None) != (key is None):
        raise click.UsageError("--certificate and --key are given together.")
    parts = WebHouse(house.home, house.ledger, house.backend, house.store, house.cache, house.clock)
    names = ("127.0.0.1", "localhost", *hosts)
    app = make_app(parts, hosts=names, secure=certificate is not None)
    server = make_server(app, certificate=certificate, key=key)
    sock = listen(port)
    url = f"{'http' if certificate is None else 'https'}://127.0.0.1:{sock.getsockname()[1]}/"
    click.echo(f"serving {url}", err=True)
    sweeps = 0

    async def sweep_by_and_by() -> None:
        nonlocal sweeps
        while True:
            await asyncio.to_thread(_sweep, house)
            sweeps += 1
            await asyncio.sleep(SWEEP_EVERY_S)

    async def run() -> None:
        timer = asyncio.create_task(sweep_by_and_by()) if house.acting else None
        try:
            await server.serve(sockets=[sock])
        finally:
            if timer is not None:
                timer.cancel()

    asyncio.run(run())
    return Served(url, sweeps)


def _sweep(house: House) -> None:
    from stoker.cli.key_life import house_replicas
    from stoker.core.errors import StokerError
    from stoker.keys.sweep import sweep

    try:
        sweep(
            actor=house.actor,
            ledger=house.ledger,
            backend=house.backend,
            clock=house.clock,
            replicas=house_replicas(house),
        )
    except StokerError as error:
        click.echo(f"error: the sweep of keys: {error.message}", err=True)
