"""Small pictures and clips, and ones whose headers lie."""

from __future__ import annotations

import io
import struct
import wave
import zlib


def jpeg(red: int = 10, size: tuple[int, int] = (8, 6)) -> bytes:
    """A small JPEG."""
    return picture("JPEG", red, size)


def png(red: int = 10, size: tuple[int, int] = (8, 6)) -> bytes:
    """A small PNG."""
    return picture("PNG", red, size)


def picture(kind: str, red: int = 10, size: tuple[int, int] = (8, 6)) -> bytes:
    """A small picture of one colour."""
    from PIL import Image

    out = io.BytesIO()
    Image.new("RGB", size, (red, 20, 30)).save(out, kind)
    return out.getvalue()


def wav(frames: int = 80, rate: int = 8000, channels: int = 1) -> bytes:
    """A short clip of silence."""
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(bytes(2 * frames * channels))
    return out.getvalue()


def sound(kind: str, frames: int = 4000) -> bytes:
    """A short clip as soundfile writes it: `FLAC`, `OGG`, `WAV`."""
    import numpy
    import soundfile

    out = io.BytesIO()
    soundfile.write(out, numpy.zeros((frames, 2), dtype="float32"), 8000, format=kind)
    return out.getvalue()


def png_of_claimed_size(width: int, height: int) -> bytes:
    """A PNG whose header claims this, with next to no pixels behind it."""
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = b"IDAT" + zlib.compress(b"\0" * 100)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        for chunk in (head, body, b"IEND")
    )


def jpeg_of_claimed_size(width: int, height: int) -> bytes:
    """A JPEG whose frame header claims this; the format has room for 65,535 at most."""
    data = bytearray(jpeg())
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def wav_of_claimed_bytes(data_bytes: int) -> bytes:
    """A WAV whose chunk of samples claims this many bytes and has 160."""
    data = bytearray(wav())
    at = data.index(b"data")
    data[at + 4 : at + 8] = struct.pack("<I", data_bytes)
    return bytes(data)
