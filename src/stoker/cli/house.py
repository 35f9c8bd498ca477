"""The open house behind a command: home, settings, ledger, keys and store, each opened at first use."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from stoker.cli.secret_files import TokenNeeded, passphrase_source, refuse_secrets_in_sight, token_text
from stoker.core.clock import Clock, SystemClock
from stoker.core.errors import StokerError
from stoker.core.home import Home
from stoker.core.progress import Progress
from stoker.core.settings import Settings, TokenUse, load_settings

if TYPE_CHECKING:
    from stoker.keys.backend import KeyBackend
    from stoker.ledger.access import Caller
    from stoker.ledger.ledger import Ledger
    from stoker.ledger.permissions import Deed
    from stoker.store.cache import NodeCache
    from stoker.store.objects import ObjectStore


class NoIdentity(StokerError):
    """The command acts in someone's name and was not told in whose."""

    exit_code = 170


class OtherIdentity(StokerError):
    """The command is to act as one identity, and the token is another's."""

    exit_code = 174


@dataclass
class House:
    """What a command needs, opened when it is first asked for and closed when the command ends."""

    home: Home
    acting: str | None
    as_json: bool
    progress: Progress
    clock: Clock
    _closing: ExitStack
    admitted: Caller | None = None
    """Who the table of permissions let in; None for whoever sits at the machine, in nobody's name."""

    @cached_property
    def settings(self) -> Settings:
        from stoker.intake.closed import ask_for_closing

        settings = load_settings(self.home, Path.cwd()).value
        ask_for_closing(settings.preparing.isolation)
        return settings

    @cached_property
    def ledger(self) -> Ledger:
        from stoker.ledger.ledger import Ledger

        self.home.prepare()
        return self._closing.enter_context(
            Ledger.open(self.settings.ledger_url(self.home), self.home.ledger_key_path, self.clock)
        )

    @cached_property
    def backend(self) -> KeyBackend:
        from stoker.keys.audited import audited
        from stoker.keys.destruction import reconcile_tombstones
        from stoker.keys.memory import harden_process
        from stoker.keys.open import open_backend
        from stoker.keys.rewrap import with_moves
        from stoker.store.rewraps import StoredRewraps

        harden_process()
        self.home.prepare()
        backend = open_backend(
            self.settings.keys_url(self.home),
            clock=self.clock,
            passphrase=passphrase_source(),
            folder=self.home.keys_dir,
        )
        reconcile_tombstones(ledger=self.ledger, backend=backend)
        backend = audited(backend, self.ledger.require_writable)
        return with_moves(backend, StoredRewraps(lambda: self.store))

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
        if self.caller is None:
            raise NoIdentity(
                "This command acts in someone's name, and no identity was given.",
                hint="Add --as NAME or set STOKER_IDENTITY; `stoker identity create` makes one.",
            )
        return self.caller.name

    @cached_property
    def caller(self) -> Caller | None:
        """Who is calling: by a token, or by `--as` where that is trusted; None: whoever sits at the machine.

        Raises TokenNeeded, TokenRefused, OtherIdentity, UnknownIdentity, LedgerUnusable.
        """
        from stoker.ledger.access import authenticate, known_caller

        text = token_text()
        if text is None and self.settings.access.tokens is TokenUse.REQUIRED:
            raise TokenNeeded(
                "Identities have to be proved here (access.tokens), and no token was given.",
                hint="Let STOKER_TOKEN_FILE name a file that holds your token; an admin makes one.",
            )
        if text is None:
            return None if self.acting is None else known_caller(self.ledger, self.acting)
        caller = authenticate(text, ledger=self.ledger, clock=self.clock)
        if self.acting not in (None, caller.name):
            raise OtherIdentity(
                f"The command is to act as {self.acting!a}, but the token is of {caller.name}.",
                hint="Leave --as and STOKER_IDENTITY out, or use that identity's token.",
            )
        self.acting = caller.name
        return caller

    @property
    def proved(self) -> bool:
        """Whether callers have to prove, or do prove, who they are."""
        return self.settings.access.tokens is TokenUse.REQUIRED or bool(os.environ.get("STOKER_TOKEN_FILE"))

    def admit(self, deed: Deed) -> None:
        """Let the command go on when the table of permissions allows it.

        Raises PermissionRefused, NoIdentity and what `caller` raises. Where `--as` is trusted, and no token
        is given, what needs no identity is let through without opening anything.
        """
        from stoker.ledger import permissions
        from stoker.ledger.errors import PermissionRefused

        rule = permissions.RULES[deed]
        if deed is permissions.Deed.WITNESS or (rule.anyone and not self.proved):
            return
        if deed is permissions.Deed.QUICKSTART:
            raise PermissionRefused(
                "The quickstart plays two people, which only works where identities are not proved.",
                hint="Give it a home of its own: stoker quickstart --home FOLDER, without STOKER_TOKEN_FILE.",
            )
        if not self.proved and self.acting is None and rule.at_the_machine:
            return
        if self._is_first(deed):
            return
        self.actor  # noqa: B018 - raises when nobody is named
        self.admitted = self.caller
        assert self.caller is not None
        permissions.require(deed, self.caller.name, self.caller.role, self.caller.scopes)

    def _is_first(self, deed: Deed) -> bool:
        """Whether a house that asks for tokens has none yet: whoever sits at the machine makes the first."""
        from stoker.ledger.permissions import Deed

        if os.environ.get("STOKER_TOKEN_FILE") or self.settings.access.tokens is not TokenUse.REQUIRED:
            return False
        catalogue = self.ledger.catalogue
        if deed is Deed.IDENTITY_CREATE:
            return not catalogue.identities()
        return deed is Deed.TOKEN_CREATE and not catalogue.tokens()


@contextmanager
def open_house(*, home: Path | None, acting: str | None, as_json: bool) -> Iterator[House]:
    """The house for one command. Progress bars go to stderr, and only when it is a terminal."""
    from stoker.cli.progress import progress_for_terminal

    refuse_secrets_in_sight(os.environ, sys.argv)
    place = Home(home.absolute()) if home is not None else Home.locate(os.environ, Path.cwd())
    with ExitStack() as closing:
        yield House(place, acting, as_json, progress_for_terminal(), SystemClock(), closing)
