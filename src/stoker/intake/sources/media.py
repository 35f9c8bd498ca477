"""What a picture or a clip is and what its header claims, without decoding any of it.

Everything here reads a bounded number of header bytes in Python and allocates nothing that a header asks for.
The formats: ITU-T T.81 (JPEG), RFC 2083 (PNG), the WebP container specification, RIFF WAVE, RFC 9639 (FLAC),
RFC 3533 (Ogg). See docs/design/intake.md, "Pictures and clips".
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

IMAGE_EXTENSIONS: Final = (".jpg", ".jpeg", ".png", ".webp")
AUDIO_EXTENSIONS: Final = (".wav", ".flac", ".ogg")
TEXT_EXTENSION: Final = ".txt"
CLASS_EXTENSION: Final = ".cls"
LABEL_EXTENSION: Final = ".label"
EXTRA_EXTENSION: Final = ".json"
HEAD_BYTES: Final = 12
"""So many first bytes are enough for `kind_of`."""

_MAX_STEPS: Final = 65_536
_SOF: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


@dataclass(frozen=True, slots=True)
class MediaFacts:
    """What a header claims: pixels of a picture, or samples over all channels of a clip."""

    pixels: int = 0
    width: int = 0
    height: int = 0
    samples: int = 0


class HeaderFault(ValueError):
    """A header that ends early, contradicts itself, or claims what the file does not hold."""


def kind_of(data: bytes) -> str | None:
    """The extension of these bytes (`.jpg`, `.png`, `.webp`, `.wav`, `.flac`, `.ogg`), or None."""
    if data.startswith(b"\xff\xd8\xff"):
        return ".jpg"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return ".png"
    if data.startswith(b"RIFF"):
        return {b"WEBP": ".webp", b"WAVE": ".wav"}.get(data[8:12])
    if data.startswith(b"fLaC"):
        return ".flac"
    return ".ogg" if data.startswith(b"OggS") else None


def extension_of(path: str) -> str:
    """The part of the last name from its last dot, in lower case; empty when there is none."""
    name = path.rpartition("/")[2]
    stem, dot, ending = name.rpartition(".")
    return f".{ending.lower()}" if dot and stem else ""


def is_image(path: str) -> bool:
    """Whether the name is one of a picture."""
    return extension_of(path) in IMAGE_EXTENSIONS


def is_audio(path: str) -> bool:
    """Whether the name is one of a clip."""
    return extension_of(path) in AUDIO_EXTENSIONS


def probe(data: bytes) -> MediaFacts:
    """What the header claims. Raises HeaderFault, also when `data` is of no known kind."""
    reader = {
        ".jpg": _jpeg,
        ".png": _png,
        ".webp": _webp,
        ".wav": _wav,
        ".flac": _flac,
        ".ogg": _ogg,
    }.get(kind_of(data) or "")
    if reader is None:
        raise HeaderFault("it is neither a picture nor a clip of a known kind")
    try:
        return reader(data)
    except (struct.error, IndexError) as error:
        raise HeaderFault("it ends inside its header") from error


def _picture(width: int, height: int) -> MediaFacts:
    if width < 1 or height < 1:
        raise HeaderFault(f"its header says {width} × {height} pixels")
    return MediaFacts(pixels=width * height, width=width, height=height)


def _jpeg(data: bytes) -> MediaFacts:
    """The largest frame that is announced before the first scan."""
    at, largest = 2, MediaFacts()
    for _ in range(_MAX_STEPS):
        if data[at] != 0xFF:
            raise HeaderFault(f"no marker stands at byte {at}")
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:
            at += 2
            continue
        if marker in (0xDA, 0xD9):
            break
        (length,) = struct.unpack_from(">H", data, at + 2)
        if length < 2:
            raise HeaderFault(f"the segment at byte {at} has length {length}")
        if marker in _SOF:
            height, width = struct.unpack_from(">HH", data, at + 5)
            found = _picture(width, height)
            largest = max(largest, found, key=lambda facts: facts.pixels)
        at += 2 + length
    if not largest.pixels:
        raise HeaderFault("it announces no frame before its first scan")
    return largest


def _png(data: bytes) -> MediaFacts:
    length, name, width, height = struct.unpack_from(">I4sII", data, 8)
    if name != b"IHDR" or length != 13:
        raise HeaderFault("it does not begin with IHDR")
    return _picture(width, height)


def _webp(data: bytes) -> MediaFacts:
    riff_bytes, name = struct.unpack_from("<I4x4s", data, 4)
    if riff_bytes + 8 > len(data):
        raise HeaderFault(f"it claims {riff_bytes + 8} bytes and holds {len(data)}")
    if name == b"VP8X":
        width, height = data[24:27], data[27:30]
        if len(height) < 3:
            raise IndexError
        return _picture(1 + int.from_bytes(width, "little"), 1 + int.from_bytes(height, "little"))
    if name == b"VP8L":
        signature, bits = struct.unpack_from("<BI", data, 20)
        if signature != 0x2F:
            raise HeaderFault("its VP8L signature is missing")
        return _picture(1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF))
    if name == b"VP8 ":
        start, width_bits, height_bits = struct.unpack_from("<3sHH", data, 23)
        if start != b"\x9d\x01\x2a":
            raise HeaderFault("its VP8 start code is missing")
        return _picture(width_bits & 0x3FFF, height_bits & 0x3FFF)
    raise HeaderFault("its first chunk is none of VP8, VP8L and VP8X")


def _wav(data: bytes) -> MediaFacts:
    """Sizes are held against what the file holds: a claim of 2^32 samples needs their bytes."""
    at, channels, block_align = 12, 0, 0
    declared = 0
    for _ in range(_MAX_STEPS):
        name, size = struct.unpack_from("<4sI", data, at)
        at += 8
        if name != b"data" and at + size > len(data):
            raise HeaderFault(f"its chunk at byte {at - 8} claims {size} bytes and the file ends before")
        if name == b"fmt ":
            _, channels, rate, _, block_align, _ = struct.unpack_from("<HHIIHH", data, at)
            if not (channels and rate and block_align):
                raise HeaderFault(
                    f"its format says {channels} channels, {rate} Hz, {block_align} bytes a frame"
                )
        elif name == b"fact" and size >= 4:
            (declared,) = struct.unpack_from("<I", data, at)
        elif name == b"data":
            if not channels:
                raise HeaderFault("its samples come before its format")
            if size > len(data) - at:
                raise HeaderFault(
                    f"it claims {size // block_align} samples a channel and holds "
                    f"{(len(data) - at) // block_align}"
                )
            # A compressed block holds more than one frame, at most some hundreds.
            frames = max(size // block_align, declared)
            if declared > max(1, size) * 64:
                raise HeaderFault(f"its fact chunk claims {declared} samples in {size} bytes")
            return MediaFacts(samples=frames * channels)
        at += size + size % 2
    raise HeaderFault("it holds no samples")


def _flac(data: bytes) -> MediaFacts:
    head, packed = struct.unpack_from(">I10xQ", data, 4)
    if head & 0x7F_FF_FF_FF != 34:
        raise HeaderFault("it does not begin with STREAMINFO")
    rate, channels, frames = packed >> 44, (packed >> 41 & 7) + 1, packed & (1 << 36) - 1
    if not rate:
        raise HeaderFault("its header says 0 Hz")
    # A FLAC frame takes 8 bytes at least and holds 65,535 samples a channel at most.
    if frames > (len(data) // 8 + 1) * 65_535:
        raise HeaderFault(f"it claims {frames} samples a channel in {len(data)} bytes")
    return MediaFacts(samples=frames * channels)


def _ogg(data: bytes) -> MediaFacts:
    """The granule position of the last page counts the samples of a channel (RFC 7845, Vorbis I)."""
    segments = data[26]
    packet = data[27 + segments : 27 + segments + 64]
    if packet.startswith(b"\x01vorbis"):
        channels = packet[11]
    elif packet.startswith(b"OpusHead"):
        channels = packet[9]
    elif packet.startswith(b"\x7fFLAC"):
        channels = (packet[29] >> 1 & 7) + 1
    elif packet.startswith(b"Speex   "):
        (channels,) = struct.unpack_from("<I", packet, 48)
    else:
        raise HeaderFault("its first packet is none of Vorbis, Opus, FLAC and Speex")
    last = data.rfind(b"OggS", max(0, len(data) - 131_072))
    if last < 0:
        raise HeaderFault("it does not end with a page")
    (granule,) = struct.unpack_from("<q", data, last + 6)
    if not 0 < channels <= 255 or granule < 0:
        raise HeaderFault(f"it claims {granule} samples of {channels} channels")
    return MediaFacts(samples=granule * channels)
