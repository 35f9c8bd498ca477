"""Small images and clips, and files of attackers: what these claim is not what they hold."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import soundfile
from PIL import Image


def picture(number: int, height: int = 20, width: int = 30) -> np.ndarray:
    """A smooth picture [height, width, 3] whose mean colour tells its number (below 64)."""
    base = np.array([number % 4, number // 4 % 4, number // 16 % 4]) * 70 + 20
    return np.broadcast_to(base, (height, width, 3)).astype(np.uint8)


def image_file(pixels: np.ndarray, form: str = "JPEG", **options: Any) -> bytes:
    """The pixels [height, width, 3] or [height, width] as a file."""
    target = io.BytesIO()
    Image.fromarray(pixels).save(target, form, **options)
    return target.getvalue()


def tone(hertz: float, rate: int, seconds: float) -> np.ndarray:
    """A sine, float64 [rate · seconds]."""
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate)


def sound_file(samples: np.ndarray, rate: int, form: str = "WAV", subtype: str | None = None) -> bytes:
    """The samples [frames] or [frames, channels] as a file."""
    target = io.BytesIO()
    soundfile.write(target, samples, rate, format=form, subtype=subtype)
    return target.getvalue()


def png_claiming(width: int, height: int) -> bytes:
    """A PNG of a few bytes that says it is this large."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def jpeg_claiming(width: int, height: int) -> bytes:
    """A small JPEG whose frame header says it is this large (65,535 is the most that it can say)."""
    data = bytearray(image_file(picture(5)))
    place = data.index(b"\xff\xc0") + 5
    data[place : place + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def webp_claiming(width: int, height: int) -> bytes:
    """A WebP whose canvas says it is this large (16,777,216 is the most that it can say)."""
    body = b"VP8X" + struct.pack("<I", 10) + bytes(4)
    body += (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def wav_claiming(frames: int, channels: int = 1, rate: int = 8000) -> bytes:
    """A WAV of eight bits and 100 samples that says it has this many frames."""
    claimed = min(frames * channels, 2**32 - 1)
    form = struct.pack("<HHIIHH", 1, channels, rate, rate * channels, channels, 8)
    return (
        b"RIFF"
        + struct.pack("<I", min(2**32 - 1, claimed + 36))
        + b"WAVEfmt "
        + struct.pack("<I", 16)
        + form
        + b"data"
        + struct.pack("<I", claimed)
        + bytes([128]) * 100
    )
