"""Walking a folder that is not trusted: what may be taken, what is left out and why, one open file at a time.

Every folder is opened relative to its parent's descriptor and never through a link, so neither a path longer
than the kernel takes nor a folder swapped for a link leads elsewhere. See docs/design/intake.md, "Import".
"""

from __future__ import annotations

import enum
import errno
import fnmatch
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from stoker.intake.errors import LinkLeavesSource, SourceChanged, UnreadableFile, UnusableFolder
from stoker.spec.recipe import ImportSpec, NotText, OnFault

MAX_DEPTH: Final = 200
CANARY_NAME: Final = ".stoker-canary"
_EXAMPLES: Final = 5
_FILE_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
_FOLDER_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Reason(enum.StrEnum):
    """Why something in the folder was not taken."""

    EXCLUDED = "excluded"
    EXCLUDED_FOLDER = "excluded_folder"
    EMPTY = "empty"
    TOO_LARGE = "too_large"
    NOT_UTF8 = "not_utf8"
    UNREADABLE = "unreadable"
    SPECIAL_FILE = "special_file"
    LINK = "link"
    OUTSIDE_LINK = "outside_link"
    NAME_NOT_UTF8 = "name_not_utf8"
    TOO_DEEP = "too_deep"
    RESERVED_NAME = "reserved_name"


@dataclass(frozen=True, slots=True)
class LeftOut:
    """How many entries one reason kept out, with a few of their paths, made safe to print."""

    reason: Reason
    entries: int
    examples: tuple[str, ...]


class LeftOutTally:
    """Counts what is left out as the walk meets it."""

    def __init__(self) -> None:
        self._counts: dict[Reason, int] = {}
        self._examples: dict[Reason, list[str]] = {}

    def add(self, reason: Reason, path: str) -> None:
        """One more entry at `path`."""
        self._counts[reason] = self._counts.get(reason, 0) + 1
        examples = self._examples.setdefault(reason, [])
        if len(examples) < _EXAMPLES:
            examples.append(printable(path))

    def counts(self) -> dict[str, int]:
        """Entries by reason, without any path: what the ledger keeps."""
        return {reason.value: self._counts[reason] for reason in sorted(self._counts)}

    def summary(self) -> tuple[LeftOut, ...]:
        """Entries by reason with examples, for the person who imports."""
        return tuple(
            LeftOut(reason, self._counts[reason], tuple(self._examples[reason]))
            for reason in sorted(self._counts)
        )


@dataclass(frozen=True, slots=True)
class Candidate:
    """A file that may be taken, and how it looked when the folder was walked."""

    path: str
    device: int
    inode: int
    size_bytes: int
    modified_ns: int

    def same(self, found: os.stat_result) -> bool:
        """Whether `found` is this very file, unchanged."""
        return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns) == (
            self.device,
            self.inode,
            self.size_bytes,
            self.modified_ns,
        )


def printable(path: str) -> str:
    """The path without control characters or bytes that are not UTF-8, at most 200 characters."""
    shown = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in path[:200])
    return shown + ("…" if len(path) > 200 else "")


class FolderWalk:
    """An open source folder. Use `open_folder`."""

    def __init__(self, root: Path, descriptor: int, spec: ImportSpec, left_out: LeftOutTally) -> None:
        self._root = root
        self._real_root = os.path.realpath(root)
        self._spec = spec
        self._left_out = left_out
        self._include = _globs(spec.include)
        self._exclude = _globs(spec.exclude)
        self._open: list[tuple[str, int]] = [("", descriptor)]

    def candidates(self) -> list[Candidate]:
        """Every file that may be taken, in the order of its path's bytes inside each folder."""
        return list(self._visit(self._open[0][1], "", 0))

    def _visit(self, folder: int, prefix: str, depth: int) -> Iterator[Candidate]:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: os.fsencode(entry.name))
        for entry in entries:
            path = prefix + entry.name
            try:
                entry.name.encode()
            except UnicodeEncodeError:
                self._left_out.add(Reason.NAME_NOT_UTF8, path)
                continue
            with self._naming_change(path):
                facts = entry.stat(follow_symlinks=False)
            if stat.S_ISDIR(facts.st_mode):
                yield from self._enter(entry.name, path, folder, depth)
            elif reason := self._reason(path, entry.name, folder, facts):
                self._left_out.add(reason, path)
            else:
                yield Candidate(path, facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns)

    def _enter(self, name: str, path: str, folder: int, depth: int) -> Iterator[Candidate]:
        if self._exclude.match(path) or self._exclude.match(path + "/"):
            self._left_out.add(Reason.EXCLUDED_FOLDER, path)
            return
        if depth >= MAX_DEPTH:
            self._left_out.add(Reason.TOO_DEEP, path)
            return
        try:
            inner = os.open(name, _FOLDER_FLAGS, dir_fd=folder)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                raise _changed(path) from error
            self._unreadable(path, error)
            return
        try:
            yield from self._visit(inner, path + "/", depth + 1)
        finally:
            os.close(inner)

    def _reason(self, path: str, name: str, folder: int, facts: os.stat_result) -> Reason | None:
        if stat.S_ISLNK(facts.st_mode):
            return self._link(path, name, folder)
        if not stat.S_ISREG(facts.st_mode):
            return Reason.SPECIAL_FILE
        if not self._include.match(path) or self._exclude.match(path):
            return Reason.EXCLUDED
        if path == CANARY_NAME:
            return Reason.RESERVED_NAME
        if facts.st_size == 0:
            return Reason.EMPTY
        return Reason.TOO_LARGE if facts.st_size > self._spec.max_file_bytes else None

    def _link(self, path: str, name: str, folder: int) -> Reason:
        """Links are never followed: one that stays inside names a file that is taken under its own name."""
        if self._exclude.match(path):
            return Reason.EXCLUDED
        with self._naming_change(path):
            target = os.readlink(name, dir_fd=folder)
        try:
            real = os.path.realpath(Path(self._real_root, path).parent / target)
        except OSError:
            real = ""
        if real == self._real_root or real.startswith(self._real_root.rstrip("/") + "/"):
            return Reason.LINK
        if self._spec.outside_links is OnFault.LEAVE_OUT:
            return Reason.OUTSIDE_LINK
        raise LinkLeavesSource(
            f"{printable(path)} is a symbolic link to something outside the source.",
            hint='Remove the link, exclude its path, or import with outside_links = "leave_out".',
        )

    def read(self, candidate: Candidate) -> bytes | None:
        """The file's bytes when they are UTF-8; None when it was left out.

        Raises SourceChanged when it is not the file that the walk saw, or changes while it is read;
        UnreadableFile when the settings refuse what cannot be read or is not UTF-8.
        """
        path = candidate.path
        try:
            descriptor = os.open(path.rpartition("/")[2], _FILE_FLAGS, dir_fd=self._folder_of(path))
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO):
                raise _changed(path) from error
            self._unreadable(path, error)
            return None
        try:
            if not candidate.same(os.fstat(descriptor)):
                raise _changed(path)
            data = _read_whole(descriptor, candidate.size_bytes)
            if len(data) != candidate.size_bytes or not candidate.same(os.fstat(descriptor)):
                raise _changed(path)
        except OSError as error:
            self._unreadable(path, error)
            return None
        finally:
            os.close(descriptor)
        try:
            data.decode()
        except UnicodeDecodeError as error:
            if self._spec.not_text is NotText.REFUSE:
                raise UnreadableFile(
                    f"{printable(path)} is not UTF-8: byte {error.start} does not belong there.",
                    hint='Convert it, exclude its path, or import with not_text = "leave_out".',
                ) from error
            self._left_out.add(Reason.NOT_UTF8, path)
            return None
        return data

    def _folder_of(self, path: str) -> int:
        """A descriptor of the folder that holds `path`; folders on the way stay open for the next file."""
        while not path.startswith(self._open[-1][0]):
            os.close(self._open.pop()[1])
        rest = path[len(self._open[-1][0]) :].split("/")[:-1]
        for name in rest:
            prefix, folder = self._open[-1]
            try:
                self._open.append((f"{prefix}{name}/", os.open(name, _FOLDER_FLAGS, dir_fd=folder)))
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE):
                    raise
                raise _changed(path) from error
        return self._open[-1][1]

    def _unreadable(self, path: str, error: OSError) -> None:
        if self._spec.unreadable is OnFault.LEAVE_OUT:
            self._left_out.add(Reason.UNREADABLE, path)
            return
        raise UnreadableFile(
            f"{printable(path)} cannot be read: {error.strerror}.",
            hint="Give yourself the right to read it, exclude its path, or import with "
            'unreadable = "leave_out".',
        ) from error

    @contextmanager
    def _naming_change(self, path: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise _changed(path) from error

    def close(self) -> None:
        """Close every folder."""
        while self._open:
            with suppress(OSError):
                os.close(self._open.pop()[1])


@contextmanager
def open_folder(folder: Path, spec: ImportSpec, left_out: LeftOutTally) -> Iterator[FolderWalk]:
    """The folder, open for one import. Raises UnusableFolder when it is absent or not a readable folder."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise UnusableFolder(
            f"{printable(str(folder))} cannot be imported: {error.strerror}.",
            hint="Give the path of a folder that you may read.",
        ) from error
    walk = FolderWalk(folder, descriptor, spec, left_out)
    try:
        yield walk
    finally:
        walk.close()


def _read_whole(descriptor: int, size_bytes: int) -> bytes:
    """The file up to one byte past its expected size, so that growth is noticed."""
    pieces = []
    wanted = size_bytes + 1
    while wanted > 0 and (piece := os.read(descriptor, wanted)):
        pieces.append(piece)
        wanted -= len(piece)
    return b"".join(pieces)


def _globs(patterns: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(fnmatch.translate(pattern) for pattern in patterns) or r"(?!)", re.DOTALL)


def _changed(path: str) -> SourceChanged:
    return SourceChanged(
        f"{printable(path)} changed while it was being imported.",
        hint="Import again when nothing writes to the folder, or import a copy of it.",
    )
