"""The open house behind a command: home, settings, ledger, keys and store, each opened at first use."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from stoker.core.clock import Clock, SystemClock
from stoker.core.errors import StokerError
from stoker.core.home import Home
from stoker.core.progress import Progress
from stoker.core.settings import Settings, load_settings

if TYPE_CHECKING:
    from stoker.keys.backend import KeyBackend
    from stoker.ledger.ledger import Ledger
    from stoker.store.cache import NodeCache
    from stoker.store.objects import ObjectStore


MAX_PASSPHRASE_BYTES: Final = 4096


class NoIdentity(StokerError):
    """The command acts in someone's name and was not told in whose."""

    exit_code = 170


@dataclass
class House:
    """What a command needs, opened when it is first asked for and closed when the command ends."""

    home: Home
    acting: str | None
    as_json: bool
    progress: Progress
    clock: Clock
    _closing: ExitStack

    @cached_property
    def settings(self) -> Settings:
        return load_settings(self.home, Path.cwd()).value

    @cached_property
    def ledger(self) -> Ledger:
        from stoker.ledger.ledger import Ledger

        self.home.prepare()
        return self._closing.enter_context(
            Ledger.open(self.settings.ledger_url(self.home), self.home.ledger_key_path, self.clock)
        )

    @cached_property
    def backend(self) -> KeyBackend:
        from stoker.keys.destruction import reconcile_tombstones
        from stoker.keys.memory import harden_process
        from stoker.keys.open import open_backend

        harden_process()
        self.home.prepare()
        backend = open_backend(
            self.settings.keys_url(self.home), clock=self.clock, passphrase=_passphrase_source()
        )
        reconcile_tombstones(ledger=self.ledger, backend=backend)
        return backend

    @cached_property
    def store(self) -> ObjectStore:
        from stoker.store.objects import ObjectStore

        self.home.prepare()
        return ObjectStore.open(self.store_url)

    @property
    def store_url(self) -> str:
        return self.settings.store_url(self.home)

    @cached_property
    def cache(self) -> NodeCache:
        from stoker.store.cache import NodeCache

        return NodeCache(self.home.cache_dir, self.store, self.settings.cache.limit_bytes)

    @property
    def manifest_key(self) -> bytes:
        """The raw public key that every manifest of this house is signed with."""
        return self.backend.signer("manifest").public_key

    @property
    def actor(self) -> str:
        """The identity in whose name the command acts; it must exist in the ledger."""
        if self.acting is None:
            raise NoIdentity(
                "This command acts in someone's name, and no identity was given.",
                hint="Add --as NAME or set STOKER_IDENTITY; `stoker identity create` makes one.",
            )
        return self.ledger.catalogue.identity(self.acting).name


def _passphrase_source() -> Callable[[], str] | None:
    """A passphrase from STOKER_PASSPHRASE_FILE, or asked for on a terminal; None means the key file."""
    named = os.environ.get("STOKER_PASSPHRASE_FILE")
    if named:
        return lambda: _passphrase_in(Path(named))
    if os.environ.get("STOKER_PASSPHRASE_PROMPT"):
        return lambda: str(click.prompt("Passphrase of the key store", hide_input=True, err=True))
    return None


def _passphrase_in(path: Path) -> str:
    """The passphrase in a file of this user, or of root, that nobody else may touch, or in a pipe."""
    from stoker.keys.errors import LooseKeyFile, PassphraseNeeded

    hint = "Let STOKER_PASSPHRASE_FILE name a file that holds the passphrase and nothing else."
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            loose = stat.S_IMODE(found.st_mode) & 0o077 or found.st_uid not in (0, os.geteuid())
            if loose or not (stat.S_ISREG(found.st_mode) or stat.S_ISFIFO(found.st_mode)):
                raise LooseKeyFile(
                    f"The passphrase file {path} is open to others, of another user, or no file.",
                    hint=f"Run: chmod 600 {path} — and if others may have read it, change the passphrase.",
                )
            data = file.read(MAX_PASSPHRASE_BYTES + 1)
        if len(data) > MAX_PASSPHRASE_BYTES:
            raise PassphraseNeeded(f"{path} is too long to hold a passphrase.", hint=hint)
        return data.decode().rstrip("\n")
    except OSError as error:
        raise PassphraseNeeded(
            f"The passphrase file {path} cannot be read: {error.strerror}.", hint=hint
        ) from error
    except UnicodeDecodeError:
        raise PassphraseNeeded(f"The passphrase file {path} is not UTF-8.", hint=hint) from None


@contextmanager
def open_house(*, home: Path | None, acting: str | None, as_json: bool) -> Iterator[House]:
    """The house for one command. Progress bars go to stderr, and only when it is a terminal."""
    from stoker.cli.progress import progress_for_terminal

    place = Home(home.absolute()) if home is not None else Home.locate(os.environ, Path.cwd())
    with ExitStack() as closing:
        yield House(place, acting, as_json, progress_for_terminal(), SystemClock(), closing)
