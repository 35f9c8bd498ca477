"""New wraps of partition keys, beside the streams that they open. See docs/design/keys.md, "Rewrap"."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Final

from stoker.keys.refs import KekRef
from stoker.keys.rewrap import MAX_MOVE_BYTES, Move, WrappedKey, decode_move, encode_move
from stoker.store.errors import ObjectExists
from stoker.store.header import MAX_HEADER_BYTES, parse_header
from stoker.store.objects import ObjectStore

_FOLDERS: Final = {"source": "sources", "dataset": "datasets", "run": "runs"}


def prefix_of(scope: str) -> str | None:
    """The folder of the store in which everything lies that the scope's KEKs sealed; None for none."""
    kind, _, name = scope.partition("/")
    folder = _FOLDERS.get(kind)
    return None if folder is None else f"{folder}/{name}"


def sealed_keys(store: ObjectStore, scope: str) -> list[str]:
    """The names of all sealed streams of the scope's thing, whatever a manifest says, in order."""
    prefix = prefix_of(scope)
    if prefix is None:
        return []
    return sorted(key for key in store.list(prefix) if key.endswith(".stk"))


class StoredRewraps:
    """The Moves and SealedThings of one store. `open_store` is called at first use; threads may share it.

    A move of SCOPE from epoch F to epoch T is the object `FOLDER/rewrapped/F-T-N` of the thing's folder, each
    number in ten digits; it goes when the thing's objects go.
    """

    def __init__(self, open_store: Callable[[], ObjectStore]) -> None:
        self._open_store = open_store
        self._known: dict[str, Move] = {}
        self._lock = threading.Lock()

    def find(self, kek: KekRef, digest: bytes) -> Iterator[tuple[KekRef, bytes]]:
        """See Moves. What is known already is tried before the store is asked for more."""
        folder = self._folder(kek)
        if folder is None:
            return
        tried: set[str] = set()
        for look in (False, True):
            with self._lock:
                if look:
                    self._load(folder)
                names = sorted(self._known, key=lambda name: self._known[name].target, reverse=True)
                moves = [(name, self._known[name]) for name in names if name not in tried]
            for name, move in moves:
                tried.add(name)
                if move.source == kek and digest in move.wrapped:
                    yield move.target, move.wrapped[digest]

    def wrapped_keys(self, scope: str) -> Iterator[WrappedKey]:
        """See SealedThings: one short read a stream."""
        store = self._open_store()
        found: dict[tuple[KekRef, bytes], WrappedKey] = {}
        for key in sealed_keys(store, scope):
            size = store.size(key)
            header = parse_header(store.get_range(key, 0, min(size, MAX_HEADER_BYTES)), size, key)
            if header.kek.scope != scope:
                continue
            name = (header.kek, header.wrapped_key)
            streams = found[name].streams + 1 if name in found else 1
            example = found[name].example if name in found else key
            found[name] = WrappedKey(header.kek, header.wrapped_key, header.purpose, streams, example)
        yield from found.values()

    def keep(self, move: Move) -> str:
        """See SealedThings. Raises what the store raises."""
        folder = self._folder(move.source)
        assert folder is not None, "only what lies in the store is moved"
        data, number = encode_move(move), 1
        while True:
            name = f"{folder}/{move.source.epoch:010d}-{move.target.epoch:010d}-{number:010d}"
            try:
                self._open_store().create(name, data)
                return name
            except ObjectExists:
                number += 1

    def _load(self, folder: str) -> None:
        store = self._open_store()
        for name in store.list(folder):
            if name not in self._known:
                self._known[name] = decode_move(store.get(name, max_bytes=MAX_MOVE_BYTES), name)

    def _folder(self, kek: KekRef) -> str | None:
        prefix = prefix_of(kek.scope)
        return None if prefix is None else f"{prefix}/rewrapped"
