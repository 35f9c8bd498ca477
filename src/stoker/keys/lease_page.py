"""Until when a lease is good, in a page of memory that ranks read for every chunk. See docs/design/keys.md.

The key agent writes it; a rank inherits the descriptor and can only read: the kernel refuses it any other way
(F_SEAL_FUTURE_WRITE). Looking takes one read of 8 bytes and one of the clock, and no call of the kernel.
"""

from __future__ import annotations

import enum
import fcntl
import mmap
import os
import stat
import sys
import time
from collections.abc import Mapping
from typing import Final, Protocol

from stoker.keys.errors import AgentLost, LeaseExpired, LeaseRefused

LEASE_FD_NAME: Final = "STOKER_LEASE_FD"
"""The variable that tells a rank the number of its descriptor of the page."""

PAGE_BYTES: Final = 4096
MAGIC: Final = int.from_bytes(b"STKLEAS1", sys.byteorder)
_MAGIC, _GOOD_UNTIL, _ENDING = 0, 1, 2
"""Words of 8 bytes: what the page is, nanoseconds of CLOCK_MONOTONIC, and why the lease was ended."""

_F_ADD_SEALS: Final = 1033
_F_GET_SEALS: Final = 1034
_SEAL_SEAL, _SEAL_SHRINK, _SEAL_GROW, _SEAL_FUTURE_WRITE = 0x1, 0x2, 0x4, 0x10
_SEALS: Final = _SEAL_SEAL | _SEAL_SHRINK | _SEAL_GROW | _SEAL_FUTURE_WRITE


class LeaseEnd(enum.IntEnum):
    """Why a lease was ended before its time."""

    NOT_YET = 0
    """It has not been given, or it is good, or its time ran out."""

    REVOKED = 1
    """The supervisor ended it: the run is over, or its review, dataset or key is not there any more."""

    ISOLATION = 2
    """A probe found a way out of the run's network."""


_SAID: Final[Mapping[int, str]] = {
    LeaseEnd.REVOKED: "was revoked",
    LeaseEnd.ISOLATION: "was revoked, because a way out of the run's network was found",
}


class LeaseSign(Protocol):
    """Where a key agent shows until when its lease is good."""

    def show(self, good_for_s: float) -> None:
        """The lease is good for so long from now."""
        ...

    def end(self, why: LeaseEnd) -> None:
        """No chunk is opened from now on."""
        ...


class LeasePage:
    """The page as the key agent holds it: not good until `show` says so, and never again after `end`."""

    def __init__(self) -> None:
        """Raises OSError where the platform has no such memory; Linux has since 5.1."""
        self.descriptor: Final = _memory()
        try:
            self._memory = mmap.mmap(self.descriptor, PAGE_BYTES)
            # From here on our own mapping stays writable, and no other can be made.
            fcntl.fcntl(self.descriptor, _F_ADD_SEALS, _SEALS)
        except OSError:
            os.close(self.descriptor)
            raise
        self._words = memoryview(self._memory).cast("Q")
        self._words[_MAGIC] = MAGIC

    @classmethod
    def make(cls) -> LeasePage | None:
        """A page, or None where the platform has none; then leases end when ranks next ask for keys."""
        try:
            return cls()
        except OSError:
            return None

    def show(self, good_for_s: float) -> None:
        """The lease is good for so long from now. Does nothing once it was ended or the page was closed."""
        if self._memory.closed:
            return
        if self._words[_ENDING] == LeaseEnd.NOT_YET:
            self._words[_GOOD_UNTIL] = time.monotonic_ns() + max(0, int(good_for_s * 1e9))
            if self._words[_ENDING] != LeaseEnd.NOT_YET:
                self._words[_GOOD_UNTIL] = 0  # ended by another thread at this moment

    def end(self, why: LeaseEnd) -> None:
        """No chunk is opened from now on; the first reason stays. A closed page has ended already."""
        if self._memory.closed:
            return
        if self._words[_ENDING] == LeaseEnd.NOT_YET:
            self._words[_ENDING] = why
        self._words[_GOOD_UNTIL] = 0

    def close(self) -> None:
        """End the lease and give the page back; who inherited it reads on. May be called again."""
        if self._memory.closed:
            return
        self.end(LeaseEnd.REVOKED)
        self._words.release()
        self._memory.close()
        os.close(self.descriptor)


class LeaseView:
    """The page as a rank holds it. `require` is cheap enough for every chunk and every batch."""

    def __init__(self, descriptor: int) -> None:
        """Takes over `descriptor`. Raises AgentLost unless it is such a page that nobody can change now."""
        try:
            found = os.fstat(descriptor)
            seals = fcntl.fcntl(descriptor, _F_GET_SEALS) if sys.platform.startswith("linux") else _SEALS
            if not stat.S_ISREG(found.st_mode) or found.st_size != PAGE_BYTES or seals & _SEALS != _SEALS:
                raise AgentLost("The page of the lease is not the one that a key agent makes.")
            self._memory = mmap.mmap(descriptor, PAGE_BYTES, prot=mmap.PROT_READ)
        except OSError as error:
            raise AgentLost("The page of the lease cannot be read.") from error
        finally:
            os.close(descriptor)
        self._words = memoryview(self._memory).cast("Q")
        if self._words[_MAGIC] != MAGIC:
            raise AgentLost("The page of the lease holds something else.")

    def require(self) -> None:
        """Raises LeaseExpired or LeaseRefused unless the lease is good at this moment."""
        if time.monotonic_ns() >= self._words[_GOOD_UNTIL]:
            self._refuse()

    @property
    def good(self) -> bool:
        """Whether the lease is good at this moment."""
        return time.monotonic_ns() < self._words[_GOOD_UNTIL]

    def _refuse(self) -> None:
        ending = self._words[_ENDING]
        if ending == LeaseEnd.NOT_YET:
            raise LeaseExpired(
                "The run's lease is over: nobody renewed it in time.",
                hint="The supervisor renews it while the run may go on; look there for why it did not.",
            )
        raise LeaseRefused(
            f"The run's lease {_SAID.get(ending, 'was ended')}.",
            hint="Go on from its last checkpoint with `stoker run resume` once it may go on.",
        )


def _memory() -> int:
    if not hasattr(os, "memfd_create"):
        raise OSError("this platform has no sealed memory")
    descriptor = os.memfd_create("stoker-lease", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, PAGE_BYTES)
    return descriptor
