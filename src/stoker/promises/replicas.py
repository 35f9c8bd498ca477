"""The replicas on which a death is proved: the store, each node's cache, every registered copy of the store.

See docs/design/keys.md, "Proof of death".
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from stoker.core.errors import StokerError
from stoker.core.home import Home
from stoker.core.node import node_name
from stoker.core.settings import Settings
from stoker.keys.backend import KeyBackend
from stoker.keys.death import Canary, Replica, Trial
from stoker.keys.errors import KeyDestroyed, KeyUnknown
from stoker.keys.partition import BackendKeySource, partition_context
from stoker.keys.refs import KekRef
from stoker.keys.rewrap import moved_context, without_moves
from stoker.ledger.ledger import Ledger
from stoker.promises.house import read_header
from stoker.promises.nodes import cache_of, elsewhere
from stoker.store.cache import NodeCache
from stoker.store.header import StreamHeader
from stoker.store.objects import ObjectStore
from stoker.store.reader import StreamReader
from stoker.store.rewraps import StoredRewraps, sealed_keys

MAX_TRIED: Final = 256
"""Streams tried on one replica. Of more, the first, the last and an even choice between: a KEK that opens one
partition key opens all, so more of them would say no more."""


@dataclass(frozen=True, slots=True)
class StoreReplica:
    """A store of this house, or a copy of it. `open_store` may fail: then nothing is proved there."""

    name: str
    open_store: Callable[[], ObjectStore]
    backend: KeyBackend

    def canary(self, kek: KekRef) -> Canary | None:
        """See Replica: of the first stream whose key this very KEK keeps."""
        store = self.open_store()
        moves = StoredRewraps(lambda: store)
        for key in _some(sealed_keys(store, kek.scope)):
            found = _kept_key(kek, read_header(store, key), moves)
            if found is not None:
                return Canary(f"{self.name}: {key}", *found)
        return None

    def try_opening(self, kek: KekRef) -> Trial:
        """See Replica. Opens as someone would who has the store and the key store, and no manifest."""
        try:
            store = self.open_store()
            names = sealed_keys(store, kek.scope)
        except (StokerError, OSError) as error:
            return Trial.of(self.name, (), untried=[f"it cannot be read: {_told(error)}"])
        return _tried(self.name, kek, store, _some(names), self.backend)


@dataclass(frozen=True, slots=True)
class CacheReplica:
    """What a node's cache keeps, read from its own files and never from the store behind it."""

    name: str
    cache: NodeCache
    backend: KeyBackend

    def canary(self, kek: KekRef) -> Canary | None:
        """None: what lies in a cache lies in the store as well."""
        return None

    def try_opening(self, kek: KekRef) -> Trial:
        """See Replica."""
        try:
            kept = ObjectStore.open(self.cache.kept_objects.as_uri())
            names = sealed_keys(kept, kek.scope)
        except (StokerError, OSError) as error:
            return Trial.of(self.name, (), untried=[f"it cannot be read: {_told(error)}"])
        return _tried(self.name, kek, kept, _some(names), self.backend)


def replicas_of(
    *,
    store: Callable[[], ObjectStore],
    cache: NodeCache,
    backend: KeyBackend,
    home: Home,
    ledger: Ledger,
    settings: Settings,
) -> tuple[Replica, ...]:
    """The store, the cache of each node, and the registered copies of the store.

    What was moved counts as dead. Of another node's cache only what was tried there counts.
    """
    node = node_name(home)
    keys = without_moves(backend)
    registered = [
        StoreReplica(f"copy {number}", _opener(url), keys)
        for number, url in enumerate(settings.store.replicas, start=1)
    ]
    here = CacheReplica(cache_of(node), cache, keys)
    return (
        StoreReplica("store", store, keys),
        here,
        *elsewhere(ledger, node, settings.cache),
        *registered,
    )


def _opener(url: str) -> Callable[[], ObjectStore]:
    return lambda: ObjectStore.open(url)


def _tried(name: str, kek: KekRef, store: ObjectStore, keys: Sequence[str], backend: KeyBackend) -> Trial:
    moves = StoredRewraps(lambda: store)
    refused: list[str] = []
    opened: list[str] = []
    untried: list[str] = []
    for key in keys:
        try:
            header = read_header(store, key)
            if header.kek == kek:
                StreamReader.open(store.source(key), BackendKeySource(backend), header.label, place=key)
            elif (moved := _kept_key(kek, header, moves)) is not None:
                backend.unwrap(kek, *moved).wipe()
            else:
                continue
        except (KeyDestroyed, KeyUnknown) as refusal:
            refused.append(refusal.id)
        except (StokerError, OSError) as error:
            untried.append(f"{key} could not be tried: {_told(error)}")
        else:
            opened.append(key)
    return Trial.of(name, refused, opened, untried)


def _kept_key(kek: KekRef, header: StreamHeader, moves: StoredRewraps) -> tuple[bytes, bytes] | None:
    """The stream's key as `kek` wrapped it, and its wrap context; None when `kek` keeps it nowhere there."""
    context = partition_context(header.kek, header.purpose)
    if header.kek == kek:
        return header.wrapped_key, context
    if header.kek.scope != kek.scope:
        return None
    for target, again in moves.find(header.kek, hashlib.sha256(header.wrapped_key).digest()):
        if target == kek:
            return again, moved_context(header.wrapped_key, context)
    return None


def _some(keys: Sequence[str]) -> Sequence[str]:
    if len(keys) <= MAX_TRIED:
        return keys
    return [keys[place * (len(keys) - 1) // (MAX_TRIED - 1)] for place in range(MAX_TRIED)]


def _told(error: StokerError | OSError) -> str:
    return error.message if isinstance(error, StokerError) else str(error.strerror)
