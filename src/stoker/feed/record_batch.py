"""One rank's share of a global batch of records: a column a field. See docs/design/feed.md, "Records"."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from stoker.core.errors import MissingExtra
from stoker.store.ragged import Ragged

Column: TypeAlias = "npt.NDArray[Any] | Ragged"
"""An array [rows, …], or for bytes and tokens a Ragged of as many rows."""

NUMBER_KEY: Final = "record.number"
OK_KEY: Final = "record.ok"


class Fault(enum.StrEnum):
    """Why a record could not be decoded."""

    UNDECODABLE = "undecodable"
    """It is no file of its kind, or is damaged or cut."""
    TOO_LARGE = "too large"
    """It has, or claims, more bytes, pixels, samples or channels than allowed."""
    MEMORY = "out of memory"
    """Decoding it took more memory than the worker may have."""
    TOO_SLOW = "too slow"
    """Decoding it took longer than allowed; the worker was killed."""
    KILLED = "killed"
    """The worker that decoded it ended: it was killed, or the decoder crashed."""


@dataclass(frozen=True, slots=True)
class DecodeFault:
    """A field of a record that is blank in its batch, and why."""

    row: int
    number: int
    field: str
    fault: Fault


@dataclass(frozen=True, slots=True)
class RecordBatch:
    """Rows of records; `numbers` says which of the split each is, int64 [rows].

    NUMBER columns are arrays [rows, *shape]; BYTES and TOKENS are Ragged. A decoded batch has arrays where it
    had encoded bytes, zeros where a fault is, and names each fault.
    """

    numbers: npt.NDArray[np.int64]
    columns: Mapping[str, Column]
    faults: tuple[DecodeFault, ...] = ()

    def __len__(self) -> int:
        """How many rows there are."""
        return len(self.numbers)

    def __getitem__(self, name: str) -> Column:
        """The column of this field. Raises KeyError."""
        return self.columns[name]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Each record by field: an array of its values, or a number; views of the batch where they can be."""
        rows = [iter(self.columns[name]) for name in self.columns]
        return (dict(zip(self.columns, values, strict=True)) for values in zip(*rows, strict=True))

    def ragged(self, name: str) -> Ragged:
        """The column of a field of bytes or tokens. Raises KeyError, and TypeError for numbers."""
        column = self.columns[name]
        if not isinstance(column, Ragged):
            raise TypeError(f"column {name!r} is an array")
        return column

    def array(self, name: str) -> npt.NDArray[Any]:
        """The column of a field of numbers or of decoded media. Raises KeyError, and TypeError for others."""
        column = self.columns[name]
        if isinstance(column, Ragged):
            raise TypeError(f"column {name!r} is ragged")
        return column

    @property
    def ok(self) -> npt.NDArray[np.bool_]:
        """Which rows have no fault, [rows]."""
        mask = np.ones(len(self), dtype=np.bool_)
        mask[[fault.row for fault in self.faults]] = False
        return mask

    def wipe(self) -> None:
        """Overwrite every value with zeros."""
        self.numbers.fill(0)
        for column in self.columns.values():
            if isinstance(column, Ragged):
                column.wipe()
            else:
                column.fill(0)


def batch_tensors(batch: RecordBatch) -> dict[str, Any]:
    """The batch as torch tensors by field, over the same memory where torch has the type.

    A Ragged gives (values, offsets). uint16 and uint32, which torch hardly computes with, are widened: tokens
    and other uint32 to int64, numbers of uint16 to int32. "record.number" is the numbers, "record.ok" a mask
    of the rows without a fault; no field is called so. Raises MissingExtra without torch.
    """
    try:
        import torch
    except ModuleNotFoundError as error:
        raise MissingExtra(
            "Tensors need torch, which is not installed.",
            hint="Install the extra 'train' from Stoker's clone, or use next_array().",
        ) from error

    def tensor(array: npt.NDArray[Any], narrow: type[np.signedinteger[Any]]) -> Any:
        if array.dtype == np.uint16:
            return torch.from_numpy(array.astype(narrow))
        return torch.from_numpy(array.astype(np.int64) if array.dtype == np.uint32 else array)

    tensors: dict[str, Any] = {
        name: (tensor(column.values, np.int64), tensor(column.offsets, np.int64))
        if isinstance(column, Ragged)
        else tensor(column, np.int32)
        for name, column in batch.columns.items()
    }
    tensors[NUMBER_KEY] = torch.from_numpy(batch.numbers)
    tensors[OK_KEY] = torch.from_numpy(batch.ok)
    return tensors
