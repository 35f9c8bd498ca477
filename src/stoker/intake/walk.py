"""Walking a folder that is not trusted: what may be taken, what is left out and why, one open file at a time.

Every folder is opened relative to its parent's descriptor and never through a link, so neither a path longer
than the kernel takes nor a folder swapped for a link leads elsewhere. See docs/design/intake.md, "Import".
"""

from __future__ import annotations

import errno
import fnmatch
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Final

from stoker.intake.errors import LinkLeavesSource, SourceChanged, UnreadableFile, UnusableFolder
from stoker.intake.left_out import LeftOutTally
from stoker.intake.left_out import Reason as Reason
from stoker.intake.left_out import printable as printable
from stoker.intake.sources.files import CANARY_NAME as CANARY_NAME
from stoker.intake.sources.files import MAX_DEPTH as MAX_DEPTH
from stoker.intake.sources.files import Candidate
from stoker.spec.recipe import ImportSpec, OnFault

_FILE_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
_FOLDER_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class FolderWalk:
    """An open source folder. Use `open_folder`."""

    def __init__(
        self, root: Path, descriptor: int, spec: ImportSpec, left_out: LeftOutTally, only: str | None
    ) -> None:
        self._root = root
        self._only = only
        self._top_folders: list[str] = []
        self._real_root = os.path.realpath(root)
        self._spec = spec
        self._left_out = left_out
        self._include = globs(spec.include)
        self._exclude = globs(spec.exclude)
        self._open: list[tuple[str, int]] = [("", descriptor)]

    @property
    def place(self) -> str:
        """The folder, or the one file that is imported, safe to print."""
        return printable(str(self._root / self._only if self._only else self._root))

    def top_folders(self) -> tuple[str, ...]:
        """The folders at the top that the walk entered, also those that hold no file."""
        return tuple(self._top_folders)

    def candidates(self) -> list[Candidate]:
        """Every file that may be taken, in the order of its path's bytes inside each folder."""
        return list(self._visit(self._open[0][1], "", 0))

    def _visit(self, folder: int, prefix: str, depth: int) -> Iterator[Candidate]:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: os.fsencode(entry.name))
        if self._only is not None:
            entries = [entry for entry in entries if entry.name == self._only]
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
                yield Candidate(path, facts.st_size, _stamp(facts))

    def _enter(self, name: str, path: str, folder: int, depth: int) -> Iterator[Candidate]:
        if self._exclude.match(path) or self._exclude.match(path + "/"):
            self._left_out.add(Reason.EXCLUDED_FOLDER, path)
            return
        if depth >= MAX_DEPTH:
            self._left_out.add(Reason.TOO_DEEP, path)
            return
        if depth == 0:
            self._top_folders.append(name)
        try:
            inner = os.open(name, _FOLDER_FLAGS, dir_fd=folder)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                raise changed(path) from error
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
        return Reason.EMPTY if facts.st_size == 0 else None

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
        """The file's bytes; None when it cannot be read and the settings leave that out.

        Raises SourceChanged when it is not the file that the walk saw, or changes while it is read;
        UnreadableFile when the settings refuse what cannot be read.
        """
        opened = self.open(candidate)
        if opened is None:
            return None
        try:
            with opened:
                data = _read_whole(opened.descriptor, candidate.size_bytes)
                if len(data) != candidate.size_bytes:
                    raise changed(candidate.path)
        except OSError as error:
            self._unreadable(candidate.path, error)
            return None
        return data

    def open(self, candidate: Candidate) -> OpenFile | None:
        """The file for reading in ranges; None and the errors as in `read`."""
        path = candidate.path
        try:
            descriptor = os.open(path.rpartition("/")[2], _FILE_FLAGS, dir_fd=self._folder_of(path))
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO):
                raise changed(path) from error
            self._unreadable(path, error)
            return None
        return OpenFile(candidate, descriptor)

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
                raise changed(path) from error
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
            raise changed(path) from error

    def close(self) -> None:
        """Close every folder."""
        while self._open:
            with suppress(OSError):
                os.close(self._open.pop()[1])


class OpenFile:
    """One file of a folder, open. Leaving the block closes it and raises SourceChanged when it changed."""

    def __init__(self, candidate: Candidate, descriptor: int) -> None:
        self._candidate = candidate
        self.descriptor = descriptor

    def size(self) -> int:
        return self._candidate.size_bytes

    def read(self, start: int, length: int) -> bytes:
        """Exactly these bytes. Raises SourceChanged when the file is not what the walk saw."""
        pieces = []
        while length > 0:
            piece = os.pread(self.descriptor, length, start)
            if not piece:
                raise changed(self._candidate.path)
            pieces.append(piece)
            start, length = start + len(piece), length - len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def __enter__(self) -> OpenFile:
        try:
            self._check()
        except BaseException:
            os.close(self.descriptor)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None or not issubclass(kind, KeyboardInterrupt | SystemExit | GeneratorExit):
                self._check()
        finally:
            os.close(self.descriptor)

    def _check(self) -> None:
        if self._candidate.stamp != _stamp(os.fstat(self.descriptor)):
            raise changed(self._candidate.path)


@contextmanager
def open_folder(
    folder: Path, spec: ImportSpec, left_out: LeftOutTally, only: str | None = None
) -> Iterator[FolderWalk]:
    """The folder, open for one import; `only` names the single file at its top that is wanted.

    Raises UnusableFolder when it is absent or not a readable folder.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise UnusableFolder(
            f"{printable(str(folder))} cannot be imported: {error.strerror}.",
            hint="Give the path of a folder that you may read.",
        ) from error
    walk = FolderWalk(folder, descriptor, spec, left_out, only)
    try:
        yield walk
    finally:
        walk.close()


def _stamp(facts: os.stat_result) -> tuple[int, ...]:
    return (facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns)


def _read_whole(descriptor: int, size_bytes: int) -> bytes:
    """The file up to one byte past its expected size, so that growth is noticed."""
    pieces = []
    wanted = size_bytes + 1
    while wanted > 0 and (piece := os.read(descriptor, wanted)):
        pieces.append(piece)
        wanted -= len(piece)
    return b"".join(pieces)


def globs(patterns: tuple[str, ...]) -> re.Pattern[str]:
    """One expression for all the shell globs; none matches nothing."""
    return re.compile("|".join(fnmatch.translate(pattern) for pattern in patterns) or r"(?!)", re.DOTALL)


def changed(path: str) -> SourceChanged:
    """The error for a file that is not what the listing saw."""
    return SourceChanged(
        f"{printable(path)} changed while it was being imported.",
        hint="Import again when nothing writes to the folder, or import a copy of it.",
    )
