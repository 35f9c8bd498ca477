"""The gate at which ranks that were started ahead wait for their attempt. See docs/design/fleet.md."""

from __future__ import annotations

import contextlib
import selectors
import socket
from dataclasses import dataclass
from typing import Self

from stoker.core.gates import GATE_FD_NAME, LOADED, letting_through


@dataclass(slots=True)
class Gate:
    """The agent's end of one rank's gate; the rank says that it has loaded all, and is let through once."""

    end: socket.socket
    loaded: bool = False

    @classmethod
    def beside_socket(cls) -> tuple[Self, socket.socket]:
        """A gate, and the end that the rank waits at."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        return cls(ours), theirs

    @property
    def descriptor(self) -> int:
        return self.end.fileno()

    def take(self, data: bytes) -> None:
        """What the rank said."""
        self.loaded = self.loaded or LOADED in data

    def open(self, rank: int) -> None:
        """Let the process through as this rank; one that is dead is told of elsewhere."""
        with contextlib.suppress(OSError):
            self.end.send(letting_through(rank))

    def close(self) -> None:
        self.end.close()


class Gates:
    """The gates of one attempt's ranks."""

    def __init__(self, selector: selectors.BaseSelector) -> None:
        """Each is in `selector` until its rank is gone, with its place and itself as data."""
        self._selector = selector
        self._gates: dict[int, Gate] = {}
        self._opened = False

    def one_for(self, place: int) -> dict[str, int]:
        """A new gate for the rank at a place: what it inherits, by name, for the caller to close."""
        gate, theirs = Gate.beside_socket()
        self._gates[place] = gate
        self._selector.register(gate.descriptor, selectors.EVENT_READ, (place, gate))
        return {GATE_FD_NAME: theirs.detach()}

    @property
    def all_loaded(self) -> bool:
        return all(gate.loaded for gate in self._gates.values())

    @property
    def shut(self) -> bool:
        """Whether ranks wait that were not let through yet."""
        return bool(self._gates) and not self._opened

    def open(self, first_rank: int) -> None:
        """Let every rank through; they are numbered from `first_rank`."""
        self._opened = True
        for place, gate in self._gates.items():
            gate.open(first_rank + place)

    def drop(self, place: int) -> None:
        """The rank is gone."""
        gate = self._gates.pop(place, None)
        if gate is not None:
            with contextlib.suppress(KeyError):
                self._selector.unregister(gate.descriptor)
            gate.close()
