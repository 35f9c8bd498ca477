"""How many requests a store was asked, and what became of them, for reports. See docs/design/store.md."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from threading import Lock
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, slots=True)
class StoreCounts:
    """What one open store of this process has done so far."""

    requests: int = 0
    """Everything that was sent: first tries, retries, hedges and pages of lists."""
    retries: int = 0
    """Requests that were sent again because the first answer was none or a bad one."""
    hedges: int = 0
    """Second requests for a range whose first answer took longer than most."""
    hedges_won: int = 0
    """Hedges whose answer came first."""
    given_up: int = 0
    """Operations that failed after all tries."""
    short_of_budget: int = 0
    """Operations that could have been tried again, had the retry budget not been spent."""
    found_own: int = 0
    """Creates whose answer was lost and whose object was then found in the store, byte for byte."""
    bytes_read: int = 0
    """Bytes of objects that callers got."""
    bytes_written: int = 0
    """Bytes of objects that were created."""

    def since(self, earlier: StoreCounts) -> StoreCounts:
        """What came after `earlier`, a reading of the same store."""
        return StoreCounts(
            **{one.name: getattr(self, one.name) - getattr(earlier, one.name) for one in fields(self)}
        )


@runtime_checkable
class CountsRequests(Protocol):
    """A back end that counts."""

    def counts(self) -> StoreCounts:
        """The counts up to now."""
        ...


class Tally:
    """Counts that several threads add to."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._counts = StoreCounts()

    def add(self, **more: int) -> None:
        """Add to the named counts."""
        with self._lock:
            self._counts = replace(
                self._counts, **{name: getattr(self._counts, name) + count for name, count in more.items()}
            )

    def read(self) -> StoreCounts:
        """The counts now."""
        with self._lock:
            return self._counts
