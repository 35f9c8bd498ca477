"""Where a command takes secrets from: files open to nobody else, or a prompt."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import click

from stoker.core.errors import StokerError
from stoker.ledger.token_text import TOKEN_SHAPE

MAX_SECRET_BYTES: Final = 4096


class TokenNeeded(StokerError):
    """Identities have to be proved here, and no token was given."""

    exit_code = 173


class SecretInSight(StokerError):
    """A secret was given where other processes can read it: in the environment or on the command line."""

    exit_code = 175


def token_text() -> str | None:
    """The token in the file that STOKER_TOKEN_FILE names; None when it names none.

    Raises LooseKeyFile for a file that others may read, TokenNeeded for one that cannot be read.
    """
    named = os.environ.get("STOKER_TOKEN_FILE")
    return _secret_in(Path(named), "token", TokenNeeded).strip() if named else None


def passphrase_source() -> Callable[[], str] | None:
    """A passphrase from STOKER_PASSPHRASE_FILE, or asked for on a terminal; None means the key file."""
    named = os.environ.get("STOKER_PASSPHRASE_FILE")
    if named:
        return lambda: passphrase_in(Path(named))
    if os.environ.get("STOKER_PASSPHRASE_PROMPT"):
        return lambda: str(click.prompt("Passphrase of the key store", hide_input=True, err=True))
    return None


def passphrase_in(path: Path) -> str:
    """The passphrase in a file of this user, or of root, that nobody else may touch, or in a pipe."""
    from stoker.keys.errors import PassphraseNeeded

    return _secret_in(path, "passphrase", PassphraseNeeded).rstrip("\n")


def _secret_in(path: Path, what: str, missing: type[StokerError]) -> str:
    from stoker.keys.errors import LooseKeyFile

    hint = f"Let STOKER_{what.upper()}_FILE name a file that holds the {what} and nothing else."
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            loose = stat.S_IMODE(found.st_mode) & 0o077 or found.st_uid not in (0, os.geteuid())
            if loose or not (stat.S_ISREG(found.st_mode) or stat.S_ISFIFO(found.st_mode)):
                raise LooseKeyFile(
                    f"The {what} file {path} is open to others, of another user, or no file.",
                    hint=f"Run: chmod 600 {path} — and if others may have read it, change the {what}.",
                )
            data = file.read(MAX_SECRET_BYTES + 1)
        if len(data) > MAX_SECRET_BYTES:
            raise missing(f"{path} is too long to hold a {what}.", hint=hint)
        return data.decode()
    except OSError as error:
        raise missing(f"The {what} file {path} cannot be read: {error.strerror}.", hint=hint) from error
    except UnicodeDecodeError:
        raise missing(f"The {what} file {path} is not UTF-8.", hint=hint) from None


def refuse_secrets_in_sight(environment: Mapping[str, str], words: Sequence[str]) -> None:
    """Raise SecretInSight, without showing it, for a secret where other processes could read it."""
    revoke = "Revoke it: stoker token revoke ID. Let STOKER_TOKEN_FILE name a file that holds the next one."
    for name in ("STOKER_TOKEN", "STOKER_PASSPHRASE"):
        if environment.get(name):
            raise SecretInSight(
                f"{name} holds a secret in the environment, which child processes and logs get to see.",
                hint=f"Unset it, and let {name}_FILE name a file of mode 600 that holds it.",
            )
    if any(TOKEN_SHAPE.search(word) for word in words):
        raise SecretInSight(
            "A token stands on the command line, which every process of this machine can read.", hint=revoke
        )
    if any(TOKEN_SHAPE.search(value) for name, value in environment.items() if name.startswith("STOKER_")):
        raise SecretInSight("A token stands in the environment, which child processes see.", hint=revoke)
