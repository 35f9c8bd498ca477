"""Searching files for plaintext that must not be there, in the forms in which it could hide.

See docs/design/promises.md, "Searching".
"""

from __future__ import annotations

import base64
import contextlib
import errno
import operator
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np

from stoker.store.objects import ObjectStore

Needles: TypeAlias = Mapping[str, Mapping[str, bytes]]
"""What is searched for: by the secret's name, its bytes in each form."""

_ENCODINGS: Final = ("utf-16-le", "utf-16-be", "utf-32-le")
_STEM_BYTES: Final = 12
_MIN_BYTES: Final = 4
_FEW_STEMS: Final = 12
_BLOCK_BYTES: Final = 1 << 23
_NAMES_AT_ONCE: Final = 4096
_name_of: Final = operator.attrgetter("name")


@dataclass(frozen=True, slots=True)
class Hit:
    """A file that holds a needle: which needle, in what form, at which byte."""

    path: Path
    needle: str
    form: str
    offset: int


@dataclass(frozen=True, slots=True)
class Searched:
    """What a search covered, so that "nothing found" can be weighed.

    `unreadable` could not be looked into; `foreign` belong to other users, who alone may read them.
    """

    files: int
    content_bytes: int
    hits: tuple[Hit, ...]
    unreadable: tuple[Path, ...]
    foreign: tuple[Path, ...] = ()


def forms_of(secret: bytes) -> dict[str, bytes]:
    """`secret` as it stands, in hexadecimal, in base64 at its three alignments, and as wide characters."""
    forms = {"raw": secret, "hex": secret.hex().encode(), "HEX": secret.hex().upper().encode()}
    for shift in range(3):
        encoded = base64.b64encode(bytes(shift) + secret)
        # Characters that mix in neighbouring bytes are cut away: the rest is the same in any context.
        start = (0, 2, 3)[shift]
        end = len(encoded) - (4 if (len(secret) + shift) % 3 else 0)
        forms[f"base64+{shift}"] = encoded[start:end]
    try:
        text = secret.decode()
    except UnicodeDecodeError:
        return forms
    for encoding in _ENCODINGS:
        forms[encoding] = text.encode(encoding)
    return forms


class Matcher:
    """Finds any of many needles. Up to a few beginnings are looked for one by one, more of them all at once.

    Canaries share their beginnings in each form, so few stay few; token ids of many datasets do not.
    """

    def __init__(self, needles: Needles) -> None:
        """Raises ValueError for a needle of less than four bytes, which would be found by chance."""
        self.longest = 1
        self._stems: dict[bytes, list[tuple[str, str, bytes]]] = {}
        for name, forms in needles.items():
            for form, value in forms.items():
                if len(value) < _MIN_BYTES:
                    raise ValueError(f"{name}, {form}: {len(value)} bytes, a needle needs {_MIN_BYTES}")
                self.longest = max(self.longest, len(value))
                self._stems.setdefault(value[:_STEM_BYTES], []).append((name, form, value))
        self._lengths = sorted({len(stem) for stem in self._stems})
        self._first, self._second = (
            np.isin(np.arange(1 << 16), [int.from_bytes(stem[at : at + 2], "little") for stem in self._stems])
            for at in (0, 2)
        )

    def find(self, content: bytes) -> Iterator[tuple[str, str, int]]:
        """Needle, form and offset of everything in `content`."""
        few = len(self._stems) <= _FEW_STEMS
        for stem, offset in self._one_by_one(content) if few else self._all_at_once(content):
            for name, form, value in self._stems[stem]:
                if content.startswith(value, offset):
                    yield name, form, offset

    def _one_by_one(self, content: bytes) -> Iterator[tuple[bytes, int]]:
        for stem in self._stems:
            offset = content.find(stem)
            while offset >= 0:
                yield stem, offset
                offset = content.find(stem, offset + 1)

    def _all_at_once(self, content: bytes) -> Iterator[tuple[bytes, int]]:
        """Places whose first four bytes, two by two, could begin a needle; the rest is compared there."""
        for parity in (0, 1):
            count = (len(content) - parity) // 2
            if count < 2:
                continue
            pairs = np.frombuffer(content, "<u2", count=count, offset=parity)
            places = np.flatnonzero(self._first[pairs[:-1]])
            places = places[self._second[pairs[places + 1]]]
            for offset in (2 * places + parity).tolist():
                for length in self._lengths:
                    stem = content[offset : offset + length]
                    if stem in self._stems:
                        yield stem, offset


class Remembered:
    """Files that an earlier search read to their end and found nothing in; for checks that repeat.

    A file is the same while its inode, size and times of writing and of change are. Writing through shared
    memory may move these late, so a caller forgets everything from time to time.
    """

    def __init__(self) -> None:
        self._needles: Needles = {}
        self._files: dict[tuple[int, int], tuple[int, int, int]] = {}

    def forget(self) -> None:
        """The next search reads everything again."""
        self._files.clear()

    def begin(self, needles: Needles) -> None:
        """A search for `needles` begins: what was searched for others does not count."""
        if needles != self._needles:
            self._needles = needles
            self.forget()

    def knows(self, status: os.stat_result) -> bool:
        """Whether this very file was searched as it now is."""
        return self._files.get((status.st_dev, status.st_ino)) == _state(status)

    def add(self, status: os.stat_result) -> None:
        """The file that was `status` before it was read held nothing."""
        self._files[status.st_dev, status.st_ino] = _state(status)


def _state(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def search(
    folders: Iterable[Path], needles: Needles, *, newer_s: float = 0.0, remembered: Remembered | None = None
) -> Searched:
    """Every file below `folders` changed since `newer_s`, every name and every link's target, for every form.

    Symbolic links are not followed. What vanishes meanwhile is skipped; what cannot be read is named. A file
    that `remembered` knows counts, and is not read again.
    """
    if remembered is not None:
        remembered.begin(needles)
    task = _Search(Matcher(needles), newer_s, remembered)
    for folder in folders:
        task.walk(folder)
    return task.found()


def search_store(store: ObjectStore, needles: Needles) -> Searched:
    """Every object of a store that is reached over a network, and its name."""
    task = _Search(Matcher(needles), 0.0, None)
    for key in store.list():
        path = Path(key)
        task.name(path, key.encode(), "name")
        task.content(path, _reading(store, key), store.size(key))
    return task.found()


def _reading(store: ObjectStore, key: str) -> Callable[[int, int], bytes]:
    return lambda start, length: bytes(store.get_range(key, start, length))


@dataclass(slots=True)
class _Search:
    """A search under way."""

    matcher: Matcher
    newer_s: float
    remembered: Remembered | None
    files: int = 0
    content_bytes: int = 0
    hits: dict[tuple[Path, str, str], Hit] = field(default_factory=dict)
    unreadable: list[Path] = field(default_factory=list)
    foreign: list[Path] = field(default_factory=list)
    names: list[tuple[str, list[str]]] = field(default_factory=list)
    waiting: int = 0

    def found(self) -> Searched:
        return Searched(
            self.files,
            self.content_bytes,
            tuple(self.hits.values()),
            tuple(self.unreadable),
            tuple(self.foreign),
        )

    def walk(self, folder: Path) -> None:
        """Everything below `folder`, by descriptors, so that no path is too long to be read."""
        try:
            self._folder(str(folder), str(folder), None)
        except RecursionError:
            self.unreadable.append(folder)
        self._names()

    def _folder(self, path: str, name: str, parent: int | None) -> None:
        follow = 0 if parent is None else os.O_NOFOLLOW
        try:
            descriptor = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | follow, dir_fd=parent)
        except OSError as error:
            self._refused(path, name, parent, error)
            return
        try:
            with os.scandir(descriptor) as scanned:
                entries = sorted(scanned, key=_name_of)
            self._remember_names(path, list(map(_name_of, entries)))
            for entry in entries:
                self._entry(path, entry, descriptor)
        except OSError as error:
            self._refused(path, name, parent, error)
        finally:
            os.close(descriptor)

    def _remember_names(self, folder: str, names: list[str]) -> None:
        self.names.append((folder, names))
        self.waiting += len(names)
        if self.waiting >= _NAMES_AT_ONCE:
            self._names()

    def _names(self) -> None:
        """The names of many folders all at once, and one by one where that finds something, be it across two:
        to begin a search costs more than to search a folder's few names."""
        if any(self.matcher.find(os.fsencode("/".join(name for _, names in self.names for name in names)))):
            for folder, names in self.names:
                for name in names:
                    self.name(Path(folder, name), os.fsencode(name), "file name")
        self.names.clear()
        self.waiting = 0

    def _entry(self, folder: str, entry: os.DirEntry[str], parent: int) -> None:
        # What kind of entry it is a listing tells, so that only files cost a question of their own.
        name = entry.name
        try:
            if entry.is_file(follow_symlinks=False):
                status = entry.stat(follow_symlinks=False)
                # The time of the last change cannot be set back by hand, the time of writing can.
                if status.st_mtime >= self.newer_s or status.st_ctime >= self.newer_s:
                    self._file(Path(folder, name), name, parent)
            elif entry.is_dir(follow_symlinks=False):
                self._folder(f"{folder}/{name}", name, parent)
            elif entry.is_symlink():
                self.name(Path(folder, name), os.fsencode(os.readlink(name, dir_fd=parent)), "link target")
        except OSError as error:
            self._refused(f"{folder}/{name}", name, parent, error)

    def _file(self, path: Path, name: str, parent: int) -> None:
        # Not blocking and not following, since somebody may have put a pipe or a link there just now.
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        descriptor = os.open(name, flags, dir_fd=parent)
        try:
            status = os.fstat(descriptor)
            if self.remembered is not None and self.remembered.knows(status):
                self.files += 1
                self.content_bytes += status.st_size
                return
            hits = len(self.hits)
            self.content(
                path, lambda start, length: os.pread(descriptor, length, start), status.st_size, descriptor
            )
            if self.remembered is not None and len(self.hits) == hits:
                self.remembered.add(status)
        finally:
            os.close(descriptor)

    def content(
        self, path: Path, read: Callable[[int, int], bytes], size: int, descriptor: int | None = None
    ) -> None:
        """`size` bytes in blocks, each with the end of the one before; holes of a sparse file are skipped."""
        self.files += 1
        start, tail = 0, b""
        while start < size:
            begin = start if descriptor is None else _next_data(descriptor, start)
            if begin != start:
                start, tail = begin, b""
                continue
            block = read(start, min(_BLOCK_BYTES, size - start))
            if not block:
                break
            held = tail + block if tail else block
            for name, form, offset in self.matcher.find(held):
                self._hit(path, name, form, start - len(tail) + offset)
            start += len(block)
            self.content_bytes += len(block)
            tail = held[-(self.matcher.longest - 1) :] if self.matcher.longest > 1 else b""

    def name(self, path: Path, content: bytes, what: str) -> None:
        """A name in which a needle could stand."""
        for name, form, offset in self.matcher.find(content):
            self._hit(path, name, f"{what}, {form}", offset)

    def _hit(self, path: Path, name: str, form: str, offset: int) -> None:
        self.hits.setdefault((path, name, form), Hit(path, name, form, offset))

    def _refused(self, path: str, name: str, parent: int | None, error: OSError) -> None:
        if isinstance(error, FileNotFoundError) or error.errno == errno.ELOOP:
            return
        owner = None
        with contextlib.suppress(OSError):
            owner = os.stat(name, dir_fd=parent, follow_symlinks=False).st_uid
        others = isinstance(error, PermissionError) and owner not in (None, os.geteuid())
        (self.foreign if others else self.unreadable).append(Path(path))


def _next_data(descriptor: int, start: int) -> int:
    """Where the next bytes lie that were ever written; a file system without holes says `start`."""
    try:
        return os.lseek(descriptor, start, os.SEEK_DATA)
    except OSError as error:
        return 1 << 63 if error.errno == errno.ENXIO else start
