"""How much room a node's cache has, agreed between all processes that share it. See docs/design/store.md.

One number, the bytes held and promised, lies in the file `account` and changes only under its lock. Partial
files have their whole length from the beginning, so what they will take is counted before it is written.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import struct
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from stoker.core.clock import Clock

MAX_KEEP_S: Final = 3600.0
"""How far in the future an object may be wanted; a stamp beyond that is a clock that was set back."""

_ACCOUNT: Final = struct.Struct(">4sB3x8sQ")
_MAGIC: Final = b"STKC"
_VERSION: Final = 1
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_LEAST_CANDIDATES: Final = 64


@dataclass(frozen=True, slots=True)
class _Entry:
    """An object as one walk through the cache found it; `stamp_ns` is when it was used, or will be."""

    stamp_ns: int
    size: int
    path: str


class CacheRoom:
    """The folders of a cache and the bytes in them. Its methods raise OSError when the folder cannot be used.

    An object's time of modification says when it was used last or, in the future, until when somebody wants
    it. Room is made of what nobody wants, oldest first; then, for a reader that waits, of what is wanted
    latest.
    """

    def __init__(self, folder: Path, limit_bytes: int, clock: Clock) -> None:
        self.objects = folder / "objects"
        self.partial = folder / "partial"
        self.limit_bytes = limit_bytes
        self.evictions = 0
        self._account_path = folder / "account"
        self._folder = folder
        self._clock = clock
        self._candidates: deque[_Entry] = deque()  # the next to go; touched only under the account's lock
        self._boot = hashlib.sha256(_BOOT_ID.read_bytes() if _BOOT_ID.exists() else b"").digest()[:8]

    def make_folders(self) -> None:
        """Make what is missing of the cache's folders, closed to others."""
        for path in (self._folder, self.objects, self.partial):
            path.mkdir(parents=True, exist_ok=True, mode=0o700)

    def sweep(self) -> None:
        """Remove the partial files of dead processes: those that nobody holds a lock on."""
        with self._account() as account:
            for entry in os.scandir(self.partial):
                with contextlib.suppress(FileNotFoundError, BlockingIOError):
                    descriptor = os.open(entry.path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
                    try:
                        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        account.held -= _unlink_same(Path(entry.path), descriptor)
                    finally:
                        os.close(descriptor)

    def reserve(self, descriptor: int, wanted_bytes: int, *, spare_wanted: bool) -> bool:
        """Promise `wanted_bytes` to a partial file and give it that length; False when there is no room.

        With `spare_wanted`, nothing that somebody wants is evicted for it.
        """
        with self._account() as account:
            promised = os.fstat(descriptor).st_size  # by a dead writer of the same object
            more = wanted_bytes - promised
            if not self._make_room(account, more, spare_wanted):
                return False
            os.ftruncate(descriptor, wanted_bytes)
            account.held += more
        return True

    def keep(self, partial: Path, path: Path) -> None:
        """Make a whole partial file the object at `path`: under the lock, so that no walk misses it."""
        with self._account() as account:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            replaced = path.stat(follow_symlinks=False).st_size if path.is_file() else 0
            partial.replace(path)
            account.held -= replaced

    def abandon(self, path: Path, descriptor: int) -> None:
        """Remove a partial file and take back what was promised to it."""
        with self._account() as account:
            account.held -= _unlink_same(path, descriptor)

    def forget(self, path: Path, descriptor: int | None = None) -> None:
        """Remove an object; with `descriptor`, only when the path still leads to that file."""
        with self._account() as account:
            if descriptor is not None:
                account.held -= _unlink_same(path, descriptor)
            else:
                account.held -= _unlink(path)

    def forget_tree(self, path: Path) -> None:
        """Remove every object under a folder, and the folder, or the one object of that name."""
        with self._account() as account:
            if not path.is_dir() or path.is_symlink():
                account.held -= _unlink(path)
                return
            for folder, _, names in os.walk(path, topdown=False):
                for name in names:
                    account.held -= _unlink(Path(folder) / name)
                with contextlib.suppress(OSError):  # somebody brings an object in there
                    Path(folder).rmdir()

    def held_bytes(self) -> int:
        """The bytes of all objects, and those promised to objects that are on their way."""
        with self._account() as account:
            return account.held

    def stamp(self, target: int | Path, keep_s: float) -> None:
        """Say that an object is used now, or is wanted for `keep_s` seconds from now."""
        at_ns = int((self._clock.now_s() + min(keep_s, MAX_KEEP_S)) * 1e9)
        os.utime(target, ns=(at_ns, at_ns))

    def _make_room(self, account: _Account, more: int, spare_wanted: bool) -> bool:
        """Evict until `more` fits under the limit. A walk gives the candidates for many evictions."""
        if more > self.limit_bytes:
            return False
        gone_since_walk = 1  # what is left of an earlier walk may be used before the next
        while account.held + more > self.limit_bytes:
            if not self._candidates:
                if not gone_since_walk:
                    return False
                gone_since_walk = 0
                self._walk(account)
                if not self._candidates:
                    if spare_wanted:
                        return False
                    return self._take_wanted(account, more)
                continue
            gone_since_walk += self._evict(account, self._candidates.popleft())
        return True

    def _take_wanted(self, account: _Account, more: int) -> bool:
        """Evict what is wanted, latest first: for a reader that waits, when there is nothing else."""
        entries = sorted(_entries(self.objects), key=lambda each: -each.stamp_ns)
        for entry in entries:
            if account.held + more <= self.limit_bytes:
                break
            self._evict(account, entry)
        return account.held + more <= self.limit_bytes

    def _evict(self, account: _Account, entry: _Entry) -> bool:
        """Remove an object unless it was used, or asked for, since it was found."""
        path = Path(entry.path)
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            if path.stat(follow_symlinks=False).st_mtime_ns == entry.stamp_ns:
                account.held -= _unlink(path)
                self.evictions += 1
                return True
        return False

    def _walk(self, account: _Account) -> None:
        """Count anew what the cache holds; remember what nobody wants and was used longest ago, a quarter."""
        entries = list(_entries(self.objects))
        account.held = sum(each.size for each in entries) + sum(each.size for each in _entries(self.partial))
        unwanted = [each for each in entries if not self._wanted(each.stamp_ns)]
        unwanted.sort(key=lambda each: each.stamp_ns)
        self._candidates = deque(unwanted[: max(_LEAST_CANDIDATES, len(entries) // 4)])

    def _wanted(self, stamp_ns: int) -> bool:
        return 0 < stamp_ns - self._clock.now_s() * 1e9 <= MAX_KEEP_S * 1e9

    @contextlib.contextmanager
    def _account(self) -> Iterator[_Account]:
        """The number, under its lock; made anew when it is missing, malformed or of an earlier boot."""
        descriptor = self._locked_account()
        try:
            account = _Account(0)
            found = os.pread(descriptor, _ACCOUNT.size + 1, 0)
            whole = len(found) == _ACCOUNT.size
            magic, version, boot, account.held = _ACCOUNT.unpack(found) if whole else (b"", 0, b"", 0)
            before = account.held
            if (magic, version, boot) != (_MAGIC, _VERSION, self._boot):
                before = -1
                os.ftruncate(descriptor, 0)
                self._walk(account)
            try:
                yield account
            finally:
                if account.held != before:
                    held = max(0, account.held)
                    os.pwrite(descriptor, _ACCOUNT.pack(_MAGIC, _VERSION, self._boot, held), 0)
        finally:
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # a forked child may still have it open
            os.close(descriptor)

    def _locked_account(self) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        while True:
            try:
                descriptor = os.open(self._account_path, flags, 0o600)
            except FileNotFoundError:
                self.make_folders()  # somebody removed the cache
                descriptor = os.open(self._account_path, flags, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if same_file(self._account_path, descriptor):
                return descriptor
            os.close(descriptor)


@dataclass(slots=True)
class _Account:
    """Bytes held by objects and promised to partial files."""

    held: int


def same_file(path: Path, descriptor: int) -> bool:
    """Does the path still lead to the open file?"""
    try:
        found, opened = path.stat(follow_symlinks=False), os.fstat(descriptor)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return (found.st_dev, found.st_ino) == (opened.st_dev, opened.st_ino)


def _unlink_same(path: Path, descriptor: int) -> int:
    """Remove the file unless another has taken its place; the bytes that became free."""
    return _unlink(path) if same_file(path, descriptor) else 0


def _unlink(path: Path) -> int:
    """Remove a file; the bytes that became free. One that is not there, or a folder, is no error."""
    try:
        size = path.stat(follow_symlinks=False).st_size
        path.unlink()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return 0
    return size


def _entries(folder: Path) -> Iterator[_Entry]:
    """Every file under `folder`, without sorting or looking into it."""
    waiting = [os.fspath(folder)]
    while waiting:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(waiting.pop()) as found:
            for each in found:
                if each.is_dir(follow_symlinks=False):
                    waiting.append(each.path)
                    continue
                with contextlib.suppress(FileNotFoundError):
                    facts = each.stat(follow_symlinks=False)
                    yield _Entry(facts.st_mtime_ns, facts.st_size, each.path)
