"""Memory for the opened chunks of one rank, from which any samples are picked in one call.

See docs/design/feed.md, "Buffers".
"""

from __future__ import annotations

import contextlib
import mmap
from typing import Any

import numpy as np
import numpy.typing as npt

from stoker.feed.source import Integers

DType = np.dtype[np.unsignedinteger[Any]]


class Arena:
    """`slots` places for a chunk, side by side in private memory that goes into no core file.

    Memory is taken when a slot is first written, so slots that are never used cost nothing.
    """

    def __init__(self, slots: int, chunk_bytes: int, sample_tokens: int, dtype: DType) -> None:
        sample_bytes = sample_tokens * dtype.itemsize
        self.slot_rows = -(-chunk_bytes // sample_bytes)  # the last for what stands behind a chunk's samples
        self._slot_bytes = self.slot_rows * sample_bytes
        self._memory = private_memory(slots * self._slot_bytes)
        self._view = memoryview(self._memory)
        self._rows = np.frombuffer(self._memory, dtype=dtype, count=slots * self.slot_rows * sample_tokens)
        self._rows = self._rows.reshape(-1, sample_tokens)
        self._free = list(range(slots - 1, -1, -1))
        self._slots = slots
        self._touched = 0

    def take_slot(self) -> int | None:
        """A free slot, or None when there is none. It may hold what was in it before."""
        if not self._free:
            return None
        slot = self._free.pop()
        self._touched = max(self._touched, slot + 1)
        return slot

    def give_back(self, slot: int) -> None:
        """The slot is free again. Its bytes stay until the next chunk overwrites all of them, or `wipe`."""
        self._free.append(slot)

    def room(self, slot: int) -> memoryview:
        """The slot's bytes, at least a chunk's."""
        return self._view[slot * self._slot_bytes : (slot + 1) * self._slot_bytes]

    def pick(self, rows: Integers, out: npt.NDArray[Any]) -> None:
        """out[j] = row `rows[j]`; slot s has rows from s · `slot_rows`. The interpreter's lock is free."""
        self._rows.take(rows, axis=0, out=out, mode="clip")  # "clip": straight into `out`, without a copy

    def wipe(self) -> None:
        """Overwrite all that was ever written, free all slots and give the memory back."""
        touched = self._touched * self._slot_bytes
        if touched:
            np.frombuffer(self._memory, dtype=np.uint8, count=touched).fill(0)
            with contextlib.suppress(OSError):
                self._memory.madvise(mmap.MADV_DONTNEED)
        self._free = list(range(self._slots - 1, -1, -1))
        self._touched = 0


def private_memory(length: int) -> mmap.mmap:
    """Zeros from the start of a page, in large pages where the machine has them, and in no core file.

    Large pages: rows far apart are picked a third faster, and memory is first touched three times faster.
    """
    memory = mmap.mmap(-1, max(1, length), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for advice in ("MADV_HUGEPAGE", "MADV_DONTDUMP"):
        if hasattr(mmap, advice):
            with contextlib.suppress(OSError):  # a kernel built without it
                memory.madvise(getattr(mmap, advice))
    return memory
