"""What is left of a picture or clip without its metadata, and what was taken out."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field


class Removed(enum.StrEnum):
    """What was taken out. The value is the word in reports."""

    EXIF = "exif"
    GPS = "gps"
    THUMBNAIL = "thumbnail"
    XMP = "xmp"
    IPTC = "iptc"
    ICC = "icc"
    COMMENT = "comment"
    TAGS = "tags"
    COVER = "cover"
    OTHER = "other"
    TRAILING = "trailing"


class NotUnderstood(ValueError):
    """The file's structure is broken or of a kind that is not known. `why` names no content."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


@dataclass(frozen=True, slots=True)
class Stripped:
    """`data` without metadata; what was `removed`; and the removed bytes, so that they can be scanned."""

    data: bytes
    removed: frozenset[Removed]
    metadata: tuple[bytes, ...] = field(repr=False)

    @property
    def gps(self) -> bool:
        """Whether the file said where it was made."""
        return Removed.GPS in self.removed


class Keeping:
    """Collects what is kept and what is taken out."""

    def __init__(self) -> None:
        self._kept: list[bytes] = []
        self._removed: set[Removed] = set()
        self._metadata: list[bytes] = []

    def keep(self, *pieces: bytes) -> None:
        """These bytes stay."""
        self._kept += pieces

    def remove(self, data: bytes, *kinds: Removed) -> None:
        """These bytes go; nothing happens for none."""
        if data:
            self._removed.update(kinds)
            self._metadata.append(data)

    def insert(self, position: int, piece: bytes) -> None:
        """These bytes stay, as the `position`th piece."""
        self._kept.insert(position, piece)

    def kept_bytes(self) -> bytes:
        """All that stays."""
        return b"".join(self._kept)

    def stripped(self, data: bytes | None = None) -> Stripped:
        """The result; `data` where what is kept was wrapped once more."""
        kept = self.kept_bytes() if data is None else data
        return Stripped(kept, frozenset(self._removed), tuple(self._metadata))
