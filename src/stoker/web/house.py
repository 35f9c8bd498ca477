"""The parts of the house that the page shows and acts on; a face below it opens them."""

from __future__ import annotations

from dataclasses import dataclass

from stoker.core.clock import Clock
from stoker.core.home import Home
from stoker.keys.backend import KeyBackend
from stoker.ledger.ledger import Ledger
from stoker.store.cache import NodeCache
from stoker.store.objects import ObjectStore


@dataclass(frozen=True, slots=True)
class WebHouse:
    """An open house; all of it is used from one thread."""

    home: Home
    ledger: Ledger
    backend: KeyBackend
    store: ObjectStore
    cache: NodeCache
    clock: Clock
