"""How closely a run's ranks are held, decided before anything of the run exists. See docs/design/fleet.md.

What a rank needs bounds what can be closed: a store that is not a folder is reached over a network.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from stoker.fleet.errors import IsolationRefused
from stoker.spec.run import IsolationPolicy, LaunchSpec

_NOT_ASKED: Final = "isolation was not asked for"


@dataclass(frozen=True, slots=True)
class Confinement:
    """What is asked of the platform for the ranks of a run.

    `open_because` says why nothing closes their network where `isolation` is off; the probe tells it. They
    write only in `writable`, beside their attempt's folder; None: wherever their user may.
    """

    isolation: IsolationPolicy
    open_because: str = ""
    writable: tuple[Path, ...] | None = None


def confinement_of(launch: LaunchSpec, store_url: str, cache: Path) -> Confinement:
    """How ranks are held whose sealed bytes lie at `store_url`, and on this node in `cache`.

    Raises IsolationRefused where isolation is required and the store is reached over a network.
    """
    store = urlsplit(store_url)
    wanted, because = launch.isolation, "" if launch.isolation is not IsolationPolicy.OFF else _NOT_ASKED
    if store.scheme != "file" and wanted is not IsolationPolicy.OFF:
        because = f"ranks reach the store by {store.scheme}, over a network"
        if wanted is IsolationPolicy.REQUIRED:
            raise IsolationRefused(
                f"The run asks for network isolation and cannot have it: {because}.",
                hint="Use a store in a local folder, or ask for less isolation.",
            )
        wanted = IsolationPolicy.OFF
    return Confinement(wanted, because, _writable(launch, store_url, cache))


def _writable(launch: LaunchSpec, store_url: str, cache: Path) -> tuple[Path, ...] | None:
    """Where ranks put what they seal: the node's cache, and the store when it is a folder."""
    if launch.isolation is IsolationPolicy.OFF:
        return None
    store = urlsplit(store_url)
    folders = (Path(unquote(store.path)),) if store.scheme == "file" else ()
    return (cache, *(each for each in folders if each.is_dir()))
