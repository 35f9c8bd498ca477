"""`stoker`: the tree of commands. Groups and commands are imported when they are used, not before.

`stoker --help` imports no torch, numpy, sqlalchemy or rich; tests/cli/test_main.py holds it to that.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import click

import stoker
from stoker.core.errors import EXIT_CANCELLED, EXIT_USAGE, StokerError


@dataclass(frozen=True, slots=True)
class Lazy:
    """Where a command lives and the line that help shows for it, known without importing it."""

    target: str
    summary: str


class LazyGroup(click.Group):
    """A group whose members are imported at first use."""

    def __init__(self, *args: Any, members: Mapping[str, Lazy], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._members = members

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._members)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        lazy = self._members.get(cmd_name)
        if lazy is None:
            return None
        module, _, attribute = lazy.target.partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, lazy.summary) for name, lazy in self._members.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            import difflib

            close = difflib.get_close_matches(args[0], list(self._members), n=1)
            if close:
                raise click.UsageError(
                    f"No such command {args[0]!r}. Did you mean {close[0]!r}?", ctx
                ) from error
            raise


COMMANDS: Final[dict[str, Lazy]] = {
    "quickstart": Lazy("stoker.cli.quickstart:quickstart", "The whole way on this machine, on real text."),
    "identity": Lazy("stoker.cli.identity:identity", "People and services that act, and their roles."),
    "token": Lazy("stoker.cli.token:token", "Tokens by which identities prove themselves."),
    "source": Lazy("stoker.cli.source:source", "What has been imported."),
    "import": Lazy("stoker.cli.source:import_", "Bring a folder of text into quarantine, sealed."),
    "review": Lazy("stoker.cli.review:review", "Scan a source; request, decide and revoke its use."),
    "prepare": Lazy("stoker.cli.prepare:prepare", "Turn an approved source into a sealed dataset."),
    "dataset": Lazy("stoker.cli.dataset:dataset", "What has been prepared, from what, and until when."),
    "key": Lazy("stoker.cli.key:key", "Keys and their states; destroying one takes two identities."),
    "train": Lazy("stoker.cli.run:train", "Train a model on a dataset and keep the run alive."),
    "run": Lazy("stoker.cli.run:run", "Runs: list, show, report, resume."),
    "goodput": Lazy("stoker.cli.goodput:goodput", "Where the time of runs went, failures, ETTR."),
    "export": Lazy("stoker.cli.export:export", "Take a run's model out of the house, in plain."),
    "fleet": Lazy("stoker.cli.run_on:fleet", "Look after the jobs of runs."),
    "node": Lazy("stoker.cli.node:node", "Nodes: check, drain, resume, exclude, find lemons."),
    "audit": Lazy("stoker.cli.audit:audit", "The log of every act: show, prove, verify."),
    "verify": Lazy("stoker.cli.verify:verify", "Check every promise now."),
    "serve": Lazy("stoker.cli.serve:serve", "The page: reviews, keys, the log, the promises."),
}


@click.group(cls=LazyGroup, members=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(stoker.__version__, prog_name="stoker")
def cli() -> None:
    """Stoker: private data in, a trained model out, and every promise on the way can be checked."""


def main(arguments: list[str] | None = None) -> None:
    """Run one command and leave with its exit code; errors become `error:` and `hint:` lines, or JSON."""
    arguments = sys.argv[1:] if arguments is None else arguments
    as_json = "--json" in arguments
    try:
        code = cli.main(args=arguments, prog_name="stoker", standalone_mode=False)
    except StokerError as error:
        sys.exit(_fail(error, as_json))
    except click.UsageError as error:
        sys.exit(_refuse_usage(error, as_json))
    except (KeyboardInterrupt, click.Abort):
        sys.exit(_cancelled(as_json))
    except BrokenPipeError:
        sys.exit(EXIT_CANCELLED)
    except Exception as error:  # noqa: BLE001 - the top of the process: a mistake of ours, told as such
        sys.exit(_broken(error, as_json))
    sys.exit(code if isinstance(code, int) else 0)


def _fail(error: StokerError, as_json: bool) -> int:
    from stoker.core.result import error_envelope

    if as_json:
        click.echo(error_envelope(error))
    else:
        click.echo(f"error: {printable(error.message)}", err=True)
        if error.hint:
            click.echo(f"hint: {printable(error.hint)}", err=True)
    return error.exit_code


class InternalError(StokerError):
    """A mistake in Stoker itself; the traceback on stderr says where."""

    exit_code = 171


def _broken(error: Exception, as_json: bool) -> int:
    import traceback

    # Only the text of errors that are about this machine: others may quote the data they were given.
    about = f": {error}"[:500] if isinstance(error, OSError | ImportError) else ""
    click.echo(printable("".join(traceback.format_tb(error.__traceback__))), err=True)
    told = InternalError(
        f"Stoker made a mistake: {type(error).__name__}{about}",
        hint="Report it with the traceback above; it holds no data of yours but file names.",
    )
    return _fail(told, as_json)


def _refuse_usage(error: click.UsageError, as_json: bool) -> int:
    import json

    path = error.ctx.command_path if error.ctx else "stoker"
    hint = f"See: {path} --help"
    message = error.format_message()
    if as_json:
        body = {"ok": False, "error": {"id": "usage", "message": message, "hint": hint}}
        click.echo(json.dumps(body, ensure_ascii=False))
    else:
        click.echo(f"error: {printable(message)}\nhint: {hint}", err=True)
    return EXIT_USAGE


def _cancelled(as_json: bool) -> int:
    hint = "Run the same command again; it cleans up or continues."
    if as_json:
        click.echo(
            '{"ok": false, "error": {"id": "cancelled", "message": "Cancelled.", "hint": "' + hint + '"}}'
        )
    else:
        click.echo(f"error: Cancelled.\nhint: {hint}", err=True)
    return EXIT_CANCELLED


def printable(text: str) -> str:
    """`text` with control characters but line ends shown as escapes, so that no name can drive a terminal."""
    return "".join(char if char == "\n" or char.isprintable() else ascii(char)[1:-1] for char in text)
