"""JPEG, PNG and WebP without metadata. Pure. ITU-T T.81, annex B; PNG (W3C, third edition); RFC 9649."""

from __future__ import annotations

import re
import struct
import zlib
from typing import Final

from stoker.intake.media_review.exif import ExifFacts, exif_facts, orientation_block
from stoker.intake.media_review.stripped import Keeping, NotUnderstood, Removed, Stripped

_EXIF: Final = b"Exif\0\0"
_XMP: Final = (b"http://ns.adobe.com/xap/1.0/\0", b"http://ns.adobe.com/xmp/extension/\0")
_JFIF: Final = b"JFIF\0"
_ADOBE_BYTES: Final = 12
_JPEG_NEEDED: Final = frozenset((0xC4, 0xCC, 0xDB, 0xDC, 0xDD)) | (
    frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
)
_MARKER: Final = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_PNG_NEEDED: Final = frozenset(b"IHDR PLTE IDAT IEND tRNS gAMA cHRM sRGB sBIT cICP acTL fcTL fdAT".split())
_PNG_TEXT: Final = frozenset((b"tEXt", b"zTXt", b"iTXt"))
_WEBP_NEEDED: Final = frozenset((b"VP8 ", b"VP8L", b"ALPH", b"ANIM"))
_WEBP_EXIF, _WEBP_XMP, _WEBP_ICC = 0x08, 0x04, 0x20
_MAX_TEXT_BYTES: Final = 1 << 22


def _note(facts: ExifFacts) -> tuple[Removed, ...]:
    found = [Removed.EXIF]
    if facts.gps:
        found.append(Removed.GPS)
    if facts.thumbnail:
        found.append(Removed.THUMBNAIL)
    return tuple(found)


def _xmp_kinds(data: bytes) -> tuple[Removed, ...]:
    return (Removed.XMP, Removed.GPS) if b"GPSLatitude" in data else (Removed.XMP,)


def strip_jpeg(data: bytes) -> Stripped:
    """Frames, tables and scans stay; of application segments, JFIF without its small picture, and Adobe's."""
    keeping, orientation = Keeping(), 1
    keeping.keep(data[:2])
    at, ended, scans = 2, False, 0
    while not ended:
        if at + 2 > len(data) or data[at] != 0xFF:
            raise NotUnderstood(f"no marker stands at byte {at} of a JPEG")
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        if marker == 0xD9:
            keeping.keep(data[at : at + 2])
            at, ended = at + 2, True
            continue
        if marker == 0x01 or 0xD0 <= marker <= 0xD8 or at + 4 > len(data):
            raise NotUnderstood(f"the marker at byte {at} of a JPEG does not belong there")
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        following = at + 2 + length
        if length < 2 or following > len(data):
            raise NotUnderstood(f"the segment at byte {at} of a JPEG does not fit")
        segment, body = data[at:following], data[at + 4 : following]
        if marker == 0xDA:
            found = _MARKER.search(data, following)
            if found is None:
                raise NotUnderstood("a JPEG ends inside a scan")
            keeping.keep(data[at : found.start()])
            following, scans = found.start(), scans + 1
        elif marker in _JPEG_NEEDED:
            keeping.keep(segment)
        elif said := _application(keeping, marker, body):
            orientation = said
        at = following
    if not scans:
        raise NotUnderstood("a JPEG has no scan")
    keeping.remove(data[at:], Removed.TRAILING)
    if orientation > 1:
        block = _EXIF + orientation_block(orientation)
        keeping.insert(1, b"\xff\xe1" + (len(block) + 2).to_bytes(2, "big") + block)
    return keeping.stripped()


def _application(keeping: Keeping, marker: int, body: bytes) -> int:
    """Keep what decoding needs of an application segment, note the rest; the orientation, 0 when not said."""
    if marker == 0xE0 and body.startswith(_JFIF) and len(body) >= 14:
        # Density and version stay, the small picture goes.
        keeping.keep(b"\xff\xe0\0\x10", body[:12], b"\0\0")
        keeping.remove(body[14:], Removed.THUMBNAIL)
    elif marker == 0xEE and body.startswith(b"Adobe") and len(body) >= _ADOBE_BYTES:
        keeping.keep(b"\xff\xee\0\x0e", body[:_ADOBE_BYTES])
        keeping.remove(body[_ADOBE_BYTES:], Removed.OTHER)
    elif marker == 0xE1 and body.startswith(_EXIF):
        tiff = body[len(_EXIF) :]
        facts = exif_facts(tiff)
        if tiff != orientation_block(facts.orientation):
            keeping.remove(body, *_note(facts))
        return facts.orientation
    elif marker == 0xE1 and body.startswith(_XMP):
        keeping.remove(body, *_xmp_kinds(body))
    elif marker == 0xE2 and body.startswith(b"ICC_PROFILE\0"):
        keeping.remove(body, Removed.ICC)
    elif marker == 0xED:
        keeping.remove(body, Removed.IPTC)
    elif marker == 0xFE:
        keeping.remove(body or b"\0", Removed.COMMENT)
    elif marker == 0xE0:
        keeping.remove(body or b"\0", Removed.THUMBNAIL)
    elif 0xE0 <= marker <= 0xEF:
        keeping.remove(body or b"\0", Removed.OTHER)
    else:
        raise NotUnderstood(f"marker {marker:#x} of a JPEG is not known")
    return 0


def strip_png(data: bytes) -> Stripped:
    """The chunks that pixels, their colours and an animation's times need stay."""
    keeping, orientation = Keeping(), 1
    keeping.keep(data[:8])
    at, name = 8, b""
    while name != b"IEND":
        if at + 12 > len(data):
            raise NotUnderstood("a PNG ends before its IEND")
        length, name = struct.unpack_from(">I4s", data, at)
        following = at + 12 + length
        if following > len(data):
            raise NotUnderstood(f"the chunk at byte {at} of a PNG does not fit")
        body = data[at + 8 : at + 8 + length]
        if zlib.crc32(data[at + 4 : at + 8 + length]) != int.from_bytes(
            data[following - 4 : following], "big"
        ):
            raise NotUnderstood(f"the chunk at byte {at} of a PNG does not fit its checksum")
        if (at == 8) != (name == b"IHDR"):
            raise NotUnderstood("the header of a PNG is not its first chunk")
        if name in _PNG_NEEDED:
            keeping.keep(data[at:following])
        elif not name[0] & 0x20:
            raise NotUnderstood("a PNG has a critical chunk that is not known")
        elif name == b"eXIf":
            facts = exif_facts(body)
            orientation = facts.orientation
            if body != orientation_block(orientation):
                keeping.remove(body, *_note(facts))
        elif name in _PNG_TEXT:
            text = _png_text(name, body)
            keeping.remove(
                text or b"\0", *(_xmp_kinds(text) if b"XML:com.adobe.xmp" in body else (Removed.COMMENT,))
            )
        else:
            keeping.remove(body or b"\0", Removed.ICC if name == b"iCCP" else Removed.OTHER)
        at = following
    keeping.remove(data[at:], Removed.TRAILING)
    if orientation > 1:
        chunk = b"eXIf" + orientation_block(orientation)
        keeping.insert(2, struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)))
    return keeping.stripped()


def _png_text(name: bytes, body: bytes) -> bytes:
    """A text chunk as it can be scanned: what is packed in it, unpacked to a bound."""
    keyword, _, rest = body.partition(b"\0")
    packed = b""
    if name == b"zTXt":
        packed = rest[1:]
    elif name == b"iTXt" and rest[:1] == b"\x01":
        packed = rest[2:].split(b"\0", 2)[-1]
    if not packed:
        return body
    try:
        return keyword + b": " + zlib.decompressobj().decompress(packed, _MAX_TEXT_BYTES)
    except zlib.error:
        return body


def strip_webp(data: bytes) -> Stripped:
    """Pictures, transparency and animation stay; the extended header's flags follow what is left."""
    if len(data) < 12:
        raise NotUnderstood("a WebP ends inside its header")
    end = 8 + int.from_bytes(data[4:8], "little")
    if end > len(data):
        raise NotUnderstood("a WebP claims more than it holds")
    keeping, orientation = Keeping(), 1
    extended = b""
    for name, body in _riff_chunks(data, 12, end):
        if name == b"VP8X":
            if len(body) != 10 or extended:
                raise NotUnderstood("the extended header of a WebP does not fit")
            extended = body
        elif name in _WEBP_NEEDED:
            keeping.keep(chunk_of(name, body))
        elif name == b"ANMF":
            if len(body) < 16:
                raise NotUnderstood("a frame of a WebP does not fit")
            inner = [(each, part) for each, part in _riff_chunks(body, 16, len(body))]
            kept = b"".join(chunk_of(each, part) for each, part in inner if each in _WEBP_NEEDED)
            for each, part in inner:
                if each not in _WEBP_NEEDED:
                    keeping.remove(part or b"\0", Removed.OTHER)
            keeping.keep(chunk_of(name, body[:16] + kept))
        elif name == b"EXIF":
            tiff = body.removeprefix(_EXIF)
            facts = exif_facts(tiff)
            orientation = facts.orientation
            if tiff != orientation_block(orientation):
                keeping.remove(body, *_note(facts))
        elif name == b"XMP ":
            keeping.remove(body or b"\0", *_xmp_kinds(body))
        else:
            keeping.remove(body or b"\0", Removed.ICC if name == b"ICCP" else Removed.OTHER)
    keeping.remove(data[end:], Removed.TRAILING)
    if extended:
        flags = extended[0] & ~(_WEBP_EXIF | _WEBP_XMP | _WEBP_ICC)
        if orientation > 1:
            flags |= _WEBP_EXIF
            keeping.keep(chunk_of(b"EXIF", orientation_block(orientation)))
        keeping.insert(0, chunk_of(b"VP8X", bytes([flags, 0, 0, 0]) + extended[4:]))
    body = b"WEBP" + keeping.kept_bytes()
    return keeping.stripped(b"RIFF" + struct.pack("<I", len(body)) + body)


def _riff_chunks(data: bytes, at: int, end: int) -> list[tuple[bytes, bytes]]:
    """Every chunk between two offsets. Raises NotUnderstood when one does not fit."""
    chunks = []
    while at < end:
        if at + 8 > end:
            raise NotUnderstood(f"bytes that are no chunk lie at byte {at}")
        name, size = struct.unpack_from("<4sI", data, at)
        if at + 8 + size > end:
            raise NotUnderstood(f"the chunk at byte {at} claims more than there is")
        chunks.append((name, data[at + 8 : at + 8 + size]))
        at += 8 + size + size % 2
    return chunks


def chunk_of(name: bytes, body: bytes) -> bytes:
    """A RIFF chunk, with its padding."""
    return name + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)
