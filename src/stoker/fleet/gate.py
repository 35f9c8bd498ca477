"""The gate at which ranks that were started ahead wait for their attempt. See docs/design/fleet.md."""

from __future__ import annotations

import contextlib
import selectors
import socket
from dataclasses import dataclass
from typing import Self

from stoker.core.gates import GATE_FD_NAME, GO, LOADED


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

    def open(self) -> None:
        """Let the rank through; one that is dead is told of elsewhere."""
        with contextlib.suppress(OSError):
            self.end.send(GO)

    def close(self) -> None:
        self.end.close()


class Gates:
    """The gates of one attempt's ranks."""

    def __init__(self, selector: selectors.BaseSelector) -> None:
        """Each is in `selector` until its rank is gone, with the rank and itself as data."""
        self._selector = selector
        self._gates: dict[int, Gate] = {}
        self._opened = False

    def one_for(self, rank: int) -> dict[str, int]:
        """A new gate for a rank: the descriptor that it inherits, by name, for the caller to close."""
        gate, theirs = Gate.beside_socket()
        self._gates[rank] = gate
        self._selector.register(gate.descriptor, selectors.EVENT_READ, (rank, gate))
        return {GATE_FD_NAME: theirs.detach()}

    @property
    def all_loaded(self) -> bool:
        return all(gate.loaded for gate in self._gates.values())

    @property
    def shut(self) -> bool:
        """Whether ranks wait that were not let through yet."""
        return bool(self._gates) and not self._opened

    def open(self) -> None:
        """Let every rank through."""
        self._opened = True
        for gate in self._gates.values():
            gate.open()

    def drop(self, rank: int) -> None:
        """The rank is gone."""
        gate = self._gates.pop(rank, None)
        if gate is not None:
            with contextlib.suppress(KeyError):
                self._selector.unregister(gate.descriptor)
            gate.close()
