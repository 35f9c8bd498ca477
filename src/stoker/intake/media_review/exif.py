"""The two things an EXIF block is read for: which way is up, and whether it says where. Pure.

TIFF 6.0, sections 2 and "Image File Directory"; Exif 2.32, 4.6.3 (GPS) and 4.6.4 (orientation).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

_ORIENTATION: Final = 0x0112
_GPS: Final = 0x8825
_THUMBNAIL: Final = 0x0201
_MAX_ENTRIES: Final = 512
_GPS_PLACES: Final = frozenset((0x0002, 0x0004, 0x0014, 0x0016))
"""Latitude and longitude of where it was made, and of what it shows."""


@dataclass(frozen=True, slots=True)
class ExifFacts:
    """`orientation` 1 to 8, 1 when none is said; whether places and a small picture are in it."""

    orientation: int = 1
    gps: bool = False
    thumbnail: bool = False


def exif_facts(tiff: bytes) -> ExifFacts:
    """What the block, from its TIFF header on, says. A broken block says nothing; it is taken out anyway."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return ExifFacts()
    try:
        (first,) = struct.unpack_from(f"{order}I", tiff, 4)
        entries, following = _directory(tiff, first, order)
        orientation = entries.get(_ORIENTATION, 1 if order == "<" else 1 << 16)
        orientation = orientation & 0xFFFF if order == "<" else orientation >> 16
        gps = False
        if _GPS in entries:
            places, _ = _directory(tiff, entries[_GPS], order)
            gps = bool(_GPS_PLACES & places.keys())
        thumbnail = False
        if following:
            small, _ = _directory(tiff, following, order)
            thumbnail = _THUMBNAIL in small
    except struct.error:
        return ExifFacts()
    return ExifFacts(orientation if 1 <= orientation <= 8 else 1, gps, thumbnail)


def _directory(tiff: bytes, at: int, order: str) -> tuple[dict[int, int], int]:
    """Tags with their four value bytes as a number, and where the next directory lies."""
    (count,) = struct.unpack_from(f"{order}H", tiff, at)
    entries = {}
    for number in range(min(count, _MAX_ENTRIES)):
        tag, value = struct.unpack_from(f"{order}H6xI", tiff, at + 2 + 12 * number)
        entries[tag] = value
    following = at + 2 + 12 * count
    return entries, struct.unpack_from(f"{order}I", tiff, following)[0] if following + 4 <= len(tiff) else 0


def orientation_block(orientation: int) -> bytes:
    """A TIFF block that says which way is up and nothing else."""
    return struct.pack(">4sIHHHIHHI", b"MM\0*", 8, 1, _ORIENTATION, 3, 1, orientation, 0, 0)
