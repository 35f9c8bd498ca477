"""Objects written bit by bit, the disk at work from the first bit on. See docs/design/store.md.

A thread that waits for the disk while another seals was tried, and one that reads ahead of the opening: on a
busy machine both cost more in hand-overs than they hid (docs/design/train.md, "Speed of checkpoints").
"""

from __future__ import annotations

import ctypes
from types import TracebackType
from typing import Final, Protocol

from stoker.store.ranges import BytesLike

_SYNC_FILE_RANGE_WRITE: Final = 2
_sync_file_range = getattr(ctypes.CDLL(None), "sync_file_range", None)
if _sync_file_range is not None:
    _sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)


class ObjectSink(Protocol):
    """An object that is being written; at the end of a block without an error it is there, durable."""

    def write(self, data: BytesLike) -> int:
        """Append. Raises DiskFull and what the back end raises."""
        ...

    def __enter__(self) -> ObjectSink: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def begin_writing_back(descriptor: int, start: int, length: int) -> None:
    """The disk may begin with these bytes of a file; nothing is waited for, and nothing is durable yet.

    sync_file_range(2) with SYNC_FILE_RANGE_WRITE, where the C library has it: Python does not offer it, and
    posix_fadvise(DONTNEED), which begins too, waits for work on every processor.
    """
    if _sync_file_range is not None:
        _sync_file_range(descriptor, start, length, _SYNC_FILE_RANGE_WRITE)
