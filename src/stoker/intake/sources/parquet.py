"""Parquet files, also encrypted ones: row group by row group, only the columns that are wanted, in a worker.

The claims of a file's metadata are held against the limits before anything is decoded; what they do not say
meets the worker's memory limit. See docs/design/intake.md, "Sources".
"""

from __future__ import annotations

import functools
import json
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from typing import Any, Final

from stoker.intake.left_out import Reason, printable
from stoker.intake.sources.arrow_rows import be_small, need_pyarrow, send_batch
from stoker.intake.sources.confined import (
    CannotGoOn,
    Parser,
    WorkerFault,
    WorkerSide,
    WorkerWord,
    parse_confined,
)
from stoker.intake.sources.files import Candidate
from stoker.intake.sources.form import Bound, Intake
from stoker.intake.sources.judge import Item, NotTaken
from stoker.intake.sources.parquet_keys import ParquetKeys, read_parquet_keys
from stoker.intake.sources.rows import NoSuchColumn, missing_column, pick_columns, row_items, row_place
from stoker.intake.sources.stream import StreamFault
from stoker.spec.source import ImportSpec
from stoker.store.ranges import RangeSource

ENDINGS: Final = (".parquet",)
_BATCH_BYTES: Final = 16 * 1024 * 1024
_BATCH_ROWS: Final = 1024
_THRIFT: Final = 64 * 1024 * 1024
_MAX_COLUMNS: Final = 100_000


def parquet_items(intake: Intake) -> Generator[Item]:
    """The rows of every file, in the order of the files' names."""
    need_pyarrow("Parquet")
    spec = intake.spec
    with read_parquet_keys(spec.parquet_key_file, intake.root) as keys:
        for candidate in intake.candidates:
            if candidate.path.lower().endswith(ENDINGS):
                parser = functools.partial(_parse, spec=spec, keys=keys)
                yield from confined_rows(intake, candidate, parser)
            else:
                intake.judge.not_of_form(candidate.path)
                intake.advance(candidate.size_bytes)


def confined_rows(intake: Intake, candidate: Candidate, parser: Parser) -> Iterator[Item]:
    """The rows that a parser in a worker finds in one file; its faults and its death are settled."""
    opened = intake.files.open(candidate)
    if opened is not None:
        try:
            with opened as source:
                yield from _rows(intake, candidate, parser, source)
        except NotTaken as not_taken:
            intake.judge.settle(not_taken)
        except StreamFault as fault:
            if fault.reason is Reason.MISSING_COLUMN:
                intake.judge.settle(missing_column(intake, candidate.path, fault.text))
            else:
                intake.judge.settle(intake.broken(candidate, fault.reason, fault.text, fault.offset))
    intake.advance(candidate.size_bytes)


def _rows(intake: Intake, candidate: Candidate, parser: Parser, source: RangeSource) -> Iterator[Item]:
    limits, bound = intake.spec.limits, Bound(candidate, intake.judge)
    conversation = parse_confined(parser, source, memory_bytes=limits.worker_bytes, silent_s=limits.worker_s)
    with closing(conversation) as found:
        for each in found:
            if isinstance(each, WorkerWord):
                intake.say(each.text)
                continue
            try:
                if isinstance(each, WorkerFault):
                    raise _row_fault(intake, candidate, each)
                for item in row_items(intake, candidate, each.row, each.cells):
                    bound.count(item)
                    yield item
            except NotTaken as not_taken:
                intake.judge.settle(not_taken)
    bound.end()


def _row_fault(intake: Intake, candidate: Candidate, fault: WorkerFault) -> NotTaken:
    text = f"{printable(candidate.path)} row {fault.row} {fault.text}."
    kind = intake.kind_of_fault(fault.reason)
    return intake.judge.fault(fault.reason, kind, row_place(candidate, fault.row), text)


class WorkerFile:
    """The file in the worker, as pyarrow reads it."""

    closed = False

    def __init__(self, side: WorkerSide) -> None:
        self._side = side
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def writable(self) -> bool:
        return False

    def size(self) -> int:
        return self._side.size_bytes

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (0, self._at, self._side.size_bytes)[whence]
        return self._at

    def read(self, length: int = -1) -> bytes:
        data = self._side.read(self._at, self._side.size_bytes - self._at if length < 0 else length)
        self._at += len(data)
        return data

    def flush(self) -> None:
        return None

    def close(self) -> None:
        self.closed = True


def _parse(side: WorkerSide, *, spec: ImportSpec, keys: ParquetKeys) -> None:
    """In the worker: the rows of one file. Raises CannotGoOn and what pyarrow raises."""
    import pyarrow
    from pyarrow import parquet

    be_small()
    try:
        file = parquet.ParquetFile(
            pyarrow.PythonFile(WorkerFile(side), mode="r"),
            decryption_properties=keys.properties(),
            pre_buffer=False,
            buffer_size=0,
            thrift_string_size_limit=_THRIFT,
            thrift_container_size_limit=_MAX_COLUMNS * 10,
            page_checksum_verification=True,
        )
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise _unreadable(error, keys, "it is no whole Parquet file") from error
    schema = file.schema_arrow
    if len(schema.names) > _MAX_COLUMNS:
        raise CannotGoOn(Reason.TOO_MUCH, f"it has {len(schema.names)} columns")
    try:
        columns = pick_columns(spec, schema.names, media=True)
    except NoSuchColumn as error:
        raise CannotGoOn(Reason.MISSING_COLUMN, error.text) from error
    side.say(f"Columns: {columns.sentence()}.")
    classes = _classes(schema)
    if file.metadata.num_rows > spec.limits.items_per_file:
        raise CannotGoOn(Reason.TOO_MUCH, f"it claims {file.metadata.num_rows} rows")
    row = 0
    for group in range(file.metadata.num_row_groups):
        rows = file.metadata.row_group(group).num_rows
        claimed = _claimed(file.metadata.row_group(group), set(columns.names()))
        if claimed > spec.limits.row_group_bytes:
            raise CannotGoOn(
                Reason.TOO_MUCH,
                f"its row group {group} claims {claimed} bytes; at most {spec.limits.row_group_bytes} are "
                "allowed",
            )
        batch_rows = max(1, min(_BATCH_ROWS, _BATCH_BYTES * max(1, rows) // max(1, claimed)))
        try:
            for batch in file.iter_batches(
                batch_size=batch_rows, row_groups=[group], columns=list(columns.names()), use_threads=False
            ):
                send_batch(side, batch, columns, row, classes)
                row += batch.num_rows
        except pyarrow.ArrowMemoryError as error:
            raise MemoryError from error
        except (pyarrow.ArrowException, OSError) as error:
            raise _unreadable(error, keys, f"its row group {group} cannot be decoded") from error
    if row != file.metadata.num_rows:
        raise CannotGoOn(Reason.MALFORMED, f"it claims {file.metadata.num_rows} rows and holds {row}")


def _claimed(group: Any, names: set[str]) -> int:
    """What the wanted columns of a row group claim to take, decoded; negative claims count as endless."""
    total = 0
    for index in range(group.num_columns):
        column = group.column(index)
        if column.path_in_schema.partition(".")[0] in names:
            size = column.total_uncompressed_size
            total += size if size >= 0 else 1 << 62
    return total


def _classes(schema: Any) -> dict[str, int]:
    """How many classes each label column knows, where Hugging Face's writer left that in the schema."""
    try:
        info = json.loads((schema.metadata or {})[b"huggingface"])["info"]
        return class_counts(info["features"])
    except (KeyError, ValueError, TypeError):
        return {}


def class_counts(features: Any) -> dict[str, int]:
    """The class labels among the features of a Hugging Face data set, with how many classes each has."""
    counts = {}
    if isinstance(features, Mapping):
        for name, feature in features.items():
            if isinstance(feature, Mapping) and feature.get("_type") == "ClassLabel":
                names = feature.get("names")
                counts[str(name)] = len(names) if isinstance(names, list) else 0
    return counts


def _unreadable(error: Exception, keys: ParquetKeys, what: str) -> CannotGoOn:
    """The kind of an error of pyarrow, or that a key is wrong; its text may quote content."""
    text = str(error).lower()
    if "crypt" in text or "key" in text:
        why = "the key file does not open it" if keys.given else "it is encrypted, and no key file was named"
        return CannotGoOn(Reason.MALFORMED, f"{why} (parquet_key_file)")
    return CannotGoOn(Reason.MALFORMED, f"{what} ({type(error).__name__})")
