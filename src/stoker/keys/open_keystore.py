"""A registry of KEKs opened with its root: the newest version in memory, and changes written whole.

Several processes, and where the place allows it several machines, may have the same one open. See
docs/design/keys.md, "The folder" and "Registry and vaults".
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from typing import Final, Generic, Protocol, TypeVar

from stoker.core.errors import Busy
from stoker.keys.errors import KeystoreDamaged, KeystoreMissing
from stoker.keys.keystore import (
    STORE_ID_BYTES,
    VERSION,
    Head,
    Keystore,
    Tombstone,
    decode_head,
    decode_keystore,
    decode_tombstones,
    encode_keystore,
    encode_tombstones,
)
from stoker.keys.refs import KekRef
from stoker.keys.registry_place import RegistryMoved, RegistryPlace, Version
from stoker.keys.root import RootKeys

Changed = TypeVar("Changed")

MAX_RACES: Final = 50
"""How often a change is decided again because another machine was first."""


class RootSource(Protocol):
    """Makes the root of a new registry, and finds that of one that exists."""

    def create(self, store_id: bytes) -> tuple[Head, RootKeys]:
        """A fresh root, kept safe before this returns. Raises KeystoreMissing when one was here already."""
        ...

    def discard(self, head: Head) -> None:
        """Another machine made the registry first: undo `create`."""
        ...

    def open(self, head: Head) -> RootKeys:
        """The root that belongs to `head`. Raises WrongRootKey and its like."""
        ...


class OpenKeystore(Generic[Version]):
    """The content of one registry, re-read whenever another process has replaced it."""

    def __init__(self, place: RegistryPlace[Version], keys: RootKeys, version: Version) -> None:
        """Takes over `keys` and `version`. Use `open_keystore`."""
        self._place = place
        self.keys = keys
        self._guard = threading.RLock()
        self._version = version
        self._content = decode_keystore(version.data, keys, place.name)
        self._closed = False

    @property
    def store_id(self) -> bytes:
        """16 bytes that name this registry; they never change."""
        return self._content.head.store_id

    def current(self) -> Keystore:
        """The newest version; must not be changed by the caller.

        Raises KeystoreMissing, LooseKeyFile, or KeystoreDamaged, also when the version is older than the one
        this process has seen.
        """
        with self._guard:
            if not self._place.is_current(self._version):
                with self._place.locked(exclusive=False):
                    self._read()
            return self._content

    def _read(self) -> None:
        version = self._place.read()
        if version is None:
            raise missing(self._place.name)
        try:
            content = decode_keystore(version.data, self.keys, self._place.name)
            seen = self._content.generation
            older = content.generation < seen
            forked = content.generation == seen and version.data != self._version.data
            if older or forked:
                raise KeystoreDamaged(
                    f"{self._place.name} was rolled back to version {content.generation}; this process has "
                    f"seen version {seen}.",
                    hint="If you restored a backup on purpose, stop every Stoker process first.",
                )
        except BaseException:
            version.close()
            raise
        self._version.close()
        self._version, self._content = version, content

    def change(self, decide: Callable[[Keystore], Changed], *, with_tombstones: bool = False) -> Changed:
        """Let `decide` alter a copy of the newest version, then put it in place whole.

        When `decide` raises, or the disk is full, nothing has changed. Where another machine was first,
        `decide` is asked again with what that one wrote. `with_tombstones` takes in the tombstones that lie
        beside the registry first, and writes them anew with it. Raises Busy after very many lost races.
        """
        for _ in range(MAX_RACES):
            with self._guard, self._place.locked(exclusive=True):
                self._read()
                try:
                    return self._change_once(decide, with_tombstones)
                except RegistryMoved:
                    continue
        raise Busy(
            f"Others changed the key registry {self._place.name} each of the {MAX_RACES} times we tried to.",
            hint="Try again; if it stays so, look for a process that changes keys without end.",
        )

    def _change_once(self, decide: Callable[[Keystore], Changed], with_tombstones: bool) -> Changed:
        draft = self._content.draft()
        if with_tombstones:
            for ref, stone in self._tombstones_beside().items():
                draft.tombstones.setdefault(ref, stone)
        answer = decide(draft)
        tombstones = encode_tombstones(draft, self.keys) if with_tombstones else None
        self._place.write(self._version, encode_keystore(draft, self.keys), tombstones)
        self._read()
        return answer

    def bring_up_to_date(self) -> None:
        """Write a registry of an older format version in the newest one; nothing happens otherwise."""
        if self.current().version != VERSION:
            self.change(lambda _: None)

    def tombstones_differ(self) -> bool:
        """Whether the tombstones beside the registry are not those inside it, as after a restored backup."""
        with self._guard, self._place.locked(exclusive=False):
            self._read()
            return self._tombstones_beside() != self._content.tombstones

    def _tombstones_beside(self) -> dict[KekRef, Tombstone]:
        found = self._place.read_tombstones()
        if found is None:
            return {}
        return decode_tombstones(found, self.keys, self._place.tombstones_name)

    def close(self) -> None:
        """Wipe the derived keys and let go of the file. Doing it twice is allowed."""
        with self._guard:
            if not self._closed:
                self._closed = True
                self.keys.wipe()
                self._version.close()


def open_keystore(place: RegistryPlace[Version], root: RootSource) -> OpenKeystore[Version]:
    """Open the registry at `place`, or make a new one there.

    Raises what `root` raises, LooseKeyFile, KeystoreMissing, KeystoreVersion, KeystoreDamaged, or DiskFull;
    then nothing is left behind.
    """
    with place.locked(exclusive=True):
        place.clean()
        found = place.read()
        if found is None:
            found = _create(place, root)
        try:
            keys = root.open(decode_head(found.data, place.name))
            try:
                return OpenKeystore(place, keys, found)
            except BaseException:
                keys.wipe()
                raise
        except BaseException:
            found.close()
            raise


def _create(place: RegistryPlace[Version], root: RootSource) -> Version:
    if place.read_tombstones() is not None:
        raise missing(place.name)
    head, keys = root.create(secrets.token_bytes(STORE_ID_BYTES))
    with keys:
        data = encode_keystore(Keystore(head, generation=1), keys)
    try:
        place.write(None, data, None)
    except RegistryMoved:
        root.discard(head)
    found = place.read()
    if found is None:
        raise missing(place.name)
    return found


def missing(name: str) -> KeystoreMissing:
    """The error for a registry that was here and is gone."""
    return KeystoreMissing(
        f"{name} is gone, though a key store was here.",
        hint="Restore it from a backup; Stoker does not start a new one in its place.",
    )
