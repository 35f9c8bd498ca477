"""Files that are whole or absent, and a full disk that is named."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from stoker.core.errors import Busy, DiskFull

_FULL = {errno.ENOSPC, errno.EDQUOT}


def write_atomic(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Put `data` at `path` whole: written beside it, synced, renamed over it; nothing is left on failure.

    Raises DiskFull when there is no space.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    with naming_full_disk(path):
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(descriptor)
            temporary.replace(path)
            sync_folder(path.parent)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def sync_folder(path: Path) -> None:
    """Make the entries of the folder `path` durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def naming_full_disk(place: Path | str) -> Iterator[None]:
    """Turn "no space left" into DiskFull that names `place`; other errors pass unchanged."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise DiskFull(
                f"No space is left on the file system that holds {place}.",
                hint="Free some space or point STOKER_HOME at a larger disk, then run it again.",
            ) from error
        raise


_HELD: set[int] = set()
"""Descriptors of the locks that this process holds."""


@contextlib.contextmanager
def exclusive(lock_path: Path, what: str) -> Iterator[None]:
    """Hold an advisory lock for the block; the kernel drops it when the process dies.

    Processes that are forked meanwhile do not hold it: else it would outlive a parent that was killed, for as
    long as they take to notice. Raises Busy at once when another process holds it, DiskFull when the lock's
    file cannot be made.
    """
    with naming_full_disk(lock_path):
        lock_path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    _HELD.add(descriptor)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Busy(
                f"Another process is working on {what}.",
                hint="Wait for it to end, or stop it, then run it again.",
            ) from error
        yield
    finally:
        if descriptor in _HELD:  # a child that unwinds has let go of it already
            _HELD.discard(descriptor)
            os.close(descriptor)


def _let_go_in_child() -> None:
    while _HELD:
        os.close(_HELD.pop())


os.register_at_fork(after_in_child=_let_go_in_child)
