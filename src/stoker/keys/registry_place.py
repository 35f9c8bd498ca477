"""Where a registry of KEKs lies: a folder, or a key-value store that several machines share.

See docs/design/keys.md, "Registry and vaults".
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol, TypeVar


class RegistryVersion(Protocol):
    """One version of a registry, as it was read."""

    @property
    def data(self) -> bytes:
        """The bytes of `keystore.json`."""
        ...

    def close(self) -> None:
        """Let go of what keeps this version apart from later ones."""
        ...


Version = TypeVar("Version", bound=RegistryVersion)


class RegistryMoved(Exception):
    """Another machine put its version in place first; nothing was written."""


class RegistryPlace(Protocol[Version]):
    """Reads and replaces the bytes of one registry; knows nothing of what they mean."""

    @property
    def name(self) -> str:
        """For messages: a path or a URL without secrets."""
        ...

    @property
    def tombstones_name(self) -> str:
        """For messages: where the tombstones beside the registry lie."""
        ...

    def locked(self, *, exclusive: bool) -> AbstractContextManager[None]:
        """Keep others out for the block, where the place can. Raises Busy when they stay for a minute."""
        ...

    def clean(self) -> None:
        """Erase what killed writers left half-written. Call it with the exclusive lock held."""
        ...

    def is_current(self, version: Version) -> bool:
        """Whether `version` still is the newest."""
        ...

    def read(self) -> Version | None:
        """The newest version; None when there is none. Raises LooseKeyFile or KeystoreDamaged."""
        ...

    def read_tombstones(self) -> bytes | None:
        """The tombstones that lie beside the registry."""
        ...

    def write(self, before: Version | None, registry: bytes, tombstones: bytes | None) -> None:
        """Put both in place, the tombstones first (None: leave those be), if `before` is still the newest.

        Raises RegistryMoved when it is not, and then nothing has changed; DiskFull.
        """
        ...
