"""WAV and FLAC without metadata. Pure. RIFF WAVE (Microsoft, 1994), EBU Tech 3285 (bext), RFC 9639."""

from __future__ import annotations

import struct
from typing import Final

from stoker.intake.media_review.strip_image import chunk_of
from stoker.intake.media_review.stripped import Keeping, NotUnderstood, Removed, Stripped

_WAV_NEEDED: Final = frozenset((b"fmt ", b"fact", b"data"))
_WAV_TAGS: Final = frozenset((b"LIST", b"bext", b"iXML", b"id3 ", b"ID3 ", b"_PMX", b"axml", b"cart"))
_STREAMINFO, _PADDING, _SEEKTABLE, _COMMENT, _PICTURE = 0, 1, 3, 4, 6
_ID3V1_BYTES: Final = 128
_APE_FOOTER_BYTES: Final = 32


def strip_wav(data: bytes) -> Stripped:
    """The format, the count of samples and the first samples stay; LIST/INFO, bext, iXML, id3 and more go."""
    end = 8 + int.from_bytes(data[4:8], "little")
    keeping = Keeping()
    at, seen = 12, set()
    while at + 8 <= len(data):
        name, size = struct.unpack_from("<4sI", data, at)
        if at + 8 + size > len(data):
            if at >= end:
                break
            raise NotUnderstood(f"the chunk at byte {at} of a WAV claims more than there is")
        body = data[at + 8 : at + 8 + size]
        if name in _WAV_NEEDED and at < end:
            if name in seen:
                raise NotUnderstood("a WAV has its format or its samples twice")
            keeping.keep(chunk_of(name, body))
            seen.add(name)
        else:
            keeping.remove(body or b"\0", Removed.TAGS if name in _WAV_TAGS else Removed.OTHER)
        at += 8 + size + size % 2
    keeping.remove(data[at:], Removed.TRAILING)
    if not {b"fmt ", b"data"} <= seen:
        raise NotUnderstood("a WAV lacks its format or its samples")
    body = b"WAVE" + keeping.kept_bytes()
    return keeping.stripped(b"RIFF" + struct.pack("<I", len(body)) + body)


def strip_flac(data: bytes) -> Stripped:
    """STREAMINFO, the seek table and the frames stay; comments, covers and all other blocks go.

    Tags after the last frame (ID3v1, APEv2) go too; anything else there cannot be told from a frame.
    """
    keeping = Keeping()
    blocks: list[tuple[int, bytes]] = []
    at, last = 4, False
    while not last:
        if at + 4 > len(data):
            raise NotUnderstood("a FLAC ends inside its blocks")
        head = data[at]
        size = int.from_bytes(data[at + 1 : at + 4], "big")
        last, kind = bool(head & 0x80), head & 0x7F
        body = data[at + 4 : at + 4 + size]
        if len(body) != size or kind == 127:
            raise NotUnderstood(f"the block at byte {at} of a FLAC does not fit")
        if kind in (_STREAMINFO, _SEEKTABLE):
            blocks.append((kind, body))
        elif kind == _PICTURE:
            keeping.remove(body or b"\0", Removed.COVER)
        elif kind == _COMMENT:
            keeping.remove(body or b"\0", Removed.TAGS)
        elif kind != _PADDING or body.strip(b"\0"):
            keeping.remove(body or b"\0", Removed.OTHER)
        at += 4 + size
    if not blocks or blocks[0][0] != _STREAMINFO or [kind for kind, _ in blocks].count(_STREAMINFO) != 1:
        raise NotUnderstood("a FLAC does not begin with its STREAMINFO")
    frames = _without_end_tags(data[at:], keeping)
    if frames and not (frames[0] == 0xFF and frames[1:2] and frames[1] & 0xFC == 0xF8):
        raise NotUnderstood("the first frame of a FLAC does not follow its blocks")
    kept = [data[:4]]
    for number, (kind, body) in enumerate(blocks):
        final = 0x80 if number == len(blocks) - 1 else 0
        kept.append(bytes([final | kind]) + len(body).to_bytes(3, "big") + body)
    return keeping.stripped(b"".join((*kept, frames)))


def _without_end_tags(frames: bytes, keeping: Keeping) -> bytes:
    """The frames without an ID3v1 tag and an APEv2 tag behind them."""
    if frames[-_ID3V1_BYTES:].startswith(b"TAG"):
        keeping.remove(frames[-_ID3V1_BYTES:], Removed.TAGS)
        frames = frames[:-_ID3V1_BYTES]
    footer = frames[-_APE_FOOTER_BYTES:]
    if footer.startswith(b"APETAGEX"):
        size = int.from_bytes(footer[12:16], "little")
        size += _APE_FOOTER_BYTES if footer[23] & 0x80 else 0
        if not _APE_FOOTER_BYTES <= size <= len(frames):
            raise NotUnderstood("a tag behind the frames of a FLAC does not fit")
        keeping.remove(frames[-size:], Removed.TAGS)
        frames = frames[:-size]
    return frames
