"""Files of a source into records: those that share a path up to its extension. See docs/design/intake.md."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from stoker.intake.source_index import SourceFile
from stoker.intake.sources.media import (
    AUDIO_EXTENSIONS,
    CLASS_EXTENSION,
    IMAGE_EXTENSIONS,
    LABEL_EXTENSION,
    TEXT_EXTENSION,
    extension_of,
)
from stoker.spec.records import RecordPart

_PARTS: Final[Mapping[str, RecordPart]] = {
    **dict.fromkeys(IMAGE_EXTENSIONS, RecordPart.IMAGE),
    **dict.fromkeys(AUDIO_EXTENSIONS, RecordPart.AUDIO),
    TEXT_EXTENSION: RecordPart.TEXT,
    CLASS_EXTENSION: RecordPart.LABEL,
    LABEL_EXTENSION: RecordPart.LABEL,
}
_LABEL: Final = b"stoker record 1\0"


@dataclass(frozen=True, slots=True)
class Record:
    """The files of one record by part. `twice` names parts that more than one file claims to be."""

    key: str
    parts: Mapping[RecordPart, SourceFile]
    twice: frozenset[RecordPart]

    @property
    def size_bytes(self) -> int:
        """Of all its files."""
        return sum(file.size_bytes for file in self.parts.values())

    @property
    def sha256(self) -> bytes:
        """A digest of the contents of its files, whatever they are called."""
        hasher = hashlib.sha256(_LABEL)
        for part in sorted(self.parts):
            hasher.update(part.encode() + b"\0" + self.parts[part].sha256)
        return hasher.digest()


def group(files: Iterable[SourceFile]) -> tuple[Record, ...]:
    """Records in the order in which their first file was imported. Files of other kinds are in none."""
    parts: dict[str, dict[RecordPart, SourceFile]] = {}
    twice: dict[str, set[RecordPart]] = {}
    for file in files:
        extension = extension_of(file.path)
        part = _PARTS.get(extension)
        if part is None:
            continue
        key = file.path[: -len(extension)]
        if parts.setdefault(key, {}).setdefault(part, file) is not file:
            twice.setdefault(key, set()).add(part)
    return tuple(Record(key, found, frozenset(twice.get(key, ()))) for key, found in parts.items())


def in_no_record(files: Iterable[SourceFile]) -> int:
    """How many files belong to no record, by their extension."""
    return sum(extension_of(file.path) not in _PARTS for file in files)
