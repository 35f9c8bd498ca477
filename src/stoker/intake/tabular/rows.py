"""The rows of a source that is a table, or holds some: CSV and JSON lines files, and rows that import split.

Import turns a row of a CSV, JSON lines, Parquet or Arrow table into items of one name (`FILE/000000017.json`,
`.label`, …); they are put together again here. See docs/design/measured.md, "Tables".
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from stoker.intake.documents import record_key
from stoker.intake.source_index import SourceFile
from stoker.intake.source_reader import SourceReader
from stoker.intake.sources.media import CLASS_EXTENSION, EXTRA_EXTENSION, LABEL_EXTENSION, extension_of

Row = Mapping[str, str]
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_LINES = (".jsonl", ".ndjson")


@dataclass(slots=True)
class TableRows:
    """The rows that have every column in `wanted`. While they are read, what is left out is counted.

    `lacking` rows have not every column; `broken` rows are no rows; `columns` are all that were met.
    """

    reader: SourceReader
    wanted: frozenset[str]
    tables: int = 0
    lacking: int = 0
    broken: int = 0
    columns: set[str] = field(default_factory=set)

    def __iter__(self) -> Iterator[Row]:
        split: dict[str, list[SourceFile]] = {}
        for file in self.reader.files:
            extension = extension_of(file.path)
            if extension in _DELIMITERS:
                yield from self._table(self._delimited(file, _DELIMITERS[extension]))
            elif extension in _LINES:
                yield from self._table(self._lines(file))
            elif extension in (EXTRA_EXTENSION, LABEL_EXTENSION, CLASS_EXTENSION):
                split.setdefault(record_key(file.path), []).append(file)
        if split:
            yield from self._table(self._put_together(split))

    def _table(self, rows: Iterator[Row]) -> Iterator[Row]:
        met = False
        for row in rows:
            self.columns.update(row)
            if self.wanted <= row.keys():
                met = True
                yield row
            else:
                self.lacking += 1
        self.tables += met

    def _delimited(self, file: SourceFile, delimiter: str) -> Iterator[Row]:
        text = bytes(self.reader.read(file)).decode("utf-8-sig", errors="replace")
        rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        try:
            header = next(rows, [])
            for cells in rows:
                if not cells:
                    continue
                if len(cells) != len(header):
                    self.broken += 1
                    continue
                yield dict(zip(header, cells, strict=True))
        except csv.Error:
            self.broken += 1

    def _lines(self, file: SourceFile) -> Iterator[Row]:
        for line in bytes(self.reader.read(file)).splitlines():
            if line.strip():
                row = self._object(line)
                if row is not None:
                    yield row

    def _put_together(self, split: Mapping[str, list[SourceFile]]) -> Iterator[Row]:
        for files in split.values():
            row: dict[str, str] = {}
            for file in files:
                data = bytes(self.reader.read(file))
                extension = extension_of(file.path)
                if extension == EXTRA_EXTENSION:
                    row |= self._object(data) or {}
                else:
                    row["label"] = data.decode("utf-8", errors="replace")
            if row:
                yield row

    def _object(self, data: bytes) -> dict[str, str] | None:
        """A JSON object with its values as text; None, and counted, for anything else."""
        try:
            found: Any = json.loads(data)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            self.broken += 1
            return None
        return {str(name): _text(value) for name, value in found.items()}


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    return "" if value is None else json.dumps(value, sort_keys=True, ensure_ascii=False)
