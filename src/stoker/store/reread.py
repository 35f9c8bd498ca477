"""Bytes that do not hold are read once more before they are called changed. See docs/design/store.md.

An answer can be changed on its way while the object is whole. Nothing unverified is handed on in between.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

from stoker.core.errors import BadSignature
from stoker.store.errors import (
    CommitmentMismatch,
    CorruptManifest,
    CorruptStream,
    NotSealed,
    SwappedStream,
    TruncatedStream,
    UnknownVersion,
)

T = TypeVar("T")

CHANGED: Final = (
    BadSignature,
    CommitmentMismatch,
    CorruptManifest,
    CorruptStream,
    NotSealed,
    SwappedStream,
    TruncatedStream,
    UnknownVersion,
)
"""What changed bytes may be told as."""


def reread_once(read: Callable[[], T]) -> T:
    """What `read` gives, at its second try when the first finds changed bytes.

    Raises what the first try found when the second finds changed bytes too.
    """
    try:
        return read()
    except CHANGED as first:
        try:
            return read()
        except CHANGED:
            raise first from None
