"""What files claim, read before any decoder sees them. See docs/design/feed.md, "Decoding".

libsndfile silently takes what is there when a WAV or Ogg file was cut; these checks do not. libwebp makes
memory for the whole picture when a file is opened, before it can be asked how large that is.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

PNG_BEGIN: Final = b"\x89PNG\r\n\x1a\n"
PNG_END: Final = b"IEND\xaeB\x60\x82"

_CHUNK: Final = struct.Struct("<4sI")
_FORMAT: Final = struct.Struct("<HHIIHH")
_OGG_HEADER_BYTES: Final = 27
_OGG_LAST: Final = 4
_WEBP_BYTES: Final = 30


@dataclass(frozen=True, slots=True)
class WavClaim:
    """What a WAV file's header says, and whether its samples are all there."""

    frames: int
    channels: int
    whole: bool


def webp_size(data: bytes) -> tuple[int, int] | None:
    """The width and height that a WebP file claims; None when it says none."""
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP" or len(data) < _WEBP_BYTES:
        return None
    kind = data[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if kind == b"VP8L" and data[20] == 0x2F:
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    return None


def sound_format(data: bytes) -> str | None:
    """ "wav", "flac" or "ogg" by the first bytes; None for anything else."""
    if data[:4] == b"RIFF" and data[8:12] == b"WAVE":
        return "wav"
    return {b"fLaC": "flac", b"OggS": "ogg"}.get(data[:4])


def wav_claim(data: bytes) -> WavClaim | None:
    """The frames that a RIFF WAVE file claims; None when it has no format or no data."""
    place, channels, frame_bytes = 12, 0, 0
    while place + _CHUNK.size <= len(data):
        name, size = _CHUNK.unpack_from(data, place)
        place += _CHUNK.size
        if name == b"fmt " and size >= _FORMAT.size and place + _FORMAT.size <= len(data):
            _, channels, _, _, frame_bytes, _ = _FORMAT.unpack_from(data, place)
        if name == b"data":
            if not channels or not frame_bytes:
                return None
            return WavClaim(size // frame_bytes, channels, size <= len(data) - place)
        place += size + size % 2
    return None


def ogg_is_whole(data: bytes) -> bool:
    """Whether the last Ogg page is complete and says that the stream ends with it."""
    place = data.rfind(b"OggS")
    if place < 0 or place + _OGG_HEADER_BYTES > len(data):
        return False
    segments = data[place + _OGG_HEADER_BYTES - 1]
    table = data[place + _OGG_HEADER_BYTES : place + _OGG_HEADER_BYTES + segments]
    end = place + _OGG_HEADER_BYTES + segments + sum(table)
    return len(table) == segments and end <= len(data) and bool(data[place + 5] & _OGG_LAST)
