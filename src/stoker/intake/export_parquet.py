"""Rows of a dataset as Parquet files: the columns, their types, and optional encryption by pyarrow.

See docs/design/intake.md, "Export". pyarrow is imported when a file is written, not before.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from stoker.core.errors import MissingExtra
from stoker.intake.errors import BrokenRecord
from stoker.intake.reading import TOKENS_FIELD, Column, Rows
from stoker.store.ragged import Ragged
from stoker.store.record_schema import FieldKind, RecordField

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TEXT_COLUMN: Final = "text"
"""What tokens say, beside them, when a tokenizer is used."""

ROW_GROUP_BYTES: Final = 8 << 20
"""Plain bytes after which a row group ends."""

_TEXT_MEDIA: Final = "text/"


def require_pyarrow(*, encrypted: bool) -> None:
    """Raise MissingExtra unless pyarrow is there, and new enough to encrypt with a key that it is given."""
    try:
        import pyarrow.parquet
        import pyarrow.parquet.encryption as encryption
    except ImportError as error:
        raise MissingExtra(
            "Exporting to Parquet needs the package pyarrow.",
            hint="Install the extra 'data': pip install '.[data]' in Stoker's clone",
        ) from error
    if encrypted and not hasattr(encryption, "create_encryption_properties"):
        raise MissingExtra(
            f"pyarrow {pyarrow.__version__} cannot encrypt Parquet with a key that it is given.",
            hint="Install a newer one: pip install --upgrade pyarrow",
        )


class ParquetFile:
    """One Parquet file as it is written: mode 0600, compressed with zstd, encrypted when there is a key.

    Use it as a context; leaving it without an error ends the file and makes it durable.
    """

    def __init__(
        self,
        path: Path,
        fields: Sequence[RecordField],
        *,
        tokenizer: Tokenizer | None,
        key: bytes | None,
        about: Mapping[str, str],
    ) -> None:
        """`about` goes into the file's metadata."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._fields = tuple(fields)
        self._tokenizer = tokenizer
        self._tokens = next((each.name for each in fields if each.kind is FieldKind.TOKENS), TOKENS_FIELD)
        columns = [pa.field(field.name, _arrow_type(field), metadata=_media(field)) for field in fields]
        if tokenizer is not None:
            taken = {field.name for field in fields}
            name = TEXT_COLUMN if TEXT_COLUMN not in taken else f"{self._tokens}_{TEXT_COLUMN}"
            columns.append(pa.field(name, pa.large_string()))
        self._schema = pa.schema(columns, metadata={f"stoker.{name}": text for name, text in about.items()})
        self._pending: list[Any] = []
        self._pending_bytes = 0
        self.rows = 0
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._file = os.fdopen(descriptor, "wb")
        options: dict[str, Any] = {"compression": "zstd"}
        if key is not None:
            options["encryption_properties"] = _encryption(key, path.name)
        try:
            self._writer = pq.ParquetWriter(self._file, self._schema, **options)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> ParquetFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        import pyarrow as pa

        try:
            if error is None:
                self._end_group()
                self._writer.close()
                self._file.flush()
                os.fsync(self._file.fileno())
        finally:
            with contextlib.suppress(OSError, pa.ArrowException):
                self._writer.close()  # else it would try once more when it is collected
            with contextlib.suppress(OSError):
                self._file.close()

    def add(self, rows: Rows) -> None:
        """Append rows; their values are copied. Raises BrokenRecord for a text that is not UTF-8."""
        import pyarrow as pa

        arrays = [self._array(field, rows) for field in self._fields]
        if self._tokenizer is not None:
            column = rows.columns[self._tokens]
            texts = [
                self._tokenizer.decode(_row(column, place).tolist(), skip_special_tokens=False)
                for place in range(rows.count)
            ]
            arrays.append(pa.array(texts, type=pa.large_string()))
        batch = pa.record_batch(arrays, schema=self._schema)
        self._pending.append(batch)
        self._pending_bytes += batch.nbytes
        self.rows += rows.count
        if self._pending_bytes >= ROW_GROUP_BYTES:
            self._end_group()

    def _end_group(self) -> None:
        import pyarrow as pa

        if self._pending or self.rows == 0:
            table = pa.Table.from_batches(self._pending, schema=self._schema)
            self._writer.write_table(table, row_group_size=max(1, table.num_rows))
            self._pending, self._pending_bytes = [], 0

    def _array(self, field: RecordField, rows: Rows) -> Any:
        import pyarrow as pa

        column = rows.columns[field.name]
        if field.kind is FieldKind.NUMBER:
            assert isinstance(column, np.ndarray)
            return _numbers(column.copy())
        offsets, values = _flat(column, rows.count)
        if field.kind is FieldKind.TOKENS:
            return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), pa.array(values))
        array = pa.LargeBinaryArray.from_buffers(
            pa.large_binary(), rows.count, [None, pa.py_buffer(offsets), pa.py_buffer(values)]
        )
        if not field.media.startswith(_TEXT_MEDIA):
            return array
        try:
            return array.cast(pa.large_string())
        except pa.ArrowInvalid as error:
            raise BrokenRecord(
                f"Field {field.name!r} of a row between {rows.first} and {rows.first + rows.count} is called "
                "text and is not UTF-8.",
                hint="Prepare the dataset again.",
            ) from error


def _arrow_type(field: RecordField) -> Any:
    import pyarrow as pa

    if field.kind is FieldKind.BYTES:
        return pa.large_string() if field.media.startswith(_TEXT_MEDIA) else pa.large_binary()
    inner = pa.from_numpy_dtype(np.dtype(field.dtype))
    if field.kind is FieldKind.TOKENS:
        return pa.list_(inner)
    for size in reversed(field.shape):
        inner = pa.list_(inner, size)
    return inner


def _media(field: RecordField) -> dict[str, str] | None:
    return {"media": field.media} if field.media else None


def _flat(column: Column, count: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Offsets, int64 from 0, and the values behind each other; copies of their own."""
    if isinstance(column, Ragged):
        first, last = int(column.offsets[0]), int(column.offsets[-1])
        values = column.values[first:last].copy()
        return np.ascontiguousarray(column.offsets - first, dtype=np.int64), values
    width = column.shape[1]
    return np.arange(count + 1, dtype=np.int64) * width, column.reshape(-1).copy()


def _row(column: Column, place: int) -> np.ndarray[Any, Any]:
    return column.row(place) if isinstance(column, Ragged) else column[place]


def _numbers(values: np.ndarray[Any, Any]) -> Any:
    import pyarrow as pa

    array = pa.array(values.reshape(-1))
    for size in reversed(values.shape[1:]):
        array = pa.FixedSizeListArray.from_arrays(array, size)
    return array


def _encryption(key: bytes, name: str) -> Any:
    """AES-GCM for all of it, footer too. The file's name is bound in, so that files are not exchanged."""
    import pyarrow.parquet.encryption as encryption

    return encryption.create_encryption_properties(key, aad_prefix=name.encode(), store_aad_prefix=True)
