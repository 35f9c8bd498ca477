"""`ledger.head`: the newest signed checkpoint, kept outside the database, so that a cut tail is noticed.

The file is written after each commit. It may be behind the database after a crash, never ahead of it, unless
the database was rolled back. See docs/design/ledger.md, "The head file".
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from stoker.core.atomic import naming_full_disk, write_atomic
from stoker.core.errors import DiskFull
from stoker.ledger.notes import MAX_NOTE_BYTES, MalformedNote, SignedCheckpoint, verify_checkpoint


class HeadFile:
    """The head of one ledger, beside its key."""

    def __init__(self, key_path: Path) -> None:
        self.path = key_path.with_suffix(".head")
        self._lock_path = key_path.with_suffix(".lock")

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Exclude other processes of this machine for the block; the kernel lets go when a process dies."""
        with naming_full_disk(self._lock_path):
            self._lock_path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def text(self) -> str | None:
        """What the file holds, or None when there is none. Undecodable bytes survive as lone surrogates."""
        try:
            with self.path.open("rb") as file:
                return file.read(MAX_NOTE_BYTES + 1).decode("utf-8", "surrogateescape")
        except FileNotFoundError:
            return None

    def read(self, public_key: bytes) -> SignedCheckpoint | None:
        """The checkpoint in the file, or None when there is no file.

        Raises MalformedNote and BadSignature when it is not a checkpoint of `public_key`'s log.
        """
        text = self.text()
        return None if text is None else verify_checkpoint(text, public_key)

    def replace(self, checkpoint: SignedCheckpoint) -> None:
        """Write the file, whatever it held. Raises DiskFull."""
        write_atomic(self.path, checkpoint.text.encode())

    def advance(self, checkpoint: SignedCheckpoint, public_key: bytes) -> None:
        """Write the file when it is older than `checkpoint`, which has just been committed.

        A file that cannot be written stays behind and is caught up by the next act: the act itself stands.
        """
        with contextlib.suppress(OSError, DiskFull, MalformedNote), self.locked():
            before = self.read(public_key)
            if before is None or before.size < checkpoint.size:
                self.replace(checkpoint)
