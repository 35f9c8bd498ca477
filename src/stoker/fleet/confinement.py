"""How closely a run's ranks are held, decided before anything of the run exists. See docs/design/fleet.md.

A store that is not a folder is reached over a network; ranks that have none are handed what they need of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from stoker.core.ids import RunId
from stoker.fleet.errors import IsolationRefused
from stoker.intake.dataset_writer import dataset_prefix
from stoker.ledger.records import DatasetRecord
from stoker.spec.run import IsolationPolicy, LaunchSpec
from stoker.store.handed import HandRules, StoreHand
from stoker.store.objects import ObjectStore

_NOT_ASKED: Final = "isolation was not asked for"
_SPREAD: Final = "ranks on several nodes reach one another over the network of their nodes"


@dataclass(frozen=True, slots=True)
class Confinement:
    """What is asked of the platform for the ranks of a run.

    `handed`: the store is handed to them from outside, over local sockets, since it is no folder.
    `open_because` says why nothing closes their network where `isolation` is off; the probe tells it. They
    write only in `writable`, beside their attempt's folder; None: wherever their user may.
    """

    isolation: IsolationPolicy
    open_because: str = ""
    writable: tuple[Path, ...] | None = None
    handed: bool = False


def confinement_of(launch: LaunchSpec, store_url: str, cache: Path, *, spread: bool = False) -> Confinement:
    """How ranks are held whose sealed bytes lie at `store_url`, and on this node in `cache`.

    `spread`: over several nodes, which reach one another over a network that nobody here can close. Raises
    IsolationRefused when that is asked for all the same.
    """
    asked = launch.isolation is not IsolationPolicy.OFF
    if spread and launch.isolation is IsolationPolicy.REQUIRED:
        raise IsolationRefused(
            f"The run asks for network isolation and cannot have it: {_SPREAD}.",
            hint="Train it on one node, or ask for less isolation and for links over a closed fabric.",
        )
    if spread and asked:
        return Confinement(IsolationPolicy.OFF, _SPREAD, _writable(launch, store_url, cache))
    return Confinement(
        launch.isolation,
        open_because="" if asked else _NOT_ASKED,
        writable=_writable(launch, store_url, cache),
        handed=asked and urlsplit(store_url).scheme != "file",
    )


def hand_of(store_url: str, run: RunId, datasets: Sequence[DatasetRecord]) -> StoreHand:
    """Hands ranks without a network their store: the run's datasets to read, and what the run keeps.

    Raises StoreUnreachable and UnsafeStore.
    """
    reads = tuple(dataset_prefix(each.name, each.version) for each in datasets)
    return StoreHand(ObjectStore.open(store_url), HandRules(reads, (f"runs/{run}",)))


def _writable(launch: LaunchSpec, store_url: str, cache: Path) -> tuple[Path, ...] | None:
    """Where ranks put what they seal: the node's cache, and the store when it is a folder."""
    if launch.isolation is IsolationPolicy.OFF:
        return None
    store = urlsplit(store_url)
    folders = (Path(unquote(store.path)),) if store.scheme == "file" else ()
    return (cache, *(each for each in folders if each.is_dir()))
