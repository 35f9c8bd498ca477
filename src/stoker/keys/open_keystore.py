"""A file key store opened with its root: the newest version in memory, and changes written whole.

Several processes may have the same folder open. See docs/design/keys.md, "The folder".
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from stoker.keys.errors import (
    KeystoreDamaged,
    KeystoreMissing,
    PassphraseNeeded,
    WrongPassphrase,
    WrongRootKey,
)
from stoker.keys.keystore import (
    STORE_ID_BYTES,
    Head,
    Keystore,
    Tombstone,
    decode_head,
    decode_keystore,
    decode_tombstones,
    encode_keystore,
    encode_tombstones,
)
from stoker.keys.keystore_folder import KeystoreFolder, Snapshot, read_private
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

Changed = TypeVar("Changed")


class OpenKeystore:
    """The content of one folder, re-read whenever another process has replaced it."""

    def __init__(self, folder: KeystoreFolder, keys: RootKeys, snapshot: Snapshot) -> None:
        """Takes over `snapshot`. Use `open_keystore`."""
        self._folder = folder
        self.keys = keys
        self._guard = threading.RLock()
        self._snapshot = snapshot
        self._content = decode_keystore(snapshot.data, keys, folder.keystore_path)
        self._closed = False

    def current(self) -> Keystore:
        """The newest version; must not be changed by the caller.

        Raises KeystoreMissing, LooseKeyFile, or KeystoreDamaged, also when the version is older than the one
        this process has seen.
        """
        with self._guard:
            if not self._folder.is_current(self._snapshot):
                with self._folder.locked(exclusive=False):
                    self._read()
            return self._content

    def _read(self) -> None:
        path = self._folder.keystore_path
        snapshot = read_private(path)
        if snapshot is None:
            raise _missing(path)
        try:
            content = decode_keystore(snapshot.data, self.keys, path)
            seen = self._content.generation
            older = content.generation < seen
            forked = content.generation == seen and snapshot.data != self._snapshot.data
            if older or forked:
                raise KeystoreDamaged(
                    f"{path} was rolled back to version {content.generation}; this process has seen "
                    f"version {seen}.",
                    hint="If you restored a backup on purpose, stop every Stoker process first.",
                )
        except BaseException:
            snapshot.close()
            raise
        self._snapshot.close()
        self._snapshot, self._content = snapshot, content

    def change(self, decide: Callable[[Keystore], Changed], *, with_tombstones: bool = False) -> Changed:
        """Let `decide` alter a copy of the newest version, then put it in place whole.

        When `decide` raises, or the disk is full, nothing has changed. `with_tombstones` takes in the
        tombstones that lie beside the key store first, and writes them anew with it.
        """
        with self._guard, self._folder.locked(exclusive=True):
            self._read()
            draft = self._content.draft()
            if with_tombstones:
                for ref, stone in self._tombstones_beside().items():
                    draft.tombstones.setdefault(ref, stone)
            answer = decide(draft)
            contents = {self._folder.keystore_path: encode_keystore(draft, self.keys)}
            if with_tombstones:
                tombstones = {self._folder.tombstones_path: encode_tombstones(draft, self.keys)}
                contents = tombstones | contents
            self._folder.replace(contents)
            self._read()
            return answer

    def tombstones_differ(self) -> bool:
        """Whether the tombstones beside the key store are not those inside it, as after a restored backup."""
        with self._guard, self._folder.locked(exclusive=False):
            self._read()
            return self._tombstones_beside() != self._content.tombstones

    def _tombstones_beside(self) -> dict[KekRef, Tombstone]:
        path = self._folder.tombstones_path
        found = read_private(path)
        if found is None:
            return {}
        found.close()
        return decode_tombstones(found.data, self.keys, path)

    def close(self) -> None:
        """Wipe the derived keys and let go of the file. Doing it twice is allowed."""
        with self._guard:
            if not self._closed:
                self._closed = True
                self.keys.wipe()
                self._snapshot.close()


def open_keystore(path: Path, passphrase: Callable[[], str] | None, cost: ScryptCost) -> OpenKeystore:
    """Open the key store in the folder `path`, or make a new one.

    A new one is protected by `passphrase` where one is given, else by a root key file.
    Raises PassphraseNeeded, WrongPassphrase, WrongRootKey, LooseKeyFile, KeystoreMissing, KeystoreVersion,
    KeystoreDamaged, or DiskFull; then nothing is left behind.
    """
    folder = KeystoreFolder(path)
    folder.prepare()
    with folder.locked(exclusive=True):
        folder.clean()
        found = read_private(folder.keystore_path)
        if found is None:
            _create(folder, passphrase, cost)
            found = read_private(folder.keystore_path)
            if found is None:
                raise _missing(folder.keystore_path)
        if folder.new_root_path.exists():
            folder.rename(folder.new_root_path, folder.root_path)
        try:
            keys = _root_keys(decode_head(found.data, folder.keystore_path), folder, passphrase, cost)
            try:
                return OpenKeystore(folder, keys, found)
            except BaseException:
                keys.wipe()
                raise
        except BaseException:
            found.close()
            raise


def _create(folder: KeystoreFolder, passphrase: Callable[[], str] | None, cost: ScryptCost) -> None:
    if folder.root_path.exists() or folder.tombstones_path.exists():
        raise _missing(folder.keystore_path)
    store_id = secrets.token_bytes(STORE_ID_BYTES)
    if passphrase is None:
        root = SecretKey.generate()
        content = encode_root_file(root)
        try:
            folder.replace({folder.new_root_path: content})
        finally:
            content[:] = bytes(len(content))
        scrypt, salt = None, None
    else:
        words = passphrase()
        check_new_passphrase(words)
        scrypt, salt = cost, secrets.token_bytes(SALT_BYTES)
        root = root_from_passphrase(words, salt, cost)
    keys = RootKeys(root, store_id)
    store = Keystore(Head(store_id, keys.check, scrypt, salt), generation=1)
    data = encode_keystore(store, keys)
    keys.wipe()
    folder.replace({folder.keystore_path: data})


def _root_keys(
    head: Head, folder: KeystoreFolder, passphrase: Callable[[], str] | None, cost: ScryptCost
) -> RootKeys:
    place = folder.keystore_path
    if head.scrypt is not None and head.salt is not None:
        head.scrypt.check(cost, place)
        if passphrase is None:
            raise PassphraseNeeded(
                f"The key store {place} is protected by a passphrase.",
                hint="Let STOKER_PASSPHRASE_FILE name a file with it, or set STOKER_PASSPHRASE_PROMPT=1.",
            )
        keys = RootKeys(root_from_passphrase(passphrase(), head.salt, head.scrypt), head.store_id)
        wrong: WrongPassphrase | WrongRootKey = WrongPassphrase(
            f"The passphrase does not open the key store {place}.", hint="Check the passphrase and try again."
        )
    else:
        keys = RootKeys(read_root_file(folder.root_path), head.store_id)
        wrong = WrongRootKey(
            f"{folder.root_path} is the root key of another key store than {place}.",
            hint="Restore the root.key and the keystore.json that belong together.",
        )
    if keys.check != head.root_check:
        keys.wipe()
        raise wrong
    return keys


def _missing(path: Path) -> KeystoreMissing:
    return KeystoreMissing(
        f"{path} is gone, though a key store was here.",
        hint="Restore it from a backup; Stoker does not start a new one in its place.",
    )
