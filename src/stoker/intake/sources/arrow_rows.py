"""Columns of Arrow batches as cells, inside the worker that parses them.

Runs only in a confined worker; pyarrow is imported when it is first needed. See docs/design/intake.md,
"Sources".
"""

from __future__ import annotations

import base64
import importlib.util
from collections.abc import Mapping
from typing import Any

from stoker.core.errors import MissingExtra
from stoker.intake.left_out import Reason
from stoker.intake.sources.confined import WorkerSide
from stoker.intake.sources.json_lines import extra_json
from stoker.intake.sources.rows import Cell, Columns, Role, label_cell


def need_pyarrow(what: str) -> None:
    """Import pyarrow before workers are forked. Raises MissingExtra."""
    if importlib.util.find_spec("pyarrow") is None:
        raise MissingExtra(
            f"Importing {what} needs the package pyarrow.",
            hint="Install the extra 'data': run pip install '.[data]' in Stoker's clone.",
        )
    import pyarrow

    pyarrow.set_cpu_count(1)


def be_small() -> None:
    """In the worker: one thread, and memory from malloc, whose growth the limit can refuse."""
    import pyarrow

    pyarrow.set_memory_pool(pyarrow.system_memory_pool())
    pyarrow.set_cpu_count(1)


class RowFault(Exception):
    """A row that cannot be taken."""

    def __init__(self, reason: Reason, text: str) -> None:
        super().__init__(text)
        self.reason = reason
        self.text = text


def send_batch(
    side: WorkerSide, batch: Any, columns: Columns, first_row: int, classes: Mapping[str, int]
) -> None:
    """Send the rows of a `pyarrow.RecordBatch`. `classes` says how many classes a label column knows."""
    taken = {name: _checked(batch.column(name)) for name in columns.names()}
    for offset in range(batch.num_rows):
        row = first_row + offset
        try:
            values = {name: _value(column[offset]) for name, column in taken.items()}
            side.row(row, _cells(columns, values, classes))
        except RowFault as fault:
            side.fault(row, fault.reason, fault.text)


def _checked(column: Any) -> Any:
    """The column with every offset inside its buffers; text as bytes, so that it is judged as all text is."""
    import pyarrow

    bare = {pyarrow.string(): pyarrow.binary(), pyarrow.large_string(): pyarrow.large_binary()}
    if column.type in bare:
        column = column.view(bare[column.type])
    column.validate(full=True)
    return column


def _value(scalar: Any) -> Any:
    try:
        value = scalar.as_py()
    except (ValueError, ArithmeticError, UnicodeDecodeError) as error:
        raise RowFault(Reason.BAD_ROW, "has a value that Python cannot hold") from error
    return value.encode() if isinstance(value, str) else value


def _cells(columns: Columns, values: Mapping[str, Any], classes: Mapping[str, int]) -> list[Cell]:
    cells = []
    if columns.text:
        text = values[columns.text]
        if not isinstance(text, bytes):
            raise RowFault(Reason.MISSING_COLUMN, f"has no text in column {columns.text!r}")
        cells.append(Cell(Role.TEXT, text))
    for name, role in ((columns.image, Role.IMAGE), (columns.audio, Role.AUDIO)):
        if name:
            cells.append(Cell(role, _media(name, values[name])))
    if columns.label:
        cells.append(_label(columns.label, values[columns.label], classes))
    if columns.extra:
        cells.append(Cell(Role.EXTRA, _extra({name: values[name] for name in columns.extra})))
    return cells


def _media(name: str, value: Any) -> bytes:
    """Bytes, or the struct of bytes and path that Hugging Face datasets write."""
    if isinstance(value, Mapping):
        if value.get("bytes") is None and value.get("path") is not None:
            raise RowFault(Reason.BAD_ROW, f"refers in column {name!r} to a file, which is not followed")
        value = value.get("bytes")
    if not isinstance(value, bytes):
        raise RowFault(Reason.MISSING_COLUMN, f"has no bytes in column {name!r}")
    return value


def _label(name: str, value: Any, classes: Mapping[str, int]) -> Cell:
    if isinstance(value, bytes):
        try:
            return label_cell(value.decode())
        except UnicodeDecodeError as error:
            raise RowFault(Reason.BAD_LABEL, "has a label that is not UTF-8") from error
    if isinstance(value, int):
        known = classes.get(name, 0)
        if value < 0 or (known and value >= known):
            highest = f"0 to {known - 1}" if known else "0 or more"
            raise RowFault(Reason.BAD_LABEL, f"has label {value}; it must be {highest}")
        return label_cell(value)
    if value is None:
        raise RowFault(Reason.MISSING_COLUMN, f"has no label in column {name!r}")
    raise RowFault(Reason.BAD_LABEL, "has a label that is neither a whole number nor text")


def _extra(values: Mapping[str, Any]) -> bytes:
    try:
        return extra_json({name: _plain(value) for name, value in values.items()})
    except ValueError as error:
        raise RowFault(Reason.BAD_ROW, "holds what JSON cannot say in its other columns") from error


def _plain(value: Any) -> Any:
    """A value as JSON has it: bytes that are UTF-8 as text, others in base 64, dates in ISO 8601."""
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return base64.b64encode(value).decode()
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return value.isoformat() if hasattr(value, "isoformat") else str(value)
