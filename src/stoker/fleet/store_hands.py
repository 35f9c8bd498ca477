"""The sockets by which ranks without a network reach a store that is not a folder. See docs/design/fleet.md.

The supervisor holds one end of each and asks the store; ranks inherit the others.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Sequence
from typing import Final

from stoker.store.handed import StoreHand

HANDS: Final = 4
"""Sockets for each rank: so many requests of it are under way at once."""

_PATIENCE_S: Final = 5.0


class StoreHands:
    """All sockets of one attempt's ranks, whose ends are given away. Close it when the ranks are gone."""

    def __init__(self, hand: StoreHand | None, ranks: int) -> None:
        """Without `hand` there are none: ranks reach their store themselves."""
        self._hand = hand
        pairs = [[socket.socketpair() for _ in range(HANDS)] for _ in range(ranks if hand is not None else 0)]
        self._ours = [ours for each in pairs for ours, _ in each]
        self._theirs = [theirs for each in pairs for _, theirs in each]
        self._threads: list[threading.Thread] = []
        self.descriptors: Final = tuple(tuple(theirs.fileno() for _, theirs in each) for each in pairs)
        """By rank: what it inherits."""

    @property
    def inherited(self) -> Sequence[int]:
        """The descriptors of all ranks."""
        return [each.fileno() for each in self._theirs]

    def hand_on(self) -> None:
        """The agent has inherited the ends of the ranks: here they are closed."""
        for each in self._theirs:
            each.close()

    def serve(self) -> None:
        """Answer on every socket, each in a thread of its own."""
        for number, ours in enumerate(self._ours):
            assert self._hand is not None
            thread = threading.Thread(
                target=self._hand.serve, args=(ours,), name=f"store-{number}", daemon=True
            )
            thread.start()
            self._threads.append(thread)

    def close(self) -> None:
        """Nothing is answered any more."""
        for each in (*self._ours, *self._theirs):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            if not self._threads:
                each.close()
        for thread in self._threads:
            thread.join(_PATIENCE_S)
