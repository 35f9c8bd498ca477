"""The opened chunks of one rank: those that its windows draw from, and some that they will need next.

See docs/design/feed.md, "Reading" and "Buffers".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from stoker.core.errors import StokerError
from stoker.feed.arena import Arena
from stoker.feed.source import SampleSplit


class ChunkSlots:
    """Which chunk is in which slot of an arena. A chunk stays as long as some window holds it.

    With `threads` chunks are opened by those; without, by the caller. Used by one thread at a time.
    """

    def __init__(self, split: SampleSplit, arena: Arena, threads: int) -> None:
        self._split = split
        self._arena = arena
        self._threads = threads
        self._pool: ThreadPoolExecutor | None = None
        self._slots: dict[int, int] = {}
        self._holders: Counter[int] = Counter()
        self.opening: dict[int, Future[int]] = {}
        """The chunks that nobody has waited for yet, in the order in which they were requested."""
        self.opens = 0
        """Chunks opened since the beginning: the numerator of read amplification."""

    def __len__(self) -> int:
        return len(self._slots)

    def hold(self, chunks: Sequence[int]) -> None:
        """One more window holds these chunks."""
        self._holders.update(chunks)

    def let_go(self, chunks: Sequence[int]) -> list[int]:
        """A window holds these no more. Those that none holds are forgotten and returned."""
        forgotten = []
        for chunk in chunks:
            self._holders[chunk] -= 1
            if not self._holders[chunk]:
                del self._holders[chunk]
                if chunk in self._slots:
                    self._settle(chunk)
                    self._arena.give_back(self._slots.pop(chunk))
                    forgotten.append(chunk)
        return forgotten

    def request(self, chunk: int) -> int | None:
        """The slot in which a chunk that some window holds is or will be open; None when all are taken."""
        assert self._holders[chunk] > 0, f"chunk {chunk} is read outside every window"
        slot = self._slots.get(chunk)
        if slot is None:
            slot = self._arena.take_slot()
            if slot is not None:
                self._slots[chunk] = slot
                self.opening[chunk] = self._start(chunk, self._arena.room(slot))
        return slot

    def error(self, chunk: int) -> BaseException | None:
        """Wait until the chunk is open; what went wrong, as often as it is asked."""
        opening = self.opening.get(chunk)
        if opening is None:
            return None
        error = opening.exception()
        if error is None:
            del self.opening[chunk]
            self.opens += 1
        return error

    def wipe(self) -> None:
        """End the threads; overwrite and forget every chunk and every holder."""
        for chunk in list(self.opening):
            self._settle(chunk)
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown()
        self._slots.clear()
        self._holders.clear()
        self._arena.wipe()

    def _start(self, chunk: int, room: memoryview) -> Future[int]:
        if self._threads:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="stoker-feed-read")
            return self._pool.submit(self._split.read_chunk_into, chunk, room)
        opened: Future[int] = Future()
        try:
            opened.set_result(self._split.read_chunk_into(chunk, room))
        except StokerError as error:  # kept for the step that needs the chunk
            opened.set_exception(error)
        return opened

    def _settle(self, chunk: int) -> None:
        """No thread writes to the chunk's slot any more."""
        opening = self.opening.pop(chunk, None)
        if opening is not None and not opening.cancel() and opening.exception() is None:
            self.opens += 1
