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

    __slots__ = ("starts", "values")

    def __init__(self, column: Ragged) -> None:
        self.values = column.values
        self.starts: list[int] = column.offsets.tolist()


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
        self._values: npt.NDArray[Any] = np.zeros(0, dtype=dtype)
        self._offsets = memory((rows + 1,), np.dtype(np.int64))

    def fill(self, columns: Sequence[RaggedRows], rows: Sequence[int]) -> Ragged:
        """Row `rows[j]` of `columns[j]`, for each j, behind each other; valid until the next call.

        A row is copied once, whatever its length, and other threads run while it is.
        """
        parts = [
            column.values[column.starts[row] : column.starts[row + 1]]
            for column, row in zip(columns, rows, strict=True)
        ]
        self._offsets[0] = 0
        np.cumsum([len(part) for part in parts], out=self._offsets[1:])
        total = int(self._offsets[-1])
        if total > len(self._values):
            self._values.fill(0)
            self._values = self._memory((total + total // 4,), self._dtype)
        values = self._values[:total]
        if total:
            np.concatenate(parts, out=values)
        return Ragged(values, self._offsets)

    def wipe(self) -> None:
        """Overwrite everything."""
        self._values.fill(0)
        self._offsets.fill(0)
