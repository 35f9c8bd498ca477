"""The folder of a file key store: locking, whole replacement of files, and erasing what was replaced.

See docs/design/keys.md, "The folder".
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from stoker.core.atomic import naming_full_disk, sync_folder
from stoker.core.errors import Busy
from stoker.keys.errors import KeystoreDamaged, LooseKeyFile
from stoker.keys.keystore import MAX_FILE_BYTES
from stoker.keys.root import open_private

LOCK_PATIENCE_S: Final = 60.0
_LOCK_PAUSE_S: Final = 0.005


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One version of a file: its bytes, what it was, and a descriptor that keeps its inode number taken."""

    data: bytes
    identity: tuple[int, int, int, int]
    descriptor: int

    def close(self) -> None:
        os.close(self.descriptor)


@dataclass(frozen=True, slots=True)
class KeystoreFolder:
    """Names the files of one key store and moves their bytes; knows nothing of what they mean."""

    path: Path

    @property
    def name(self) -> str:
        """The path of `keystore.json`, for messages."""
        return str(self.keystore_path)

    @property
    def tombstones_name(self) -> str:
        """The path of `tombstones.json`, for messages."""
        return str(self.tombstones_path)

    @property
    def keystore_path(self) -> Path:
        return self.path / "keystore.json"

    @property
    def tombstones_path(self) -> Path:
        return self.path / "tombstones.json"

    @property
    def root_path(self) -> Path:
        return self.path / "root.key"

    @property
    def new_root_path(self) -> Path:
        return self.path / "root.key.new"

    def prepare(self) -> None:
        """Make the folder, mode 0700, when it is absent."""
        with naming_full_disk(self.path):
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        found = self.path.stat()
        if found.st_mode & 0o022 or found.st_uid != os.geteuid():
            raise LooseKeyFile(
                f"Others could replace what is in the key store's folder {self.path}.",
                hint=f"Make the folder your own and run: chmod 700 {self.path}",
            )

    @contextlib.contextmanager
    def locked(self, *, exclusive: bool) -> Iterator[None]:
        """Hold the folder's lock for the block. Raises Busy when others hold it for a whole minute."""
        lock_path = self.path / "keystore.lock"
        with naming_full_disk(lock_path):
            descriptor = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            _take_lock(descriptor, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH, self.path)
            yield
        finally:
            os.close(descriptor)

    def is_current(self, snapshot: Snapshot) -> bool:
        """Whether `keystore.json` still is the file that `snapshot` was read from."""
        try:
            now = self.keystore_path.stat()
        except FileNotFoundError:
            return False
        return _identity(now) == snapshot.identity

    def read(self) -> Snapshot | None:
        """`keystore.json`, or None. Raises LooseKeyFile or KeystoreDamaged."""
        return read_private(self.keystore_path)

    def read_tombstones(self) -> bytes | None:
        """`tombstones.json`, or None. Raises LooseKeyFile or KeystoreDamaged."""
        found = read_private(self.tombstones_path)
        if found is None:
            return None
        found.close()
        return found.data

    def write(self, before: Snapshot | None, registry: bytes, tombstones: bytes | None) -> None:
        """Put both in place, or neither. The folder's lock, which the caller holds, keeps `before` newest."""
        contents = {self.keystore_path: registry}
        if tombstones is not None:
            contents = {self.tombstones_path: tombstones} | contents
        self.replace(contents)

    def replace(self, contents: Mapping[Path, bytes | bytearray]) -> None:
        """Put all of `contents` in place, or nothing: all are written beside before the first is renamed.

        What was replaced is overwritten with zeros unless a hard link keeps it. Call it with the lock held.
        Raises DiskFull, and then every file is as it was.
        """
        staged: dict[Path, Path] = {}
        try:
            for path, content in contents.items():
                beside = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
                staged[path] = beside
                with naming_full_disk(path):
                    _write_synced(beside, content)
            for path in contents:
                with _erasing_replaced(path):
                    staged.pop(path).replace(path)
            sync_folder(self.path)
        finally:
            for beside in staged.values():
                erase(beside)

    def rename(self, old: Path, new: Path) -> None:
        """Give a whole file its final name, durably."""
        old.replace(new)
        sync_folder(self.path)

    def clean(self) -> None:
        """Erase what killed writers left half-written. Call it with the exclusive lock held."""
        for name in ("keystore.json", "tombstones.json", "root.key.new"):
            for left in self.path.glob(f".{name}.*.tmp"):
                erase(left)


def _identity(found: os.stat_result) -> tuple[int, int, int, int]:
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size


def read_private(path: Path) -> Snapshot | None:
    """The file at `path`, read whole, or None when there is none.

    Raises LooseKeyFile, or KeystoreDamaged when it is larger than a key store ever is.
    """
    descriptor = open_private(path)
    if descriptor is None:
        return None
    try:
        found = os.fstat(descriptor)
        size = found.st_size
        if size > MAX_FILE_BYTES:
            raise KeystoreDamaged(
                f"{path} has {size} bytes; a key store has at most {MAX_FILE_BYTES}.",
                hint="It is no key store. Restore it from a copy you trust.",
            )
        with os.fdopen(os.dup(descriptor), "rb") as file:
            return Snapshot(file.read(MAX_FILE_BYTES), _identity(found), descriptor)
    except BaseException:
        os.close(descriptor)
        raise


def erase(path: Path) -> None:
    """Overwrite the file with zeros and remove it; nothing happens when it is absent."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return
    try:
        path.unlink(missing_ok=True)
        _overwrite_unlinked(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _erasing_replaced(path: Path) -> Iterator[None]:
    """Overwrite the file that was at `path` once the block has renamed another over it."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield
        return
    try:
        yield
        _overwrite_unlinked(descriptor)
    finally:
        os.close(descriptor)


def _overwrite_unlinked(descriptor: int) -> None:
    found = os.fstat(descriptor)
    if found.st_nlink > 0:
        return  # a hard link keeps this version: it is somebody's copy, and not ours to spoil
    with contextlib.suppress(OSError):  # the new version is in place; erasing the old one is best effort
        os.pwrite(descriptor, bytes(found.st_size), 0)
        os.fsync(descriptor)


def _write_synced(path: Path, content: bytes | bytearray) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        remaining = memoryview(content)
        while remaining:
            remaining = remaining[os.write(descriptor, remaining) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _take_lock(
    descriptor: int, operation: int, folder: Path, monotonic: Callable[[], float] = time.monotonic
) -> None:
    until_s = monotonic() + LOCK_PATIENCE_S
    while True:
        try:
            fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if monotonic() > until_s:
                raise Busy(
                    f"Another process has held the lock of the key store {folder} for "
                    f"{LOCK_PATIENCE_S:.0f} seconds.",
                    hint="Look for a stopped Stoker process, and let it continue or end it.",
                ) from error
            time.sleep(_LOCK_PAUSE_S)
        else:
            return
