"""File key stores for tests, cheap to open."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Final

from stoker.core.clock import Clock, ManualClock
from stoker.keys.file_backend import MAX_WRAPS, FileBackend
from stoker.keys.root import ScryptCost

CHEAP: Final = ScryptCost(log2_n=8)
"""A cost for tests only: about a millisecond."""

PASSPHRASE: Final = "correct horse battery"
SCOPE: Final = "dataset/own-text/0123456789abcdef0123456789abcdef"


def open_store(
    folder: Path,
    *,
    clock: Clock | None = None,
    passphrase: str | None = None,
    max_wraps: int = MAX_WRAPS,
    cost: ScryptCost = CHEAP,
) -> FileBackend:
    asked = None if passphrase is None else lambda: passphrase
    return FileBackend.open(
        folder, clock=clock or ManualClock(), passphrase=asked, cost=cost, max_wraps=max_wraps
    )


def in_child(action: Callable[[], None]) -> int:
    """Run `action` in a forked process; the exit status, or minus the signal that killed it."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            action()
            status = 0
        finally:
            if status:
                traceback.print_exc(file=sys.stderr)
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


KILLED: Final = -signal.SIGKILL
