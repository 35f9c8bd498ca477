"""Ogg (Vorbis, Opus, FLAC, Speex) with an empty comment. Pure.

RFC 3533 (pages), Vorbis I section 5 and RFC 7845 section 5.2 (comments), the Ogg mapping of FLAC, the Speex
manual, section 7. The header pages are written anew; pages of sound keep their bodies, and get the number and
checksum that then follow.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from stoker.intake.media_review.stripped import Keeping, NotUnderstood, Removed, Stripped

_PAGE: Final = struct.Struct("<4sBBqIIIB")
_CONTINUED, _FIRST, _LAST = 1, 2, 4
_MAX_HEADER_PACKETS: Final = 64
_MAX_SEGMENTS: Final = 255
_BITS_TURNED: Final = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


@dataclass(frozen=True, slots=True)
class _Page:
    flags: int
    granule: int
    serial: int
    lacing: bytes
    body: bytes

    def encode(self, number: int) -> bytes:
        """The page under this number, with its checksum."""
        head = _PAGE.pack(b"OggS", 0, self.flags, self.granule, self.serial, number, 0, len(self.lacing))
        page = head + self.lacing + self.body
        return page[:22] + struct.pack("<I", checksum(page)) + page[26:]


def checksum(page: bytes) -> int:
    """The CRC of RFC 3533 over a page whose checksum field is zero: zlib's, with all bits turned around."""
    turned = zlib.crc32(page.translate(_BITS_TURNED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{turned:032b}"[::-1], 2)


def strip_ogg(data: bytes) -> Stripped:
    """One stream of sound, its comment emptied. Several streams, one beside or after another, are refused."""
    keeping = Keeping()
    pages = list(_pages(data, keeping))
    if any(page.serial != pages[0].serial for page in pages) or not pages[0].flags & _FIRST:
        raise NotUnderstood("an Ogg holds more than one stream")
    if any(page.flags & _FIRST for page in pages[1:]):
        raise NotUnderstood("an Ogg begins a second time")
    packets, used = _header_packets(pages)
    kept = _emptied(packets, keeping)
    serial = pages[0].serial
    written = [_Page(_FIRST, 0, serial, _lacing([len(kept[0])]), kept[0])]
    written += _paged(kept[1:], serial)
    written += pages[used:]
    return keeping.stripped(b"".join(page.encode(number) for number, page in enumerate(written)))


def _pages(data: bytes, keeping: Keeping) -> Iterator[_Page]:
    at = 0
    while at < len(data):
        if at + _PAGE.size > len(data) or data[at : at + 4] != b"OggS":
            if at == 0:
                raise NotUnderstood("an Ogg does not begin with a page")
            keeping.remove(data[at:], Removed.TRAILING)
            return
        _, version, flags, granule, serial, _, _, segments = _PAGE.unpack_from(data, at)
        lacing = data[at + _PAGE.size : at + _PAGE.size + segments]
        body_at = at + _PAGE.size + segments
        end = body_at + sum(lacing)
        if version != 0 or len(lacing) != segments or end > len(data):
            raise NotUnderstood(f"the page at byte {at} of an Ogg does not fit")
        yield _Page(flags, granule, serial, lacing, data[body_at:end])
        at = end


def _header_packets(pages: Sequence[_Page]) -> tuple[list[bytes], int]:
    """The packets before the first of sound, and how many pages they take."""
    packets: list[bytes] = []
    part = b""
    wanted = 1
    for number, page in enumerate(pages):
        at = 0
        for size in page.lacing:
            part += page.body[at : at + size]
            at += size
            if size == 255:
                continue
            packets.append(part)
            part = b""
            if len(packets) == 1:
                wanted = _headers_of(packets[0])
        if len(packets) >= wanted:
            if len(packets) > wanted or part:
                raise NotUnderstood("sound begins on a header page of an Ogg")
            return packets, number + 1
    raise NotUnderstood("an Ogg ends inside its headers")


def _headers_of(first: bytes) -> int:
    """How many header packets a stream has that begins so."""
    if first.startswith(b"\x01vorbis"):
        return 3
    if first.startswith(b"OpusHead"):
        return 2
    if first.startswith(b"Speex   ") and len(first) >= 72:
        extra = int(struct.unpack_from("<I", first, 68)[0])
        if extra == 0:
            return 2
    if first.startswith(b"\x7fFLAC") and len(first) >= 9:
        others = int.from_bytes(first[7:9], "big")
        if 1 <= others <= _MAX_HEADER_PACKETS:
            return 1 + others
    raise NotUnderstood("the stream of an Ogg is none of Vorbis, Opus, FLAC and Speex as they are usual")


def _emptied(packets: list[bytes], keeping: Keeping) -> list[bytes]:
    """The header packets with an empty comment in the place of theirs."""
    first, comment = packets[0], packets[1]
    nothing = b"\0" * 8
    if first.startswith(b"\x01vorbis"):
        if not comment.startswith(b"\x03vorbis"):
            raise NotUnderstood("the second packet of a Vorbis stream is no comment")
        _note(keeping, comment[7:], nothing + b"\x01")
        return [first, b"\x03vorbis" + nothing + b"\x01", packets[2]]
    if first.startswith(b"OpusHead"):
        if not comment.startswith(b"OpusTags"):
            raise NotUnderstood("the second packet of an Opus stream is no comment")
        _note(keeping, comment[8:], nothing)
        return [first, b"OpusTags" + nothing]
    if first.startswith(b"Speex   "):
        _note(keeping, comment, nothing)
        return [first, nothing]
    _note(keeping, comment[4:], nothing)
    for other in packets[2:]:
        if other[:1] and other[0] & 0x7F in (0, 3):
            raise NotUnderstood("a FLAC stream in an Ogg has blocks that are not usual there")
        keeping.remove(other, Removed.COVER if other[:1] and other[0] & 0x7F == 6 else Removed.OTHER)
    return [first[:7] + b"\0\x01" + first[9:], b"\x84" + len(nothing).to_bytes(3, "big") + nothing]


def _note(keeping: Keeping, body: bytes, empty: bytes) -> None:
    if body != empty:
        keeping.remove(body or b"\0", Removed.TAGS)


def _lacing(sizes: Sequence[int]) -> bytes:
    return b"".join(b"\xff" * (size // 255) + bytes([size % 255]) for size in sizes)


def _paged(packets: Sequence[bytes], serial: int) -> list[_Page]:
    """Header packets on as few pages as they fit. A page on which no packet ends has the position -1."""
    lacing, body = _lacing([len(packet) for packet in packets]), b"".join(packets)
    pages = []
    at = 0
    for first in range(0, len(lacing), _MAX_SEGMENTS):
        part = lacing[first : first + _MAX_SEGMENTS]
        continued = _CONTINUED if first and lacing[first - 1] == 255 else 0
        ends = any(size < 255 for size in part)
        pages.append(_Page(continued, 0 if ends else -1, serial, part, body[at : at + sum(part)]))
        at += sum(part)
    return pages
