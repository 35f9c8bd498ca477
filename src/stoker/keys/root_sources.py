"""Where the root of a registry comes from: a key file or a passphrase beside it, or a vault that wraps it.

See docs/design/keys.md, "root.key", "Passphrase" and "Registry and vaults".
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from stoker.keys.errors import KeyDestroyed, PassphraseNeeded, WrongContext, WrongPassphrase, WrongRootKey
from stoker.keys.keystore import Head, VaultRoot, root_context
from stoker.keys.keystore_folder import KeystoreFolder
from stoker.keys.open_keystore import missing
from stoker.keys.refs import KekRef
from stoker.keys.root import (
    SALT_BYTES,
    RootKeys,
    ScryptCost,
    check_new_passphrase,
    encode_root_file,
    read_root_file,
    root_from_passphrase,
)
from stoker.keys.secret import SecretKey
from stoker.keys.vault import KekVault

ROOT_SCOPE: Final = "registry/root"


@dataclass(frozen=True, slots=True)
class FolderRoot:
    """A key file beside `keystore.json`, or a passphrase that is asked for once, where one is needed."""

    folder: KeystoreFolder
    passphrase: Callable[[], str] | None
    cost: ScryptCost

    def create(self, store_id: bytes) -> tuple[Head, RootKeys]:
        """Raises KeystoreMissing, WrongPassphrase or DiskFull."""
        if self.folder.root_path.exists():
            raise missing(self.folder.name)
        if self.passphrase is not None:
            words, salt = self.passphrase(), secrets.token_bytes(SALT_BYTES)
            check_new_passphrase(words)
            keys = RootKeys(root_from_passphrase(words, salt, self.cost), store_id)
            return Head(store_id, keys.check, scrypt=self.cost, salt=salt), keys
        root = SecretKey.generate()
        content = encode_root_file(root)
        try:
            self.folder.replace({self.folder.new_root_path: content})
        finally:
            content[:] = bytes(len(content))
        keys = RootKeys(root, store_id)
        return Head(store_id, keys.check), keys

    def discard(self, head: Head) -> None:
        """Nothing to do: whoever holds the folder's lock wins."""

    def open(self, head: Head) -> RootKeys:
        """Raises PassphraseNeeded, WrongPassphrase, WrongRootKey, LooseKeyFile or KeystoreDamaged."""
        folder = self.folder
        if folder.new_root_path.exists():
            folder.rename(folder.new_root_path, folder.root_path)
        if head.vault is not None:
            raise WrongRootKey(
                f"The KEKs of {folder.name} lie in another vault than the folder itself.",
                hint="Let `[keys] url` name that vault.",
            )
        if head.scrypt is None or head.salt is None:
            return _checked(
                RootKeys(read_root_file(folder.root_path), head.store_id),
                head,
                WrongRootKey(
                    f"{folder.root_path} is the root key of another key store than {folder.name}.",
                    hint="Restore the root.key and the keystore.json that belong together.",
                ),
            )
        head.scrypt.check(self.cost, folder.keystore_path)
        if self.passphrase is None:
            raise PassphraseNeeded(
                f"The key store {folder.name} is protected by a passphrase.",
                hint="Let STOKER_PASSPHRASE_FILE name a file with it, or set STOKER_PASSPHRASE_PROMPT=1.",
            )
        return _checked(
            RootKeys(root_from_passphrase(self.passphrase(), head.salt, head.scrypt), head.store_id),
            head,
            WrongPassphrase(
                f"The passphrase does not open the key store {folder.name}.",
                hint="Check the passphrase and try again.",
            ),
        )


@dataclass(frozen=True, slots=True)
class WrappedRoot:
    """A random root, wrapped by a KEK of its own in the vault: without the vault the registry is noise."""

    vault: KekVault
    place: str

    def create(self, store_id: bytes) -> tuple[Head, RootKeys]:
        """Raises what the vault raises."""
        ref = root_ref(store_id)
        handle = self.vault.create(ref)
        root = SecretKey.generate()
        try:
            wrapped = self.vault.wrap(handle, ref, root, root_context(store_id))
        except BaseException:
            root.wipe()
            self.vault.destroy(handle, ref)
            raise
        keys = RootKeys(root, store_id)
        return Head(store_id, keys.check, vault=VaultRoot(handle, wrapped)), keys

    def discard(self, head: Head) -> None:
        """Another machine made the registry first: our KEK for its root is not needed."""
        if head.vault is not None:
            self.vault.destroy(head.vault.handle, root_ref(head.store_id))

    def open(self, head: Head) -> RootKeys:
        """Raises WrongRootKey when this vault does not hold the root, and what the vault raises."""
        wrong = WrongRootKey(
            f"The vault {self.vault.name} does not open the root of the key registry {self.place}.",
            hint="Restore the registry and the vault that belong together; `[keys] url` names both.",
        )
        if head.vault is None:
            raise wrong
        try:
            root = self.vault.unwrap(
                head.vault.handle, root_ref(head.store_id), head.vault.wrapped, root_context(head.store_id)
            )
        except (WrongContext, KeyDestroyed) as error:
            raise wrong from error
        return _checked(RootKeys(root, head.store_id), head, wrong)


def root_ref(store_id: bytes) -> KekRef:
    """The name of the KEK that wraps the root of the registry with this id."""
    return KekRef(f"{ROOT_SCOPE}/{store_id.hex()}", 1)


def _checked(keys: RootKeys, head: Head, wrong: WrongPassphrase | WrongRootKey) -> RootKeys:
    if keys.check != head.root_check:
        keys.wipe()
        raise wrong
    return keys
