"""Ciphertext kept on the node, so that an object crosses the network once. See docs/design/store.md.

Only sealed objects come here, byte for byte as in the store; what is wrong with a copy is noticed by whoever
opens it, as with the store itself.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from stoker.core.atomic import naming_full_disk
from stoker.core.errors import DiskFull
from stoker.store.errors import CorruptObject, StoreUnreachable, TruncatedStream
from stoker.store.objects import ObjectStore, check_key
from stoker.store.ranges import FileSource, RangeSource

_COPY_BYTES: Final = 1 << 23


class NodeCache:
    """Whole objects as files under `folder`, shared by all processes of the node, at most `limit_bytes`."""

    def __init__(self, folder: Path, store: ObjectStore, limit_bytes: int) -> None:
        """Raises StoreUnreachable when the folder cannot be made."""
        self._objects = folder / "objects"
        self._partial = folder / "partial"
        self._locks = folder / "locks"
        self._store = store
        self._limit_bytes = limit_bytes
        try:
            for path in (folder, self._objects, self._partial, self._locks):
                path.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise StoreUnreachable(
                f"{folder} cannot be used as a cache: {error.strerror}.", hint="Name a folder that you own."
            ) from error

    def fetch(self, key: str, expected_bytes: int, *, digest: bytes | None = None) -> RangeSource:
        """The object, from the cache or brought in now by one process while others wait.

        With `digest`, a copy that does not hold is fetched again, once. When the cache has no room for it,
        the object is read from the store instead. Raises TruncatedStream when the stored object has not
        `expected_bytes`, CorruptObject when it has another digest, and what the store raises.
        """
        path = self._objects / check_key(key)
        with self._single_flight(key):
            kept = self._kept(path, expected_bytes, digest)
            if kept is not None:
                return kept
            if expected_bytes > self._limit_bytes:
                return self._store.source(key)
            try:
                self._make_room(expected_bytes)
                self._bring(key, path, expected_bytes, digest)
                return FileSource(path)
            except DiskFull:
                return self._store.source(key)

    def drop(self, prefix: str) -> None:
        """Forget every object under the folder `prefix`; what is open stays readable until closed."""
        path = self._objects / check_key(prefix)
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)

    def size_bytes(self) -> int:
        """How much the cache holds now."""
        return sum(size for _, size, _ in self._entries())

    def _kept(self, path: Path, expected_bytes: int, digest: bytes | None) -> FileSource | None:
        try:
            source = FileSource(path)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None
        if source.size() == expected_bytes and (digest is None or _digest_of(source) == digest):
            with contextlib.suppress(OSError):
                os.utime(path)
            return source
        source.close()
        path.unlink(missing_ok=True)
        return None

    def _bring(self, key: str, path: Path, expected_bytes: int, digest: bytes | None) -> None:
        found_bytes = self._store.size(key)
        if found_bytes != expected_bytes:
            raise TruncatedStream(
                f"{key} has {found_bytes} bytes, where {expected_bytes} were recorded.",
                hint="The object was changed or damaged. Restore it from a copy.",
            )
        temporary = self._partial / secrets.token_hex(16)
        hasher = hashlib.sha256()
        try:
            with naming_full_disk(self._objects):
                descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                with os.fdopen(descriptor, "wb") as file:
                    for start in range(0, expected_bytes, _COPY_BYTES):
                        part = self._store.get_range(key, start, min(_COPY_BYTES, expected_bytes - start))
                        file.write(part)
                        if digest is not None:
                            hasher.update(part)
                if digest is not None and hasher.digest() != digest:
                    raise CorruptObject(
                        f"{key} was changed: its SHA-256 is not the recorded one.",
                        hint="Restore the object from a copy.",
                    )
                path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def _make_room(self, wanted_bytes: int) -> None:
        """Remove the objects that were used longest ago until `wanted_bytes` fit under the limit."""
        entries = sorted(self._entries())
        held = sum(size for _, size, _ in entries)
        for _, size, path in entries:
            if held + wanted_bytes <= self._limit_bytes:
                return
            path.unlink(missing_ok=True)
            held -= size

    def _entries(self) -> Iterator[tuple[int, int, Path]]:
        for folder, _, names in os.walk(self._objects):
            for name in names:
                path = Path(folder) / name
                with contextlib.suppress(FileNotFoundError):
                    facts = path.stat()
                    yield facts.st_mtime_ns, facts.st_size, path

    @contextlib.contextmanager
    def _single_flight(self, key: str) -> Iterator[None]:
        lock = self._locks / hashlib.sha256(key.encode()).hexdigest()[:2]
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _digest_of(source: FileSource) -> bytes:
    digest, size = hashlib.sha256(), source.size()
    for start in range(0, size, _COPY_BYTES):
        digest.update(source.read(start, min(_COPY_BYTES, size - start)))
    return digest.digest()
