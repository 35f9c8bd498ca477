"""Where the ranks of an attempt that hangs stand, as its agent hears. See docs/design/fleet.md, "Hangs"."""

from __future__ import annotations

import contextlib
import os
import selectors
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from stoker.core.gates import STACK_FD_NAME
from stoker.fleet.rank_process import RankProcess
from stoker.fleet.stacks import main_stack

_MAX_BYTES: Final = 256 * 1024


@dataclass(slots=True)
class StackEar:
    """The agent's end of the pipe into which one rank writes its stacks when it is asked for them."""

    descriptor: int
    stack: tuple[str, ...] = ()
    told: bool = False
    _text: bytearray = field(default_factory=bytearray)

    def take(self, data: bytes) -> None:
        """What the rank wrote; it is whole when the main thread's stack is there, which comes last."""
        if len(self._text) < _MAX_BYTES:
            self._text += data
        self.stack = main_stack(self._text.decode(errors="replace"))


class StackEars:
    """The pipes of one attempt's ranks."""

    def __init__(
        self, selector: selectors.BaseSelector, tell: Callable[[int, tuple[str, ...]], None]
    ) -> None:
        """Each is in `selector` until its rank is gone. `tell` takes a rank and where it stands, once."""
        self._selector = selector
        self._tell = tell
        self._ears: dict[int, StackEar] = {}
        self._asked: set[int] = set()

    def one_for(self, rank: int) -> dict[str, int]:
        """A new pipe for a rank: the descriptor that it inherits, by name, for the caller to close."""
        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        self._ears[rank] = StackEar(reader)
        self._selector.register(reader, selectors.EVENT_READ, (rank, self._ears[rank]))
        return {STACK_FD_NAME: writer}

    def ask(self, ranks: Mapping[int, RankProcess]) -> None:
        """Ask each rank; one that cannot answer, since it has hardly begun, is told without a stack."""
        self._asked = set(ranks)
        for rank, process in ranks.items():
            if not process.ask_for_stack():
                self._told(rank, ())

    def heard(self, rank: int) -> bool:
        """Tell what a rank has written, when it is whole. Whether nobody is awaited any more."""
        if rank in self._asked and self._ears[rank].stack:
            self._told(rank, self._ears[rank].stack)
        return all(self._ears[each].told for each in self._asked)

    def give_up(self) -> None:
        """Whoever was asked and has not answered is told without a stack."""
        for rank in sorted(self._asked):
            self._told(rank, ())

    def drop(self, rank: int) -> None:
        """The rank is gone."""
        ear = self._ears.pop(rank)
        self._asked.discard(rank)
        with contextlib.suppress(KeyError):
            self._selector.unregister(ear.descriptor)
        os.close(ear.descriptor)

    def _told(self, rank: int, stack: tuple[str, ...]) -> None:
        if not self._ears[rank].told:
            self._ears[rank].told = True
            self._tell(rank, stack)
