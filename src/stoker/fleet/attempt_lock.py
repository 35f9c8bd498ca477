"""The lock that says whether processes of an attempt exist: each of them holds it while it lives.

See docs/design/fleet.md, "The run's folder".
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from stoker.core.atomic import naming_full_disk
from stoker.core.errors import Busy
from stoker.fleet.run_folder import RunFolder


def lock_is_free(path: Path) -> bool:
    """Whether nobody holds the lock; one that does not exist is held by nobody."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


def held_lock(folder: RunFolder, part: str | None = None) -> Path | None:
    """The lock of an attempt of which processes exist; None when no process of the run's ranks does.

    `part`: only those of a node, where each has locks of its own; empty: only those of whole attempts.
    """
    return next((each for each in folder.attempt_locks(part) if not lock_is_free(each)), None)


def take_lock(folder: RunFolder, attempt: int, *, beside_others: bool, part: str = "") -> int:
    """Lock `attempt` and return the descriptor, for its processes to inherit.

    Raises Busy when processes of it exist; or, unless `beside_others`, processes of any other attempt.
    Of `part`, where a node's is named: what other nodes have is their own.
    """
    if not beside_others and (held := held_lock(folder, part)) is not None:
        raise _busy(held)
    path = folder.attempt_lock(attempt, part)
    with naming_full_disk(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise _busy(path) from error
    return descriptor


def _busy(path: Path) -> Busy:
    return Busy(
        f"Processes of an earlier attempt of this run still exist: {path} is locked.",
        hint="They end within seconds once their supervisor is gone. Run it again then.",
    )
