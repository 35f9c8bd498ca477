"""The file back end: all of key management in one folder, for one machine. See docs/design/keys.md."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from stoker.core.clock import Clock
from stoker.keys.keystore_folder import KeystoreFolder
from stoker.keys.open_keystore import open_keystore
from stoker.keys.registry import Registry
from stoker.keys.root import ScryptCost
from stoker.keys.root_sources import FolderRoot
from stoker.keys.vaults.local import MAX_WRAPS, LocalVault


class FileBackend(Registry):
    """A KeyBackend whose KEKs lie wrapped in `keystore.json`. Threads and processes may share a folder."""

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        clock: Clock,
        passphrase: Callable[[], str] | None = None,
        cost: ScryptCost | None = None,
        max_wraps: int = MAX_WRAPS,
    ) -> FileBackend:
        """Open the key store in `folder`, or make one; destroyed KEKs that came back are destroyed again.

        A new one is protected by `passphrase` where one is given, else by a root key file; it is asked once,
        and only where one is needed. `cost` and `max_wraps` are for tests. Raises PassphraseNeeded,
        WrongPassphrase, WrongRootKey, LooseKeyFile, KeystoreMissing, KeystoreVersion, KeystoreDamaged, or
        DiskFull; then nothing is left behind.
        """
        place = KeystoreFolder(folder)
        place.prepare()
        store = open_keystore(place, FolderRoot(place, passphrase, cost or ScryptCost()))
        return cls(store, LocalVault(store.keys, store.store_id), clock, max_wraps=max_wraps)
