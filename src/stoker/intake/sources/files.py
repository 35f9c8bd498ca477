"""The files of a source, wherever they lie: listed once, then read whole or in ranges, never changed.

A local folder (`stoker.intake.walk`) and a prefix of an object store (`stoker.intake.sources.remote`) both
give this. See docs/design/intake.md, "Sources".
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final, Protocol

from stoker.store.ranges import RangeSource

CANARY_NAME: Final = ".stoker-canary"
"""The file that import adds; no item of a source may have its name."""

MAX_DEPTH: Final = 200
"""Folders inside folders, in a folder and in an archive."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A file that may be taken, and how it looked when the source was listed.

    `stamp` names the very bytes: device, inode, size and time of change of a local file; entity tag and size
    of a stored object.
    """

    path: str
    size_bytes: int
    stamp: tuple[int | str | None, ...]

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition("/")[2]


class SourceFiles(Protocol):
    """What is there to import. Reading raises SourceChanged when a file is not what the listing saw."""

    @property
    def place(self) -> str:
        """The folder or URL, safe to print."""
        ...

    def candidates(self) -> list[Candidate]:
        """Every file that include and exclude let through, in an order that depends on names alone."""
        ...

    def top_folders(self) -> Sequence[str]:
        """The folders at the top that the listing met, also those that hold no file."""
        ...

    def read(self, candidate: Candidate) -> bytes | None:
        """The whole file; None when it cannot be read and the settings leave that out."""
        ...

    def open(self, candidate: Candidate) -> AbstractContextManager[RangeSource] | None:
        """The file for reading in ranges; None when it cannot be read and the settings leave that out."""
        ...
