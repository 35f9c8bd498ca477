"""How every command is declared: the shared options, the open house, and one result shown as text or JSON."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import click

from stoker.cli.house import House, open_house
from stoker.core.errors import EXIT_DONE
from stoker.core.result import Result, envelope
from stoker.ledger.permissions import Deed

NEEDS: Final[dict[click.Command, Mapping[str | None, Deed]]] = {}
"""What each command that was imported needs: by default (None), and with which of its options."""

Body = Callable[..., Result]
Text = Callable[[Any], str]


def _done(_: object) -> int:
    return EXIT_DONE


def command(
    name: str,
    *,
    needs: Deed,
    text: Text,
    exit_code: Callable[[Any], int] = _done,
    needs_with: Mapping[str, Deed] = MappingProxyType({}),
) -> Callable[[Body], click.Command]:
    """Declare a command whose body takes the House first and returns a Result.

    `needs` is what the caller must be allowed to do, or what `needs_with` says for the first of its options
    that is given; see stoker.ledger.permissions. `text` renders the result for people; `exit_code` judges
    it, 0 when not given. The shared options --json, --home and --as are added here, for every command.
    """

    def declare(body: Body) -> click.Command:
        @click.option("--json", "as_json", is_flag=True, help="Print one line of JSON instead of text.")
        @click.option("--home", type=click.Path(path_type=Path), help="Use this folder as STOKER_HOME.")
        @click.option(
            "--as", "acting", envvar="STOKER_IDENTITY", metavar="NAME", help="Act as this identity."
        )
        @functools.wraps(body)
        def run(as_json: bool, home: Path | None, acting: str | None, **arguments: Any) -> int:
            with open_house(home=home, acting=acting, as_json=as_json) as house:
                house.admit(next((deed for word, deed in needs_with.items() if arguments.get(word)), needs))
                result = body(house, **arguments)
            click.echo(envelope(result) if as_json else text(result).rstrip("\n"))
            return exit_code(result)

        declared = click.command(name, context_settings={"help_option_names": ["-h", "--help"]})(run)
        by_word: dict[str | None, Deed] = {None: needs}
        by_word.update(needs_with)
        NEEDS[declared] = by_word
        return declared

    return declare


__all__ = ["NEEDS", "Deed", "House", "command"]
