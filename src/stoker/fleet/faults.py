"""Faults on purpose: what is done to a run while it trains, to see that it lives on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from signal import SIGKILL, Signals
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class KillRank:
    """Rank `rank` is sent `signal` when step `at_step` is done: SIGKILL ends it, SIGSTOP makes it hang."""

    rank: int
    at_step: int
    when_loaded: bool = False
    """Not before the next attempt's processes wait with everything loaded."""

    signal: int = SIGKILL

    @property
    def name(self) -> str:
        return "kill_rank" if self.signal == SIGKILL else f"{Signals(self.signal).name.lower()}_rank"


@dataclass(frozen=True, slots=True)
class LoseNode:
    """A node is lost with all its ranks when step `at_step` is done; it is back when `back_at_step` is."""

    node: str
    at_step: int
    back_at_step: int | None = None
    when_loaded: bool = False


Fault: TypeAlias = KillRank | LoseNode


class Faults:
    """The faults that are still to come."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self._left = list(faults)
        self._returning: list[tuple[int, str]] = []
        self.step = 0
        """The step that was done last."""

    def due(self, *, loaded: bool) -> list[Fault]:
        """Those whose time has come, each once; `loaded`: the next attempt waits, with all in memory."""
        due = [each for each in self._left if self.step >= each.at_step and (loaded or not each.when_loaded)]
        self._left = [each for each in self._left if each not in due]
        return due

    def lost(self, fault: LoseNode) -> None:
        """A node was lost just now; it may come back."""
        if fault.back_at_step is not None:
            self._returning.append((fault.back_at_step, fault.node))

    def back(self) -> list[str]:
        """The nodes that can be used again, each once."""
        back = [node for step, node in self._returning if self.step >= step]
        self._returning = [each for each in self._returning if self.step < each[0]]
        return back
