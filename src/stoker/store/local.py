"""A folder of this machine as an object store: whole objects or none, durable, closed to other users.

The layout is the one of obstore's LocalStore (`a/b/c` is the file `a/b/c`), so either can read the other's.
Why this is not LocalStore itself: docs/decisions/0301-local-folder.md. See docs/design/store.md.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from stoker.core.atomic import naming_full_disk, sync_folder
from stoker.store.errors import ObjectExists, ObjectMissing, StoreUnreachable, UnsafeStore
from stoker.store.local_sink import FOLDER_ATTEMPTS, NO_ANONYMOUS_FILES, LocalSink
from stoker.store.ranges import BytesLike, FileSource, check_range, read_exactly, regular_size

_LEFTOVER = re.compile(r".+#\d+")
"""What a named temporary file looks like, here and in LocalStore; such names are no objects."""

_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


class LocalFolder:
    """Objects as files of mode 0600 in folders of mode 0700, whatever the umask allows beyond that."""

    def __init__(self, root: Path) -> None:
        self._root = root
        try:
            root.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._root = root.resolve(strict=True)
            if not self._root.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(root))
        except OSError as error:
            with naming_full_disk(root):
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise
            raise StoreUnreachable(
                f"{root} cannot be used as a store: {error.strerror}.",
                hint="Name a folder that you own, such as file:///data/stoker.",
            ) from error

    @property
    def place(self) -> str:
        return str(self._root)

    def create(self, key: str, data: BytesLike) -> None:
        """Write, sync, then link under the final name; the kernel refuses a name that is taken."""
        path = self._root / key
        with self.naming(key), naming_full_disk(path):
            if path.exists():
                raise FileExistsError(errno.EEXIST, "exists", str(path))
            for attempt in range(FOLDER_ATTEMPTS):
                try:
                    self._create_in_folder(path, data)
                    return
                except FileNotFoundError:
                    # A delete beside us has just taken the empty folder away.
                    if attempt + 1 == FOLDER_ATTEMPTS:
                        raise

    def _create_in_folder(self, path: Path, data: BytesLike) -> None:
        made = self.make_folders(path.parent)
        try:
            self._write_new(path, data)
        except BaseException:
            for folder in reversed(made):
                with contextlib.suppress(OSError):
                    folder.rmdir()
            raise
        sync_folder(path.parent)
        for folder in made:
            sync_folder(folder.parent)

    def writing(self, key: str) -> LocalSink:
        """An object that is written bit by bit; the disk begins with the first block."""
        return LocalSink(self, key, self._root / key)

    def reading(self, key: str) -> FileSource:
        """An object that stays open, for one who reads all of it."""
        with self.naming(key):
            return FileSource(self._root / key)

    def make_folders(self, folder: Path) -> list[Path]:
        """Make the folder; says which were made, the outermost first."""
        missing = []
        while not folder.is_dir():
            missing.append(folder)
            folder = folder.parent
        missing.reverse()
        for path in missing:
            path.mkdir(exist_ok=True, mode=0o700)
        return missing

    def _write_new(self, path: Path, data: BytesLike) -> None:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            try:
                descriptor = os.open(".", os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600, dir_fd=folder)
            except OSError as error:
                if error.errno not in NO_ANONYMOUS_FILES:
                    raise
                self._write_named(path, data, folder)
                return
            try:
                _write_and_sync(descriptor, data)
                self.link(f"/proc/self/fd/{descriptor}", path.name, folder)
            finally:
                os.close(descriptor)
        finally:
            os.close(folder)

    def _write_named(self, path: Path, data: BytesLike, folder: int) -> None:
        temporary = f"{path.name}#{secrets.randbelow(10**12)}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        descriptor = os.open(temporary, flags, 0o600, dir_fd=folder)
        try:
            try:
                _write_and_sync(descriptor, data)
            finally:
                os.close(descriptor)
            self.link(temporary, path.name, folder)
        finally:
            os.unlink(temporary, dir_fd=folder)

    def link(self, existing: str, name: str, folder: int) -> None:
        """linkat(2), which follows the link in /proc to an unnamed file and refuses a name that is taken."""
        try:
            os.link(existing, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=True)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            raise UnsafeStore(
                f"The file system of {self.place} has no hard links, so a create cannot be conditional.",
                hint="Put the store on a local file system such as ext4 or xfs, or use an object store.",
            ) from error

    def size(self, key: str) -> int:
        with self.naming(key):
            path = self._root / key
            if path.is_dir():
                raise FileNotFoundError(errno.ENOENT, "is a folder", str(path))
            found = path.stat()
            if not stat.S_ISREG(found.st_mode):
                raise FileNotFoundError(errno.ENOENT, "is no plain file", str(path))
            return found.st_size

    def read(self, key: str, start: int, length: int) -> memoryview:
        return self.read_many(key, [(start, length)])[0]

    def read_many(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[memoryview]:
        with self.naming(key):
            # A FIFO in an object's place must not make us wait for a writer.
            descriptor = os.open(self._root / key, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            try:
                size = regular_size(descriptor, str(self._root / key))
                found = []
                for start, length in ranges:
                    check_range(key, start, length, size)
                    target = memoryview(bytearray(length))
                    read_exactly(descriptor, target, start, key)
                    found.append(target)
                return found
            finally:
                os.close(descriptor)

    def list(self, prefix: str) -> Iterator[str]:
        top = self._root / prefix if prefix else self._root
        for folder, folders, files in os.walk(top):
            folders.sort()
            for name in sorted(files):
                if not _LEFTOVER.fullmatch(name):
                    yield str((Path(folder) / name).relative_to(self._root))

    def delete(self, key: str) -> None:
        path = self._root / key
        with self.naming(key), contextlib.suppress(FileNotFoundError):
            path.unlink()
            self._remove_empty(path.parent)

    def delete_prefix(self, prefix: str) -> int:
        """Remove everything under the folder, what a killed writer left included."""
        count = sum(1 for _ in self.list(prefix))
        top = self._root / prefix
        with self.naming(prefix):
            if top.is_dir():
                shutil.rmtree(top)
                self._remove_empty(top.parent)
        return count

    def _remove_empty(self, folder: Path) -> None:
        while folder != self._root:
            try:
                folder.rmdir()
            except OSError:
                return
            folder = folder.parent

    @contextlib.contextmanager
    def naming(self, key: str) -> Iterator[None]:
        """Tell the system's errors as the store's, naming the object."""
        try:
            yield
        except FileExistsError as error:
            raise object_exists(key, self.place) from error
        except (FileNotFoundError, NotADirectoryError) as error:
            raise object_missing(key, self.place) from error
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise StoreUnreachable(
                f"{key} in {self.place}: {error.strerror}.",
                hint="Check the folder's owner and modes, and the health of its disk.",
            ) from error


def _write_and_sync(descriptor: int, data: BytesLike) -> None:
    view = memoryview(data).cast("B")
    done = 0
    while done < len(view):
        done += os.write(descriptor, view[done:])
    os.fsync(descriptor)


def object_exists(key: str, place: str) -> ObjectExists:
    return ObjectExists(
        f"{key} is already in the store {place}.",
        hint="Objects are never replaced. Another process wrote it, or this was done before.",
    )


def object_missing(key: str, place: str) -> ObjectMissing:
    return ObjectMissing(
        f"{key} is not in the store {place}.",
        hint="It was deleted, or the store is not the one it was written to. Restore it from a copy.",
    )
