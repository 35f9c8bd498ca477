"""A source of keys for benchmarks that are about bytes."""

from __future__ import annotations

import os

from stoker.keys.refs import KekRef, Purpose
from stoker.keys.secret import SecretKey


class OneKey:
    """Hands out one partition key, unwrapped: this benchmark is about bytes, not about keys."""

    def __init__(self) -> None:
        self._secret = bytearray(os.urandom(32))

    def new_partition_key(self, kek: KekRef, purpose: Purpose) -> tuple[SecretKey, bytes]:
        return SecretKey.adopt(bytearray(self._secret)), b"unwrapped"

    def open_partition_key(self, kek: KekRef, wrapped: bytes, purpose: Purpose) -> SecretKey:
        return SecretKey.adopt(bytearray(self._secret))
