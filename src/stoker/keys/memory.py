"""Keeping secrets out of swap and core files, where the platform can. See docs/design/keys.md, "Memory"."""

from __future__ import annotations

import ctypes
import mmap
import resource
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

_PR_GET_DUMPABLE: Final = 3
_PR_SET_DUMPABLE: Final = 4


def _libc_call(name: str, *types: type[ctypes._SimpleCData[int]]) -> Callable[..., int] | None:
    """The C function `name` of the running process, or None where there is none."""
    try:
        function = getattr(ctypes.CDLL(None, use_errno=True), name)
    except (AttributeError, OSError, TypeError):
        return None
    function.argtypes = list(types)
    function.restype = ctypes.c_int
    call: Callable[..., int] = function
    return call


_mlock = _libc_call("mlock", ctypes.c_size_t, ctypes.c_size_t)
_munlock = _libc_call("munlock", ctypes.c_size_t, ctypes.c_size_t)
_prctl = (
    _libc_call("prctl", ctypes.c_int, *(ctypes.c_ulong,) * 4) if sys.platform.startswith("linux") else None
)


class LockedPages:
    """Counts how many secrets lie in each locked page, because one `munlock` undoes every `mlock`."""

    def __init__(self) -> None:
        self._holders: dict[int, int] = {}
        self._guard = threading.RLock()

    def lock(self, address: int, length: int) -> bool:
        """Keep the pages that hold these bytes out of swap; False when the platform or a limit refuses."""
        if _mlock is None:
            return False
        with self._guard:
            if _mlock(address, length) != 0:
                return False
            for page in _pages(address, length):
                self._holders[page] = self._holders.get(page, 0) + 1
            return True

    def unlock(self, address: int, length: int) -> None:
        """Give up one `lock` of the same bytes; a page stays locked while another secret lies in it."""
        with self._guard:
            for page in _pages(address, length):
                remaining = self._holders.get(page, 0) - 1
                if remaining > 0:
                    self._holders[page] = remaining
                elif self._holders.pop(page, None) is not None and _munlock is not None:
                    _munlock(page * mmap.PAGESIZE, mmap.PAGESIZE)

    @property
    def count(self) -> int:
        """How many pages are locked now."""
        return len(self._holders)


def _pages(address: int, length: int) -> range:
    return range(address // mmap.PAGESIZE, (address + length - 1) // mmap.PAGESIZE + 1)


LOCKED_PAGES: Final = LockedPages()
"""The pages of this process that hold secrets."""


def harden_process() -> None:
    """Forbid core files and reading this process's memory by other processes of the same user.

    Sets RLIMIT_CORE to 0 and PR_SET_DUMPABLE to 0. Where the platform has neither, nothing happens;
    `memory_protection` says what holds.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if _prctl is not None:
        _prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def let_be_looked_into() -> None:
    """Undo the second half of `harden_process`, for a process that holds no secret: it may then write the map
    of its users. `harden_process` ends it.
    """
    if _prctl is not None:
        _prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class MemoryProtection:
    """What holds for this process now: no core files, not dumpable, and secrets kept out of swap."""

    no_core_files: bool
    undumpable: bool
    can_lock: bool


def memory_protection() -> MemoryProtection:
    """Ask the platform, and try to lock one page, rather than assume."""
    probe = mmap.mmap(-1, mmap.PAGESIZE)
    pinned = ctypes.c_char.from_buffer(probe)
    address = ctypes.addressof(pinned)
    can_lock = LOCKED_PAGES.lock(address, 1)
    if can_lock:
        LOCKED_PAGES.unlock(address, 1)
    del pinned
    probe.close()
    return MemoryProtection(
        no_core_files=resource.getrlimit(resource.RLIMIT_CORE) == (0, 0),
        undumpable=_prctl is not None and _prctl(_PR_GET_DUMPABLE, 0, 0, 0, 0) == 0,
        can_lock=can_lock,
    )
