"""The opened chunks of one rank: only those that its windows draw from now, wiped when dropped.

See docs/design/feed.md, "Memory".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from stoker.feed.source import Samples, SampleSplit


class ChunkCache:
    """Chunks in memory, each as long as some window holds it. A chunk is opened when first asked for."""

    def __init__(self, split: SampleSplit) -> None:
        self._split = split
        self._opened: dict[int, Samples] = {}
        self._holders: Counter[int] = Counter()
        self.opens = 0
        """Chunks opened since the beginning: the numerator of read amplification."""

    def __len__(self) -> int:
        return len(self._opened)

    def exchange(self, old: Sequence[int], new: Sequence[int]) -> None:
        """A window that held `old` chunks now holds `new`. Chunks that no window holds any more are wiped."""
        self._holders.update(new)
        for chunk in old:
            self._holders[chunk] -= 1
            if not self._holders[chunk]:
                del self._holders[chunk]
                rows = self._opened.pop(chunk, None)
                if rows is not None:
                    rows.fill(0)

    def rows(self, chunk: int) -> Samples:
        """The samples of a chunk that some window holds. Raises what opening it raises."""
        assert self._holders[chunk] > 0, f"chunk {chunk} is read outside every window"
        opened = self._opened.get(chunk)
        if opened is None:
            opened = self._opened[chunk] = self._split.read_chunk(chunk)
            self.opens += 1
        return opened

    def wipe(self) -> None:
        """Overwrite and forget every chunk and every holder."""
        while self._opened:
            self._opened.popitem()[1].fill(0)
        self._holders.clear()
