"""`stoker.toml`: where ledger, store and keys live, and who is believed. Absent, all is in STOKER_HOME.

Nearer files win: `./stoker.toml` over the home's over the site's. The site's may lock keys, and what protects
people can be tightened by a nearer file but not loosened. See docs/design/core.md, "Settings".
"""

from __future__ import annotations

import enum
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from stoker.core.config import Layer, Loaded, load, read_layer
from stoker.core.errors import ConfigError
from stoker.core.home import Home
from stoker.core.isolation import Closing
from stoker.core.node_settings import NodeSettings
from stoker.core.slurm_settings import SlurmSettings

SITE_FILE: Final = Path("/etc/stoker/stoker.toml")
"""What the owner of the machine sets for everybody on it; may hold `locked = ["access.tokens"]`."""

_URL_PASSWORD: Final = re.compile(r"[a-z][a-z0-9+.-]*://[^/@\s]*:[^/@\s]+@", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Place:
    """A part of the house that can be moved by a URL; None is the embedded default."""

    url: str | None = None


@dataclass(frozen=True, slots=True)
class StorePlace(Place):
    """The store, and the URLs of stores that hold copies of it: a key's death is proved on each of them."""

    replicas: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CacheSettings:
    """The node cache of sealed shards; `limit_bytes` bounds what it keeps on disk.

    `nodes` are nodes with a cache beside those that the ledger knows of: a key's death is proved on each of
    them. `retired` are nodes whose disks are erased, so that nothing is left to be tried there.
    """

    limit_bytes: int = 20 * 1024**3
    nodes: tuple[str, ...] = ()
    retired: tuple[str, ...] = ()


class TokenUse(enum.StrEnum):
    """Whether an identity has to be proved."""

    OPTIONAL = "optional"
    """Who can use the home is believed: `--as NAME` is enough. For one person at one machine."""

    REQUIRED = "required"
    """Every command needs a token of the identity it acts as."""


@dataclass(frozen=True, slots=True)
class AccessSettings:
    """Who is believed."""

    tokens: TokenUse = TokenUse.OPTIONAL


@dataclass(frozen=True, slots=True)
class PreparingSettings:
    """What holds for the workers that see plaintext while something is scanned or prepared."""

    isolation: Closing = Closing.WHEN_POSSIBLE


@dataclass(frozen=True, slots=True)
class FleetSettings:
    """What the site expects of its nodes, before its own runs say otherwise."""

    failures_per_1000_node_days: float = 6.5


@dataclass(frozen=True, slots=True)
class Settings:
    """The merged `stoker.toml`."""

    ledger: Place = field(default_factory=Place)
    store: StorePlace = field(default_factory=StorePlace)
    keys: Place = field(default_factory=Place)
    cache: CacheSettings = field(default_factory=CacheSettings)
    access: AccessSettings = field(default_factory=AccessSettings)
    preparing: PreparingSettings = field(default_factory=PreparingSettings)
    fleet: FleetSettings = field(default_factory=FleetSettings)
    nodes: NodeSettings = field(default_factory=NodeSettings)
    slurm: SlurmSettings = field(default_factory=SlurmSettings)

    def problems(self) -> Iterator[str]:
        """A password in a URL would lie in a file that is no key file; it is named, never shown."""
        for name in ("ledger", "store", "keys"):
            if _URL_PASSWORD.search(getattr(self, name).url or ""):
                yield f"{name}.url holds a password, and this is no place for secrets"
        if any(_URL_PASSWORD.search(url) for url in self.store.replicas):
            yield "store.replicas holds a password, and this is no place for secrets"
        if not 0.0 < self.fleet.failures_per_1000_node_days < 1e6:
            yield "fleet.failures_per_1000_node_days must be above 0 and below 1,000,000"

    def ledger_url(self, home: Home) -> str:
        return self.ledger.url or f"sqlite:///{home.ledger_path}"

    def store_url(self, home: Home) -> str:
        return self.store.url or home.store_dir.as_uri()

    def keys_url(self, home: Home) -> str:
        return self.keys.url or home.keys_dir.as_uri()


def load_settings(home: Home, working_folder: Path, *, site: Path = SITE_FILE) -> Loaded[Settings]:
    """The site's file under the home's under the project's (`./stoker.toml`), each optional.

    Raises ConfigError, also when a nearer file sets a key that the site's locks, or no longer asks for tokens
    where a farther one does.
    """
    paths = [path for path in (site, home.settings_path, working_folder / "stoker.toml") if path.exists()]
    layers = [read_layer(_own(path)) for path in dict.fromkeys(paths)]
    if layers and paths[0] == site:
        layers[0] = _unlocked(layers[0], layers[1:])
    _require_no_loosening(layers)
    return load(Settings, layers)


def _unlocked(site: Layer, nearer: list[Layer]) -> Layer:
    """The site's layer without its list of locked keys, once no nearer layer sets one of those."""
    locked = site.table.get("locked", [])
    if not isinstance(locked, list) or not all(isinstance(each, str) for each in locked):
        raise ConfigError(
            f"{site.name}: locked: expected a list of keys.", hint='Such as: locked = ["access.tokens"]'
        )
    for layer in nearer:
        for key in locked:
            if _at(layer.table, key) is not None:
                raise ConfigError(
                    f"{layer.name}: {key}: {site.name} sets this for everybody on this machine and locks it.",
                    hint="Leave it out, or ask who keeps the machine.",
                )
    return Layer(site.name, {name: value for name, value in site.table.items() if name != "locked"})


def _require_no_loosening(layers: list[Layer]) -> None:
    asked_by = ""
    for layer in layers:
        said = _at(layer.table, "access.tokens")
        if said == TokenUse.REQUIRED.value:
            asked_by = layer.name
        elif said is not None and asked_by:
            raise ConfigError(
                f"{layer.name}: access.tokens: {asked_by} requires tokens; a nearer file cannot undo that.",
                hint="Leave it out, and use a token: STOKER_TOKEN_FILE.",
            )


def _at(table: Mapping[str, Any], path: str) -> Any:
    value: Any = table
    for step in path.split("."):
        value = value.get(step) if isinstance(value, Mapping) else None
    return value


def _own(path: Path) -> Path:
    """`path` when nobody else decides what is in it: it says where data and keys go. Raises ConfigError."""
    found = path.stat()
    if found.st_uid not in (0, os.geteuid()) or found.st_mode & stat.S_IWOTH:
        raise ConfigError(
            f"{path} says where data and keys go, and it can be changed by another user of this machine.",
            hint="Look at what it says, then make it your own and close it to others, or work elsewhere.",
        )
    return path
