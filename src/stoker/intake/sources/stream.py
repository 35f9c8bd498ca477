"""A file as one stream of bytes, plain or gzip, with bounded reads: the ground of tar, JSON lines and CSV.

A gzip stream may be a bomb, so what it gives is bounded by its size and by a ratio, and nothing is expanded
that is not asked for. See docs/design/intake.md, "What bad input gets".
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Final

from stoker.intake.left_out import Reason
from stoker.store.ranges import RangeSource

BLOCK_BYTES: Final = 1 << 20
MAX_READ_BYTES: Final = 320 * 1024 * 1024
"""More is never asked for at once: it is a little above the largest item."""

FREE_BYTES: Final = 64 * 1024 * 1024
"""So much may come of a file of any size before the ratio is held against it."""

_GZIP: Final = 31


class StreamFault(Exception):
    """The stream cannot go on. `offset` counts bytes of the file for gzip, of the content otherwise."""

    def __init__(self, reason: Reason, text: str, offset: int | None = None) -> None:
        super().__init__(text)
        self.reason = reason
        self.text = text
        self.offset = offset


class Stream:
    """Reads on from where it is. `advance` is told of each byte of the file once."""

    def __init__(self, source: RangeSource, advance: Callable[[int], None]) -> None:
        self._source = source
        self._size = source.size()
        self._advance = advance
        self._read_bytes = 0
        self._block = b""
        self._start = 0
        self._at = 0

    def tell(self) -> int:
        """The position in the content."""
        return self._at

    def seek(self, position: int) -> int:
        """Go to a position in the content."""
        if not self._start <= position <= self._start + len(self._block):
            self._block, self._start = b"", position
        self._at = position
        return position

    def read(self, length: int = -1) -> bytes:
        """`length` bytes, fewer only at the end. Raises StreamFault, also when that is more than an item."""
        if not 0 <= length <= MAX_READ_BYTES:
            raise StreamFault(Reason.TOO_MUCH, f"{length} bytes are asked for at once", self._at)
        pieces = []
        while length > 0 and self._fill():
            offset = self._at - self._start
            piece = self._block[offset : offset + length]
            pieces.append(piece)
            self._at += len(piece)
            length -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def line(self, limit: int) -> bytes:
        """To the end of the line and with it, or `limit` + 1 bytes of a longer one; empty at the end."""
        pieces: list[bytes] = []
        left = limit + 1
        while left > 0 and self._fill():
            offset = self._at - self._start
            end = self._block.find(b"\n", offset, offset + left)
            stop = end + 1 if end >= 0 else min(len(self._block), offset + left)
            pieces.append(self._block[offset:stop])
            self._at += stop - offset
            left -= stop - offset
            if end >= 0:
                break
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _fill(self) -> bool:
        """Make the block hold the byte at the position; False at the end of the content."""
        if self._at < self._start + len(self._block):
            return True
        self._start += len(self._block)
        self._block = self._next_block()
        return bool(self._block)

    def _next_block(self) -> bytes:
        return self._piece(self._start)

    def _piece(self, start: int) -> bytes:
        length = min(BLOCK_BYTES, self._size - start)
        if length <= 0:
            return b""
        data = bytes(self._source.read(start, length))
        self._tell(start + length)
        return data

    def _tell(self, position: int) -> None:
        if position > self._read_bytes:
            self._advance(position - self._read_bytes)
            self._read_bytes = position


class GzipStream(Stream):
    """The content of a gzip file, of one or more members. It goes forward only."""

    def __init__(self, source: RangeSource, advance: Callable[[int], None], ratio: int) -> None:
        super().__init__(source, advance)
        self._ratio = ratio
        self._inflate = zlib.decompressobj(_GZIP)
        self._from = 0
        self._waiting = b""
        self._more_inside = False

    def seek(self, position: int) -> int:
        """Go forward, reading what lies between, or back within the block."""
        if position < self._start:
            raise StreamFault(Reason.MALFORMED, f"byte {position} lies behind", self._at)
        while position > self._start + len(self._block):
            self._at = self._start + len(self._block)
            if not self._fill():
                break
        self._at = min(position, self._start + len(self._block))
        return self._at

    def _next_block(self) -> bytes:
        while True:
            if not self._waiting and not self._more_inside:
                self._waiting = self._piece(self._from)
                self._from += len(self._waiting)
            if not self._waiting and not self._more_inside:
                if self._from and not self._inflate.eof:
                    raise StreamFault(Reason.TRUNCATED, "the gzip stream is cut off", self._from)
                return b""
            if self._inflate.eof:
                self._inflate = zlib.decompressobj(_GZIP)
            try:
                block = self._inflate.decompress(self._waiting, BLOCK_BYTES)
            except zlib.error as error:
                raise StreamFault(Reason.MALFORMED, f"it is no gzip stream ({error})", self._from) from error
            self._waiting = self._inflate.unused_data or self._inflate.unconsumed_tail
            self._more_inside = len(block) == BLOCK_BYTES and not self._inflate.eof
            if block:
                self._bound(self._start + len(block))
                return block

    def _bound(self, expanded: int) -> None:
        if expanded > FREE_BYTES + self._ratio * self._from:
            raise StreamFault(
                Reason.TOO_MUCH,
                f"{self._from} bytes of gzip become more than {expanded}: over {self._ratio} times",
                self._from,
            )


def open_stream(source: RangeSource, advance: Callable[[int], None], ratio: int) -> Stream:
    """The content of a file: expanded when it begins as gzip does."""
    gzip = source.size() >= 2 and bytes(source.read(0, 2)) == b"\x1f\x8b"
    return GzipStream(source, advance, ratio) if gzip else Stream(source, advance)
