"""Rows of unequal length in two arrays: all values behind each other, and where each row begins.

The form of records' columns of bytes and tokens, in a shard, in a block and in a batch. See
docs/design/store.md, "Shard of records", and docs/design/feed.md, "Records".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class Ragged:
    """Row i is `values[offsets[i]:offsets[i + 1]]`. `values` is 1-D; `offsets` is int64 [rows + 1]."""

    values: npt.NDArray[Any]
    offsets: npt.NDArray[np.int64]

    def __len__(self) -> int:
        """How many rows there are."""
        return len(self.offsets) - 1

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """How many values each row has, [rows]."""
        return np.diff(self.offsets)

    def row(self, index: int) -> npt.NDArray[Any]:
        """A view of one row. Raises IndexError for a row that is not there."""
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        return self.values[self.offsets[index] : self.offsets[index + 1]]

    def __iter__(self) -> Iterator[npt.NDArray[Any]]:
        """A view of each row."""
        values, ends = self.values, self.offsets.tolist()
        return (values[begin:end] for begin, end in pairwise(ends))

    def padded(self, length: int, fill: int = 0) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
        """The rows as an array [rows, length], and a mask [rows, length] that is true where a value is.

        Rows that are longer lose their end; `lengths` says which. What has no value holds `fill`.
        """
        taken = np.minimum(self.lengths, length)
        mask = np.arange(length)[None, :] < taken[:, None]
        array = np.full((len(self), length), fill, dtype=self.values.dtype)
        within = self.offsets[:-1, None] + np.arange(length)[None, :]
        array[mask] = self.values[within[mask]]
        return array, mask

    def cu_seqlens(self) -> npt.NDArray[np.int32]:
        """Where each row begins and the last ends, int32 [rows + 1]: what varlen attention kernels take.

        Begins at 0, so it fits `values[offsets[0]:offsets[-1]]`. Raises OverflowError from 2^31 values on.
        """
        starts: npt.NDArray[np.int64] = self.offsets - self.offsets[0]
        if int(starts[-1]) > np.iinfo(np.int32).max:
            raise OverflowError("cu_seqlens are 32-bit: a batch of 2^31 values or more has none")
        return starts.astype(np.int32)

    def wipe(self) -> None:
        """Overwrite every value and offset with zeros."""
        self.values.fill(0)
        self.offsets.fill(0)
