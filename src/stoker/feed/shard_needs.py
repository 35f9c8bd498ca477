"""Which shards a rank will open, at which step: the order is known, so this is arithmetic.

See docs/design/feed.md, "Prefetching shards".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from stoker.feed.lanes import Integers
from stoker.feed.order import Order
from stoker.spec.mixture import PERIOD
from stoker.store.cache import NodeCache
from stoker.store.cache_counts import Brought
from stoker.store.manifest import Manifest
from stoker.store.superblock import Split


class ShardAccess(Protocol):
    """The shards of one split, as prefetching sees them. For several threads."""

    @property
    def limit_bytes(self) -> int:
        """How much the cache holds at most."""
        ...

    @property
    def shards(self) -> int:
        """How many shards there are."""
        ...

    def shard_of(self, block: int) -> int:
        """The shard that a block lies in."""
        ...

    def size(self, shard: int) -> int:
        """The length of a shard's object in bytes. Raises CorruptManifest, and what the store raises."""
        ...

    def bring_in(self, shard: int, keep_s: float, stopped: Callable[[], bool]) -> Brought:
        """Have the shard in the cache, and keep it for `keep_s` seconds. Raises what the store raises."""
        ...


@runtime_checkable
class PrefetchedSplit(Protocol):
    """A split whose shards can be brought into a cache before they are read."""

    def shard_access(self) -> ShardAccess | None:
        """Its shards; None without a cache. From then on large shards are read while they come in."""
        ...


class CachedShards:
    """The shards of a split under its manifest, through the node's cache."""

    def __init__(
        self,
        manifest: Manifest,
        cache: NodeCache,
        split: Split,
        blocks_per_shard: int,
    ) -> None:
        self._manifest = manifest
        self._cache = cache
        self._split = split
        self._blocks_per_shard = blocks_per_shard

    @property
    def limit_bytes(self) -> int:
        return self._cache.limit_bytes

    @property
    def shards(self) -> int:
        return self._split.shards

    def shard_of(self, block: int) -> int:
        return self._split.first_shard + block // self._blocks_per_shard

    def size(self, shard: int) -> int:
        return self._manifest.entry(shard).object_bytes

    def bring_in(self, shard: int, keep_s: float, stopped: Callable[[], bool]) -> Brought:
        entry = self._manifest.entry(shard)
        return self._cache.bring_in(
            self._manifest.shard_key(shard),
            entry.object_bytes,
            digest=entry.digest,
            keep_s=keep_s,
            stopped=stopped,
        )


@dataclass(frozen=True, slots=True)
class ShardNeed:
    """A shard of a part is opened at a step, because a position enters a window that draws from it."""

    step: int
    part: int
    shard: int


class ShardNeeds:
    """The shards that positions [first, first + rows) of the global batch open, step after step.

    One order of one split; or, with `pattern`, those of a mixture's parts, which says whose turn it is.
    """

    def __init__(
        self,
        orders: Sequence[Order],
        shards: Sequence[ShardAccess | None],
        first: int,
        rows: int,
        pattern: npt.NDArray[np.int16] | None = None,
    ) -> None:
        self.shards = tuple(shards)
        self._orders = tuple(orders)
        self._positions = np.arange(first, first + rows, dtype=np.int64)
        self._pattern = pattern
        self._held: dict[tuple[int, int], tuple[int, int, int]] = {}  # by part and position: its window

    @property
    def rows(self) -> int:
        """How many samples a step has here."""
        return len(self._positions)

    def forget(self) -> None:
        """Begin anew: at the next step asked for, every position enters its window."""
        self._held.clear()

    def between(self, first: int, stop: int) -> list[ShardNeed]:
        """What is opened in steps [first, stop), soonest first. Ask for adjoining steps, in order."""
        steps = np.arange(first, stop, dtype=np.int64)[:, None]
        indices = steps * self._orders[0].lanes + self._positions
        whose = (
            np.zeros(indices.shape, np.int16) if self._pattern is None else self._pattern[indices % PERIOD]
        )
        needs: list[ShardNeed] = []
        for part, (order, shards) in enumerate(zip(self._orders, self.shards, strict=True)):
            step, column = np.nonzero(whose == part)
            if shards is not None and len(step):
                drawn = indices[step, column]
                if order.turns is not None:
                    drawn = order.turns.samples_before(drawn)
                needs += self._of_part(part, shards, drawn, step + first, column)
        return sorted(needs, key=lambda need: need.step)

    def _of_part(
        self, part: int, shards: ShardAccess, indices: Integers, steps: Integers, rows: Integers
    ) -> Iterator[ShardNeed]:
        """One part's samples, in ascending steps: sample j is for row `rows[j]` of step `steps[j]`."""
        epoch, lane, _, window = self._orders[part].locate(indices)
        by_row = np.argsort(rows, kind="stable")
        changes = np.zeros(len(indices), dtype=np.bool_)
        changes[0] = True
        for names in (rows, epoch, lane, window):
            changes[1:] |= np.diff(names[by_row]) != 0
        for sample in by_row[changes].tolist():
            row, name = int(rows[sample]), (int(epoch[sample]), int(lane[sample]), int(window[sample]))
            if self._held.get((part, row)) != name:
                self._held[part, row] = name
                blocks = self._orders[part].blocks_of_window(*name)
                for shard in dict.fromkeys(shards.shard_of(block) for block in blocks):
                    yield ShardNeed(int(steps[sample]), part, shard)
