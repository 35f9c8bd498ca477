"""The lease that a feed reads under: asked before each chunk is opened and each batch is handed out.

See docs/design/feed.md, "Leases".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, Protocol, runtime_checkable

from stoker.keys.errors import LeaseExpired, LeaseRefused
from stoker.keys.partition import require_nothing

LEASE_OVER: Final = (LeaseExpired, LeaseRefused)
"""What says that nothing may be read any more, so that what was read is overwritten at once."""


@runtime_checkable
class LeasedSplit(Protocol):
    """A split that is read under a lease."""

    @property
    def require_lease(self) -> Callable[[], None]:
        """Raises LeaseExpired or LeaseRefused when called, unless the lease is good at that moment."""
        ...


def lease_of_splits(splits: Iterable[object]) -> Callable[[], None]:
    """What to call before a batch of these splits is handed out."""
    asked: list[Callable[[], None]] = []
    for split in splits:
        if isinstance(split, LeasedSplit) and split.require_lease not in (require_nothing, *asked):
            asked.append(split.require_lease)
    if not asked:
        return require_nothing
    if len(asked) == 1:
        return asked[0]

    def require_all() -> None:
        for require in asked:
            require()

    return require_all
