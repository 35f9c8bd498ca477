"""Starting an attempt: on this node, or on several that are reached from here."""

from __future__ import annotations

from typing import TypeAlias

from stoker.core.clock import Clock
from stoker.fleet.attempt import Attempt, AttemptOrder
from stoker.fleet.spread.spread_attempt import Site, SpreadAttempt
from stoker.store.handed import StoreHand

AnyAttempt: TypeAlias = Attempt | SpreadAttempt


def begin_attempt(order: AttemptOrder, site: Site | None, hand: StoreHand | None, clock: Clock) -> AnyAttempt:
    """Start its agent or agents, which wait for `spawn`. Raises as the two do."""
    if site is None:
        return Attempt.start(order, with_keys=True, hand=hand)
    return SpreadAttempt(order, site, clock, with_keys=True)
