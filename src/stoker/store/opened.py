"""Partition keys that stay open while one dataset is read. See docs/design/store.md, "Partition keys"."""

from __future__ import annotations

import threading
from collections import OrderedDict
from types import TracebackType
from typing import Final

from stoker.keys.partition import KeySource
from stoker.keys.refs import KekRef, Purpose
from stoker.keys.secret import SecretKey

MAX_OPEN_KEYS: Final = 64


class OpenedKeys:
    """A KeySource that unwraps each partition key once and keeps it, locked, until `close`.

    One lives as long as one open dataset, never longer: a key that was destroyed or has expired meanwhile
    stays readable through it until it is closed.
    """

    def __init__(self, keys: KeySource, *, limit: int = MAX_OPEN_KEYS) -> None:
        self._keys = keys
        self._limit = limit
        self._lock = threading.Lock()
        self._open: OrderedDict[tuple[KekRef, bytes, Purpose], SecretKey] = OrderedDict()

    def new_partition_key(self, kek: KekRef, purpose: Purpose) -> tuple[SecretKey, bytes]:
        """Passed on: keys to seal with are not kept here."""
        return self._keys.new_partition_key(kek, purpose)

    def open_partition_key(self, kek: KekRef, wrapped: bytes, purpose: Purpose) -> SecretKey:
        """A copy of the key inside `wrapped`, which the caller wipes; unwrapped by the source only once."""
        name = (kek, wrapped, purpose)
        with self._lock:
            held = self._open.get(name)
            if held is None:
                held = self._keys.open_partition_key(kek, wrapped, purpose)
                self._open[name] = held
                while len(self._open) > self._limit:
                    self._open.popitem(last=False)[1].wipe()
            self._open.move_to_end(name)
            return SecretKey.adopt(bytearray(held.view()))

    def close(self) -> None:
        """Wipe every key that is kept."""
        with self._lock:
            while self._open:
                self._open.popitem()[1].wipe()

    def __enter__(self) -> OpenedKeys:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
