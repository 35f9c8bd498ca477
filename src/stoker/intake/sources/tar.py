"""Tar archives, as WebDataset lays them out: each member is an item below the archive's own path.

Members are read one after the other with the standard library's header parser and never written to disk.
Its own loop ends silently at a broken header, so the loop is ours: an archive ends with its end mark or is
truncated. See docs/design/intake.md, "Sources".
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Generator, Iterator
from typing import Final

from stoker.intake.errors import BrokenSource
from stoker.intake.left_out import Reason, printable
from stoker.intake.sources.files import MAX_DEPTH, Candidate
from stoker.intake.sources.form import Intake
from stoker.intake.sources.judge import Item, NotTaken
from stoker.intake.sources.stream import Stream, StreamFault

ENDINGS: Final = (".tar", ".tar.gz", ".tgz")
_BLOCK: Final = tarfile.BLOCKSIZE
_HEADER_BYTES: Final = 1 << 20
"""Longer extended headers, which the parser takes into memory whole, are refused."""

_GLOBAL_HEADERS: Final = 64
_END_BYTES: Final = 1 << 20
_ZEROS: Final = bytes(_BLOCK)


def tar_items(intake: Intake) -> Generator[Item]:
    """The members of every archive, in the order of the archives' names and inside them."""
    for candidate in intake.candidates:
        if candidate.path.lower().endswith(ENDINGS):
            yield from intake.rows(candidate, read_tar)
        else:
            intake.judge.not_of_form(candidate.path)
            intake.advance(candidate.size_bytes)


def read_tar(intake: Intake, candidate: Candidate, stream: Stream) -> Iterator[Item]:
    """The members of one archive. Raises StreamFault where it is broken."""
    archive = _Headers(stream)
    while (member := archive.next()) is not None:
        try:
            name = _name(intake, candidate, member)
            if name is None:
                continue
            path = f"{candidate.path}/{name}"
            if member.issparse():
                raise NotTaken(Reason.SPECIAL_FILE, path)
            if not_taken := intake.judge.too_large(path, member.size):
                raise not_taken
            stream.seek(member.offset_data)
            data = stream.read(member.size)
            if len(data) != member.size:
                raise StreamFault(
                    Reason.TRUNCATED,
                    f"the archive is truncated inside member {printable(name)}: of {member.size} bytes "
                    f"{len(data)} are there",
                    member.offset_data,
                )
            yield from intake.judge.group([intake.judge.item(path, data)])
        except NotTaken as not_taken:
            intake.judge.settle(not_taken)


_ON_WINDOWS: Final = re.compile(r"^(?:[A-Za-z]:|\\\\)|(?:^|[\\/])\.\.(?:[\\/]|$)")
"""A drive, a share, or the way up with a backslash: plain names here, a way out on another system."""


def _name(intake: Intake, candidate: Candidate, member: tarfile.TarInfo) -> str | None:
    """The member's name as a plain relative path; None for a folder. Raises NotTaken."""
    place = f"{candidate.path}/{member.name}"
    if member.isdir():
        return None
    if member.issym() or member.islnk():
        raise NotTaken(Reason.LINK, place)
    if not member.isreg():
        raise NotTaken(Reason.SPECIAL_FILE, place)
    try:
        member.name.encode()
    except UnicodeEncodeError as error:
        raise NotTaken(Reason.NAME_NOT_UTF8, place) from error
    parts = [part for part in member.name.split("/") if part not in ("", ".")]
    elsewhere = member.name.startswith("/") or ".." in parts or _ON_WINDOWS.search(member.name)
    if elsewhere or not parts or len(parts) > MAX_DEPTH:
        text = (
            f"{printable(candidate.path)} holds a member named {member.name[:100]!a}, which leads elsewhere."
        )
        raise intake.judge.fault(Reason.UNSAFE_NAME, BrokenSource, place, text)
    return "/".join(parts)


class _Headers:
    """The headers of an archive, one after the other; nothing of them is kept."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._file = _Capped(stream)
        self._archive = _empty_archive(self._file)

    def next(self) -> tarfile.TarInfo | None:
        """The next member; None at the end mark. Raises StreamFault."""
        at = self._archive.offset
        self._stream.seek(at)
        first = self._stream.read(_BLOCK)
        if first == _ZEROS:
            self._end(at)
            return None
        if len(first) < _BLOCK:
            raise StreamFault(Reason.TRUNCATED, "the archive is truncated: its end mark is missing", at)
        self._stream.seek(at)
        self._file.left = _HEADER_BYTES
        try:
            member = tarfile.TarInfo.fromtarfile(self._archive)
        except tarfile.HeaderError as error:
            said = f"{type(error).__name__} {error}".lower()
            reason = Reason.TRUNCATED if "truncated" in said or "empty" in said else Reason.MALFORMED
            raise StreamFault(reason, f"the archive has a broken header ({error})", at) from error
        except (ValueError, ArithmeticError, LookupError, RecursionError) as error:
            raise StreamFault(
                Reason.MALFORMED, f"the archive has a broken header ({type(error).__name__})", at
            ) from error
        if member.size < 0 or self._archive.offset <= at:
            raise StreamFault(Reason.MALFORMED, f"a member says it has {member.size} bytes", at)
        if len(self._archive.pax_headers) > _GLOBAL_HEADERS:
            raise StreamFault(Reason.TOO_MUCH, f"over {_GLOBAL_HEADERS} headers hold for all members", at)
        return member

    def _end(self, at: int) -> None:
        """After the end mark there may be zeros only, and few."""
        for _ in range(_END_BYTES // _BLOCK):
            block = self._stream.read(_BLOCK)
            if not block:
                return
            if block.strip(b"\0"):
                raise StreamFault(Reason.MALFORMED, "bytes follow the archive's end mark", at + _BLOCK)
        raise StreamFault(Reason.TOO_MUCH, f"more than {_END_BYTES} zeros follow the archive's end mark", at)


class _Capped:
    """The stream as the header parser sees it: what one member's headers may take is bounded."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self.left = 0

    def read(self, length: int = -1) -> bytes:
        self.left -= length
        if length < 0 or self.left < 0:
            raise StreamFault(
                Reason.TOO_MUCH,
                f"a member's headers take more than {_HEADER_BYTES} bytes",
                self._stream.tell(),
            )
        return self._stream.read(length)

    def tell(self) -> int:
        return self._stream.tell()

    def seek(self, position: int) -> int:
        return self._stream.seek(position)


def _empty_archive(file: _Capped) -> tarfile.TarFile:
    """A TarFile at offset 0 that has not begun to look for its first member."""
    archive = tarfile.TarFile.__new__(tarfile.TarFile)
    archive.fileobj = file  # type: ignore[assignment]
    archive.offset = 0
    archive.pax_headers = {}
    archive.encoding = "utf-8"
    archive.errors = "surrogateescape"
    return archive
