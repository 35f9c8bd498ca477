"""Objects of a local folder while they are written, one by one or together. See docs/design/store.md."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final

from stoker.core.atomic import naming_full_disk, sync_folder
from stoker.store.ranges import BytesLike
from stoker.store.streams import ObjectSink, begin_writing_back

if TYPE_CHECKING:
    from stoker.store.local import LocalFolder

FOLDER_ATTEMPTS: Final = 5
"""How often a folder is made that a delete beside us takes away."""
NO_ANONYMOUS_FILES: Final = {errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT}
"""What a file system answers that has no files without a name."""
_BEGIN_BYTES: Final = 32 << 20
"""So much is written before the disk is asked to begin with it."""
_MOST_OPEN: Final = 64
"""So many objects are put off before those are made durable: each is an open file."""


class LocalSink:
    """An object of a LocalFolder while it is written: no name, no bytes for others, until it is whole."""

    def __init__(self, folder: LocalFolder, key: str, path: Path) -> None:
        self._folder = folder
        self._key = key
        self._path = path
        self._made: list[Path] = []
        self._descriptor = -1
        self._temporary: Path | None = None
        self._done = 0
        self._begun = 0
        self._together: Together | None = None

    def __enter__(self) -> LocalSink:
        with self.naming():
            if self._path.exists():
                raise FileExistsError(errno.EEXIST, "exists", str(self._path))
            for attempt in range(FOLDER_ATTEMPTS):
                self._made += self._folder.make_folders(self._path.parent)
                try:
                    self._open()
                    break
                except FileNotFoundError:
                    # A delete beside us has just taken the empty folder away.
                    if attempt + 1 == FOLDER_ATTEMPTS:
                        raise
        return self

    def _open(self) -> None:
        try:
            flags = os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC
            self._descriptor = os.open(self._path.parent, flags, 0o600)
        except OSError as error:
            if error.errno not in NO_ANONYMOUS_FILES or not self._path.parent.is_dir():
                raise
            self._temporary = self._path.with_name(f"{self._path.name}#{secrets.randbelow(10**12)}")
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            self._descriptor = os.open(self._temporary, flags, 0o600)

    def write(self, data: BytesLike) -> int:
        """Append all of it, and let the disk begin. Raises DiskFull."""
        view, begin = memoryview(data).cast("B"), self._done
        with self.naming():
            while self._done - begin < len(view):
                self._done += os.write(self._descriptor, view[self._done - begin :])
        if self._done - self._begun >= _BEGIN_BYTES:
            self._begin()
        return len(view)

    def _begin(self) -> None:
        begin_writing_back(self._descriptor, self._begun, self._done - self._begun)
        self._begun = self._done

    def put_off(self, together: Together) -> None:
        """The object's end is that of `together`; call it inside the block."""
        self._together = together

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.drop()
        elif self._together is not None:
            self._begin()
            self._together.add(self)
        else:
            settle([self])

    def sync(self) -> None:
        """Its bytes are durable; it has no name yet."""
        with self.naming():
            os.fsync(self._descriptor)

    def name(self) -> set[Path]:
        """Give it its name; says which folders must be synced for that to last. It is closed."""
        existing = str(self._temporary or f"/proc/self/fd/{self._descriptor}")
        with self.naming():
            for attempt in range(FOLDER_ATTEMPTS):
                try:
                    self._link(existing)
                    break
                except FileNotFoundError:
                    if attempt + 1 == FOLDER_ATTEMPTS:
                        raise
                    self._made += self._folder.make_folders(self._path.parent)
        changed = {self._path.parent, *(made.parent for made in self._made)}
        self._made = []
        self.drop()
        return changed

    def _link(self, existing: str) -> None:
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._folder.link(existing, self._path.name, folder)
        finally:
            os.close(folder)

    def drop(self) -> None:
        """Close it; without a name nothing stays of it, nor of the folders that were made for it."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        if self._temporary is not None:
            self._temporary.unlink(missing_ok=True)
        for folder in reversed(self._made):
            with contextlib.suppress(OSError):
                folder.rmdir()

    @contextlib.contextmanager
    def naming(self) -> Iterator[None]:
        """Tell the system's errors as the store's, naming the object, and a full disk as DiskFull."""
        with self._folder.naming(self._key), naming_full_disk(self._path):
            yield


class Together:
    """Objects that become durable together, when the block ends: the disk is waited for once.

    For each, `take` its sink inside the sink's own block; threads may do so beside each other. Until the
    block ends an object may have no name. After an error those without one are gone, and some may be there.
    Objects of other stores than folders are there at the end of their own blocks, as ever.
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._written: list[LocalSink] = []

    def take(self, sink: ObjectSink) -> None:
        """The end of this object is put off to the end of the block."""
        if isinstance(sink, LocalSink):
            sink.put_off(self)

    def add(self, sink: LocalSink) -> None:
        """The sink's block has ended well; the object is this one's now."""
        with self._guard:
            self._written.append(sink)
            if len(self._written) < _MOST_OPEN:
                return
            full, self._written = self._written, []
        settle(full)

    def __enter__(self) -> Together:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            settle(self._written)
        else:
            for sink in reversed(self._written):
                sink.drop()


def settle(sinks: Sequence[LocalSink]) -> None:
    """Make these objects durable and give them their names; after an error the nameless ones are gone."""
    changed: set[Path] = set()
    try:
        for sink in sinks:
            sink.sync()
        for sink in sinks:
            changed |= sink.name()
        for folder in sorted(changed):
            with sinks[0].naming():
                sync_folder(folder)
    finally:
        for sink in sinks:
            sink.drop()
