"""Where a reader takes ranges of bytes from: memory, a file, a stored object. See docs/design/store.md."""

from __future__ import annotations

import errno
import mmap
import os
import stat
import threading
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol, TypeAlias

from stoker.store.errors import OutOfRange

BytesLike: TypeAlias = "bytes | bytearray | memoryview"

_NEAR_BYTES: Final = 1 << 20
_FAR_BYTES: Final = 8 << 20


class RangeSource(Protocol):
    """An object that can be read in ranges. It never changes while it is open."""

    def size(self) -> int:
        """The length in bytes."""
        ...

    def read(self, start: int, length: int) -> BytesLike:
        """Exactly `length` bytes from `start`. Several threads may read at once.

        The result may be overwritten by the thread's next read, from this source or another.
        """
        ...


class BytesSource:
    """A sealed stream that is in memory already."""

    def __init__(self, data: BytesLike) -> None:
        self._view = memoryview(data).cast("B")

    def size(self) -> int:
        return len(self._view)

    def read(self, start: int, length: int) -> memoryview:
        check_range("the bytes in memory", start, length, len(self._view))
        return self._view[start : start + length]


class _ReadBuffer(threading.local):
    """The bytes that a thread read last, of whatever file, so that they stay in its core's cache."""

    def __init__(self) -> None:
        self._memory = memoryview(b"")

    def room(self, length: int) -> memoryview:
        """At least `length` bytes from the start of a page."""
        if len(self._memory) < length:
            self._memory = memoryview(mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
        return self._memory


_buffer = _ReadBuffer()


class FileSource:
    """A file on this machine, read with `preadv` into one buffer of the thread, used again and again.

    Bytes land at the same place in a page as they have in the file: into a bytearray, which begins 16 bytes
    after a page's start, the kernel copies at less than half the speed (docs/design/store.md, "Speed").
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = -1
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        self._size = regular_size(self._descriptor, str(path))

    def size(self) -> int:
        return self._size

    def read(self, start: int, length: int) -> memoryview:
        check_range(str(self._path), start, length, self._size)
        skip = start % mmap.PAGESIZE
        target = _buffer.room(skip + length)[skip : skip + length]
        read_exactly(self._descriptor, target, start, str(self._path))
        return target

    def close(self) -> None:
        """Give the file back; reading afterwards fails."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> FileSource:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


class ReadAhead:
    """A far object for one who reads it in its order: 8 MiB are asked for at a time, whatever is read."""

    def __init__(self, source: RangeSource) -> None:
        self._source = source
        self._guard = threading.Lock()
        self._begin = 0
        self._held = memoryview(b"")

    def size(self) -> int:
        return self._source.size()

    def read(self, start: int, length: int) -> BytesLike:
        check_range("the object", start, length, self.size())
        if length >= _FAR_BYTES:
            return self._source.read(start, length)
        with self._guard:
            end = self._begin + len(self._held)
            if not self._begin <= start <= end:
                self._begin = end = start
                self._held = memoryview(b"")
            if start + length > end:
                more = self._source.read(end, min(_FAR_BYTES, self.size() - end))
                self._held = memoryview(b"".join((self._held[start - self._begin :], more)))
                self._begin = start
            return self._held[start - self._begin : start - self._begin + length]


def fetch_bytes_of(source: RangeSource) -> int:
    """How much of `source` one who opens all of it should ask for at a time.

    A file's bytes are opened while they lie in the core's own cache: 8 MiB at a time cost twice the
    processor time of 1 MiB. From far each request has its price.
    """
    return _NEAR_BYTES if isinstance(source, FileSource | ReadAhead | BytesSource) else _FAR_BYTES


def regular_size(descriptor: int, place: str) -> int:
    """The length of an open plain file. Raises FileNotFoundError for a folder, a FIFO or a device."""
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        raise FileNotFoundError(errno.ENOENT, "is no plain file", place)
    return found.st_size


def read_exactly(descriptor: int, target: memoryview, start: int, place: str) -> None:
    """Fill `target` from offset `start`; raises OutOfRange when the file has become shorter."""
    done = 0
    while done < len(target):
        count = os.preadv(descriptor, [target[done:]], start + done)
        if count == 0:
            raise OutOfRange(
                f"{place} became shorter while it was read: no byte at offset {start + done}.",
                hint="Something outside Stoker changes the file. Restore it from a copy.",
            )
        done += count


def check_range(place: str, start: int, length: int, size: int) -> None:
    """Raise OutOfRange unless bytes `start` to `start + length` lie inside `size`."""
    if start < 0 or length < 0 or start + length > size:
        raise OutOfRange(
            f"Bytes {start} to {start + length} were asked of {place}, which has {size} bytes.",
            hint="The object is shorter than what refers to it. Restore it from a copy.",
        )
