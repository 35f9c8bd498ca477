"""What a scan report says of the recall that terms ask for. Pure. See docs/design/policy.md, "The gate"."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol


class Interval(Protocol):
    """A measured share."""

    @property
    def low(self) -> float:
        """The lower bound of its 95 % interval."""
        ...


def worst_recall(recall: Mapping[str, Interval], kinds: Iterable[str]) -> float | None:
    """The least lower bound of any of `kinds`, those that a policy treats; None where nothing was measured.

    A kind of which no canary was planted counts as 0: nothing is known of it.
    """
    if not recall:
        return None
    return min((recall[kind].low if kind in recall else 0.0 for kind in kinds), default=1.0)
