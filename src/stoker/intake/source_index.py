"""The index of a source: which file lies where in its sealed shards. Sealed too, since paths can be personal.

Byte by byte in docs/design/intake.md, "Source index".
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from stoker.intake.errors import BrokenRecord

INDEX_SCHEMA: Final = 1
"""The schema version in the header of the sealed index."""

MAX_INDEX_BYTES: Final = 1 << 30

_MAGIC: Final = b"STKI"
_VERSION: Final = 1
_HEAD: Final = struct.Struct(">4sHHQ")
_FILE: Final = struct.Struct(">QQI32sH")
_RESTORE: Final = "Import the source again."


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file of a source: its path inside it, its size and SHA-256, and where its bytes lie."""

    path: str
    size_bytes: int
    sha256: bytes
    shard: int
    offset: int


def encode_index(files: Sequence[SourceFile]) -> bytes:
    """The index as bytes, in the order of `files`."""
    pieces = [_HEAD.pack(_MAGIC, _VERSION, 0, len(files))]
    for file in files:
        path = file.path.encode()
        pieces += (_FILE.pack(file.size_bytes, file.offset, file.shard, file.sha256, len(path)), path)
    return b"".join(pieces)


def decode_index(data: bytes | bytearray, place: str) -> tuple[SourceFile, ...]:
    """The files of an index. Raises BrokenRecord, naming `place` and offset, when it breaks the format."""
    if len(data) < _HEAD.size:
        raise _broken(place, 0, "it ends inside its head")
    magic, version, zero, count = _HEAD.unpack_from(data)
    if magic != _MAGIC or zero != 0:
        raise _broken(place, 0, "it does not begin as a source index does")
    if version != _VERSION:
        raise _broken(place, 4, f"it has version {version}; this Stoker knows version {_VERSION}")
    if count > (len(data) - _HEAD.size) // _FILE.size:
        raise _broken(place, 8, f"it cannot hold the {count} files it names")
    files = []
    at = _HEAD.size
    for _ in range(count):
        if at + _FILE.size > len(data):
            raise _broken(place, at, "it ends inside an entry")
        size_bytes, offset, shard, sha256, path_bytes = _FILE.unpack_from(data, at)
        at += _FILE.size
        if at + path_bytes > len(data):
            raise _broken(place, at, "it ends inside a path")
        try:
            path = data[at : at + path_bytes].decode()
        except UnicodeDecodeError as error:
            raise _broken(place, at + error.start, "a path is not UTF-8") from error
        at += path_bytes
        files.append(SourceFile(path, size_bytes, sha256, shard, offset))
    if at != len(data):
        raise _broken(place, at, "bytes follow its last entry")
    return tuple(files)


def _broken(place: str, offset: int, why: str) -> BrokenRecord:
    return BrokenRecord(f"{place} is no source index: at byte {offset}, {why}.", hint=_RESTORE)
