"""What a node's cache says of what it did. See docs/design/store.md, "Node cache"."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto


class Brought(Enum):
    """What became of bringing an object in ahead of its use."""

    HELD = auto()
    """It was there already."""
    IN = auto()
    """It was brought in now."""
    NO_ROOM = auto()
    """Something that is wanted as much would have had to go for it."""
    UNDER_WAY = auto()
    """Somebody else is bringing it in."""
    STOPPED = auto()
    """It was given up in the middle."""
    UNUSABLE = auto()
    """It is larger than the cache, or the cache's disk is full or cannot be written."""


@dataclass(frozen=True, slots=True)
class CacheCounts:
    """What a cache has done in this process since it was opened."""

    hits: int = 0
    misses: int = 0
    store_bytes: int = 0
    """Brought in from the store."""
    peer_bytes: int = 0
    """Brought in from other nodes of the run."""
    direct_bytes: int = 0
    """Handed on from the store without being kept: bypassed objects, and ranges of objects on their way."""
    evictions: int = 0
    refetched: int = 0
    """Kept copies that did not hold and were replaced, or could not be read."""
    bypassed: int = 0
    """Times that an object was read from the store because the cache could not take it."""
