"""`stoker.toml`: where ledger, store and keys live. Absent, everything is in STOKER_HOME."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

from stoker.core.config import Layer, Loaded, load, read_layer
from stoker.core.errors import ConfigError
from stoker.core.home import Home


@dataclass(frozen=True, slots=True)
class Place:
    """A part of the house that can be moved by a URL; None is the embedded default."""

    url: str | None = None


@dataclass(frozen=True, slots=True)
class CacheSettings:
    """The node cache of sealed shards; `limit_bytes` bounds what it keeps on disk."""

    limit_bytes: int = 20 * 1024**3


@dataclass(frozen=True, slots=True)
class Settings:
    """The merged `stoker.toml`."""

    ledger: Place = field(default_factory=Place)
    store: Place = field(default_factory=Place)
    keys: Place = field(default_factory=Place)
    cache: CacheSettings = field(default_factory=CacheSettings)

    def ledger_url(self, home: Home) -> str:
        return self.ledger.url or f"sqlite:///{home.ledger_path}"

    def store_url(self, home: Home) -> str:
        return self.store.url or home.store_dir.as_uri()

    def keys_url(self, home: Home) -> str:
        return self.keys.url or home.keys_dir.as_uri()


def load_settings(home: Home, working_folder: Path) -> Loaded[Settings]:
    """The home's `stoker.toml` under the project's (`./stoker.toml`), both optional. Raises ConfigError."""
    layers: list[Layer] = [
        read_layer(_own(path))
        for path in (home.settings_path, working_folder / "stoker.toml")
        if path.exists()
    ]
    return load(Settings, layers)


def _own(path: Path) -> Path:
    """`path` when nobody else decides what is in it: it says where data and keys go. Raises ConfigError."""
    found = path.stat()
    if found.st_uid not in (0, os.geteuid()) or found.st_mode & stat.S_IWOTH:
        raise ConfigError(
            f"{path} says where data and keys go, and it can be changed by another user of this machine.",
            hint="Look at what it says, then make it your own and close it to others, or work elsewhere.",
        )
    return path
