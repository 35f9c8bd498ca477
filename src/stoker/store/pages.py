"""Manifest pages: fixed-width entries in pages, pages hashed into pages above, at most three levels.

Pure: bytes in, bytes out. Byte by byte in docs/design/store.md, "Manifest page".
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from stoker.store.errors import BadLabel, CorruptManifest, UnknownVersion

ENTRY_BYTES: Final = 64
FAN_OUT: Final = 4096
MIN_FAN_OUT: Final = 2
MAX_LEVELS: Final = 3

_PAGE_MAGIC: Final = b"STKP"
_PAGE_VERSION: Final = 1
_HEAD: Final = struct.Struct(">4sBBHQII8s")
_ENTRY: Final = struct.Struct(">32s16sQQ")
MAX_PAGE_BYTES: Final = _HEAD.size + FAN_OUT * ENTRY_BYTES
_ZEROS: Final = bytes(16)
_RESTORE: Final = "The manifest was changed or damaged. Restore it from a copy."


@dataclass(frozen=True, slots=True)
class ShardEntry:
    """One object of a manifest: its SHA-256, the first 16 bytes of its header's digest, length, samples."""

    digest: bytes
    header_check: bytes
    object_bytes: int
    samples: int

    def encode(self) -> bytes:
        """The entry's 64 bytes; raises BadLabel when a field does not fit."""
        if len(self.digest) != 32 or len(self.header_check) != 16:
            raise BadLabel("A manifest entry has a digest of 32 bytes and a header check of 16.")
        if not (0 <= self.object_bytes < 1 << 64 and 0 <= self.samples < 1 << 64):
            raise BadLabel("A manifest entry counts to 2^64 - 1 at most.")
        return _ENTRY.pack(self.digest, self.header_check, self.object_bytes, self.samples)


@dataclass(frozen=True, slots=True)
class Page:
    """One verified page. At level 0 its entries are shards, above they are pages of the level below."""

    level: int
    index: int
    entries: bytes

    @property
    def count(self) -> int:
        return len(self.entries) // ENTRY_BYTES

    def entry(self, slot: int) -> ShardEntry:
        """The entry at `slot`; above level 0, `digest` is the child page's and the counts are its sums."""
        return ShardEntry(*_ENTRY.unpack_from(self.entries, slot * ENTRY_BYTES))


@dataclass(frozen=True, slots=True)
class PageShape:
    """How many pages each level has for `shards` entries. Raises BadLabel when three levels are too few."""

    shards: int
    fan_out: int

    def __post_init__(self) -> None:
        if not MIN_FAN_OUT <= self.fan_out <= FAN_OUT:
            raise BadLabel(f"A manifest page holds {MIN_FAN_OUT} to {FAN_OUT} entries, not {self.fan_out}.")
        if not 1 <= self.shards <= self.fan_out**MAX_LEVELS:
            raise BadLabel(
                f"A manifest holds 1 to {self.fan_out**MAX_LEVELS} shards, not {self.shards}.",
                hint="An empty source or dataset is not stored; a larger one takes larger shards.",
            )

    @property
    def levels(self) -> int:
        return 1 if self.shards <= self.fan_out else 2 if self.shards <= self.fan_out**2 else 3

    def pages(self, level: int) -> int:
        """How many pages the level has; the top level has one."""
        width: int = self.fan_out ** (level + 1)
        return -(-self.shards // width)

    def count(self, level: int, index: int) -> int:
        """How many entries the page has."""
        below = self.shards if level == 0 else self.pages(level - 1)
        return min(self.fan_out, below - index * self.fan_out)

    def place(self, shard: int, level: int) -> tuple[int, int]:
        """The page of `level`, and the slot in it, on the way to `shard`."""
        width: int = self.fan_out**level
        return divmod(shard // width, self.fan_out)


def page_key(prefix: str, level: int, index: int) -> str:
    """The object name of a page."""
    return f"{prefix}/manifest/page-{level}-{index:08d}"


def encode_page(page: Page, fan_out: int) -> bytes:
    """The page's bytes."""
    head = _HEAD.pack(_PAGE_MAGIC, _PAGE_VERSION, page.level, 0, page.index, page.count, fan_out, bytes(8))
    return head + page.entries


def page_digest(data: bytes) -> bytes:
    """What the page above, or the root, holds of a page."""
    return hashlib.sha256(data).digest()


def decode_page(
    data: bytes, shape: PageShape, level: int, index: int, digest: bytes | None, place: str
) -> Page:
    """Check a page's digest (unless None: then the caller binds it to the root) and its form.

    Raises UnknownVersion and CorruptManifest.
    """
    if digest is not None and page_digest(data) != digest:
        raise CorruptManifest(f"{place}: the page's digest is not the one in the page above.", hint=_RESTORE)
    if len(data) < _HEAD.size or data[:4] != _PAGE_MAGIC:
        raise CorruptManifest(f"{place} is no manifest page.", hint=_RESTORE)
    _, version, found_level, zero, found_index, count, fan_out, zeros = _HEAD.unpack_from(data)
    if version != _PAGE_VERSION:
        raise UnknownVersion(
            f"{place}: page version {version}; this Stoker knows {_PAGE_VERSION}.",
            hint="A newer Stoker wrote it: use that one.",
        )
    expected = (level, 0, index, shape.count(level, index), shape.fan_out, bytes(8))
    if (found_level, zero, found_index, count, fan_out, zeros) != expected:
        raise CorruptManifest(f"{place}: the page belongs to another place of a manifest.", hint=_RESTORE)
    if len(data) != _HEAD.size + count * ENTRY_BYTES:
        raise CorruptManifest(f"{place}: the page has {len(data)} bytes for {count} entries.", hint=_RESTORE)
    return Page(level, index, data[_HEAD.size :])


def build_pages(entries: bytes, fan_out: int) -> Iterator[tuple[int, int, bytes]]:
    """Every page `(level, index, bytes)` above the encoded shard entries, by level; the top page is last."""
    shape = PageShape(len(entries) // ENTRY_BYTES, fan_out)
    width = fan_out * ENTRY_BYTES
    for level in range(shape.levels):
        above = bytearray()
        for index in range(shape.pages(level)):
            page = Page(level, index, entries[index * width : (index + 1) * width])
            data = encode_page(page, fan_out)
            yield level, index, data
            sums = [page.entry(slot) for slot in range(page.count)]
            above += _ENTRY.pack(
                page_digest(data),
                _ZEROS,
                sum(entry.object_bytes for entry in sums),
                sum(entry.samples for entry in sums),
            )
        entries = bytes(above)
