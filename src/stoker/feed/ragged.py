"""Ragged columns put together from rows that lie in several blocks. See docs/design/feed.md, "Records"."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from stoker.store.ragged import Ragged

__all__ = ["Ragged", "RaggedBuffer", "RaggedRows"]


class RaggedRows:
    """A block's column, ready for single rows to be copied out of it fast."""

    __slots__ = ("data", "starts")

    def __init__(self, column: Ragged) -> None:
        self.data = column.values.data.cast("B") if len(column.values) else memoryview(b"")
        self.starts: list[int] = (column.offsets * column.values.itemsize).tolist()


class RaggedBuffer:
    """Memory for one ragged column of a batch, used for one batch after another; grows when it must."""

    def __init__(
        self,
        dtype: np.dtype[Any],
        rows: int,
        memory: Callable[[tuple[int, ...], np.dtype[Any]], npt.NDArray[Any]] = np.zeros,
    ) -> None:
        """`memory` makes arrays of a shape and type."""
        self._dtype = dtype
        self._memory = memory
        self._values: npt.NDArray[Any] = np.zeros(0, dtype=np.uint8)
        self._offsets = memory((rows + 1,), np.dtype(np.int64))

    def fill(self, columns: Sequence[RaggedRows], rows: Sequence[int]) -> Ragged:
        """Row `rows[j]` of `columns[j]`, for each j, behind each other; valid until the next call.

        Copying a row is one memcpy and less than half a microsecond besides, whatever its length.
        """
        begins = [column.starts[row] for column, row in zip(columns, rows, strict=True)]
        ends = [column.starts[row + 1] for column, row in zip(columns, rows, strict=True)]
        total = sum(ends) - sum(begins)
        if total > len(self._values):
            self._values.fill(0)
            self._values = self._memory((total + total // 4,), np.dtype(np.uint8))
        into = self._values.data
        done, places = 0, [0]
        for column, begin, end in zip(columns, begins, ends, strict=True):
            upto = done + end - begin
            into[done:upto] = column.data[begin:end]
            done = upto
            places.append(done)
        values: npt.NDArray[Any] = self._values[:total].view(self._dtype)
        np.floor_divide(places, self._dtype.itemsize, out=self._offsets)
        return Ragged(values, self._offsets)

    def wipe(self) -> None:
        """Overwrite everything."""
        self._values.fill(0)
        self._offsets.fill(0)
