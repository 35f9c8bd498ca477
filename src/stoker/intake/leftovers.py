"""What an interrupted import or preparation left in the store, and how it goes away.

Objects become a version only by the ledger's record of it. Whoever holds the name's lock may therefore
remove every version of that name that has no record. See docs/design/intake.md, "Interruption".
"""

from __future__ import annotations

from collections.abc import Collection

from stoker.keys.backend import KeyBackend
from stoker.keys.refs import KekRef
from stoker.keys.states import KekState
from stoker.store.objects import ObjectStore


def sweep(
    folder: str, scope: str, recorded: Collection[str], *, store: ObjectStore, backend: KeyBackend
) -> int:
    """Remove every version under `folder` (`sources/NAME`) whose id is not in `recorded`; how many.

    KEKs in `scope` (`source/NAME`) of such versions are deactivated: nothing can be sealed under them.
    """
    found = {key.split("/")[2] for key in store.list(folder)}
    unfinished = found - set(recorded)
    for version in sorted(unfinished):
        store.delete_prefix(f"{folder}/{version}")
    for info in backend.list_keks():
        parts = info.ref.scope.rpartition("/")
        if parts[0] == scope and parts[2] not in recorded and info.state is KekState.ACTIVE:
            backend.deactivate(info.ref)
    return len(unfinished)


def discard(prefix: str, kek: KekRef | None, *, store: ObjectStore, backend: KeyBackend) -> None:
    """Remove what this process has just written under `prefix`, and retire its KEK."""
    store.delete_prefix(prefix)
    if kek is not None and backend.info(kek).state is KekState.ACTIVE:
        backend.deactivate(kek)
