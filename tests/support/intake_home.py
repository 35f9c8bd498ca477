"""A whole small home for tests of intake: ledger, keys, store and two people, on real files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from stoker.core.clock import ManualClock
from stoker.keys.backend import KeyBackend
from stoker.keys.identities import create_identity
from stoker.keys.open import open_backend
from stoker.ledger.ledger import Ledger
from stoker.ledger.records import Role
from stoker.store.objects import ObjectStore


@dataclass(frozen=True, slots=True)
class IntakeHome:
    """What intake's functions take, with `asker` (researcher) and `decider` (reviewer) known."""

    root: Path
    ledger: Ledger
    backend: KeyBackend
    store: ObjectStore
    clock: ManualClock

    @property
    def locks(self) -> Path:
        return self.root / "locks"

    @property
    def store_dir(self) -> Path:
        return self.root / "store"

    def objects(self, prefix: str) -> set[str]:
        """The names under `prefix` in the store."""
        return set(self.store.list(prefix))


@contextmanager
def intake_home(root: Path, *, store_dir: Path | None = None) -> Iterator[IntakeHome]:
    """A home under `root`; its store may lie elsewhere, such as on a small file system."""
    clock = ManualClock()
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    backend = open_backend(f"file://{root}/keys", clock=clock, passphrase=None)
    store = ObjectStore.open(f"file://{store_dir or root / 'store'}")
    with Ledger.open(f"sqlite:///{root}/ledger.db", root / "ledger.key", clock) as ledger:
        known = {identity.name for identity in ledger.catalogue.identities()}
        for name, role in (("asker", Role.RESEARCHER), ("decider", Role.REVIEWER)):
            if name not in known:
                create_identity(name, role, actor=None, ledger=ledger, backend=backend, clock=clock)
        yield IntakeHome(root, ledger, backend, store, clock)
