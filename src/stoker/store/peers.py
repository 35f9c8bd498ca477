"""Shards from the other nodes of a run, so that one copy a run comes from the store: docs/design/store.md.

Each object has one node that fetches it from the store, found by rendezvous hashing, and the others ask that
node; when it is gone, slow or lies, the next in the object's order, then the store.
"""

from __future__ import annotations

import hashlib
import random
import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from stoker.core.clock import Clock, SystemClock
from stoker.keys.secret import SecretKey
from stoker.store.peers_wire import Answer, PeerFault, PeerTimes, Problem, Request, Wire
from stoker.store.ranges import BytesLike

MOST_ASKED: Final = 3
"""How many nodes are asked for an object before the store."""

_FOREVER_S: Final = float("inf")
_BUSY_S: Final = (0.05, 0.25)
_AVOIDED: Final = (Problem.UNREACHABLE, Problem.SLOW, Problem.BROKE_OFF)
_AVOIDED_FOREVER: Final = (Problem.STRANGER, Problem.LIED)


@dataclass(frozen=True, slots=True)
class PeerNode:
    """A node of the run and where it listens. All nodes of a run must know each other by the same names."""

    name: str
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class PeerCounts:
    """What asking other nodes came to, in this process."""

    objects: int = 0
    object_bytes: int = 0
    unreachable: int = 0
    slow: int = 0
    broke_off: int = 0
    stranger: int = 0
    lied: int = 0
    declined: int = 0
    busy: int = 0


def hash_order(key: str, names: Sequence[str]) -> list[str]:
    """The nodes in this object's order: the first fetches it from the store.

    Rendezvous hashing: without one node, the others' order stays what it was.
    """
    return sorted(names, key=lambda name: hashlib.sha256(f"{name}\n{key}".encode()).digest())


class PeerSource:
    """Asks the run's other nodes for objects. For any number of threads."""

    def __init__(
        self,
        nodes: Sequence[PeerNode],
        me: str,
        secret: SecretKey,
        run: str,
        *,
        times: PeerTimes | None = None,
        clock: Clock | None = None,
    ) -> None:
        """`me` is the name of this node; one that is not among `nodes` asks and is never asked.

        A node must listen before the others can know its address: so `nodes` may be empty, and told later
        by `learn`. The secret is the caller's to wipe, when nobody asks any more.
        """
        self._nodes: dict[str, PeerNode] = {}
        self._me = me
        self._secret = secret
        self._run = run
        self._times = times or PeerTimes()
        self._clock = clock or SystemClock()
        self._avoided: dict[str, float] = {}
        self._counts = dict.fromkeys(PeerCounts.__dataclass_fields__, 0)
        self._lock = threading.Lock()
        self.learn(nodes)

    def learn(self, nodes: Sequence[PeerNode]) -> None:
        """Ask these nodes from now on. One that has another address than before is avoided no longer."""
        known = {node.name: node for node in nodes}
        with self._lock:
            for name in [name for name in self._avoided if self._nodes.get(name) != known.get(name)]:
                del self._avoided[name]
            self._nodes = known

    def fetch(
        self, key: str, expected_bytes: int, digest: bytes, write: Callable[[BytesLike, int], None]
    ) -> bool:
        """Hand the object to `write(part, offset)`; False: ask the store, whatever was written.

        Only nodes before this one in the object's order are asked, so nodes never wait for each other in a
        circle. On True the bytes have the SHA-256 `digest`. Raises only what `write` raises.
        """
        asked, nodes = 0, self._nodes
        for name in hash_order(key, list(nodes)):
            if name == self._me or asked == MOST_ASKED:
                return False
            if self._avoids(name):
                continue
            asked += 1
            try:
                self._ask(nodes[name], Request(key, expected_bytes, digest), write)
            except PeerFault as fault:
                self._note(name, fault.problem)
                continue
            self._count("objects", 1)
            self._count("object_bytes", expected_bytes)
            return True
        return False

    def counts(self) -> PeerCounts:
        """What asking has come to so far."""
        with self._lock:
            return PeerCounts(**self._counts)

    def _ask(self, node: PeerNode, request: Request, write: Callable[[BytesLike, int], None]) -> None:
        """One object from one node. Raises PeerFault."""
        times = self._times
        until_s = self._clock.monotonic_s() + times.patience_s + request.expected_bytes / times.floor_bytes_s
        while True:
            try:
                self._ask_once(node, request, write, until_s)
                return
            except PeerFault as fault:
                if fault.problem is not Problem.BUSY or self._clock.monotonic_s() >= until_s:
                    raise
            self._clock.sleep(random.uniform(*_BUSY_S))  # noqa: S311 (so that the refused do not come as one)

    def _ask_once(
        self, node: PeerNode, request: Request, write: Callable[[BytesLike, int], None], until_s: float
    ) -> None:
        times = self._times
        try:
            sock = socket.create_connection((node.host, node.port), timeout=times.connect_s)
        except TimeoutError:
            raise PeerFault(Problem.SLOW, f"{node.name} does not answer.") from None
        except OSError as error:
            raise PeerFault(Problem.UNREACHABLE, f"{node.name} is not there: {error.strerror}.") from error
        with sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            wire = Wire(sock, self._clock, min(until_s, self._clock.monotonic_s() + times.handshake_s))
            wire.greet(self._secret, self._run)
            wire.send_request(request)
            answer = Answer.PENDING
            while answer is Answer.PENDING:
                wire.extend(min(until_s, self._clock.monotonic_s() + times.silent_s))
                answer, size = wire.receive_answer()
            if answer is Answer.BUSY:
                raise PeerFault(Problem.BUSY, f"{node.name} serves as many as it can.")
            if answer is not Answer.FOUND:
                raise PeerFault(Problem.DECLINED, f"{node.name} does not give {request.key}.")
            if size != request.expected_bytes:
                raise PeerFault(
                    Problem.LIED,
                    f"{node.name} announced {size} bytes of {request.key}, not {request.expected_bytes}.",
                )
            wire.extend(until_s)
            wire.receive_object(request.expected_bytes, request.digest, times.silent_s, write)

    def _avoids(self, name: str) -> bool:
        with self._lock:
            return self._clock.monotonic_s() < self._avoided.get(name, 0.0)

    def _note(self, name: str, problem: Problem) -> None:
        with self._lock:
            self._counts[problem.name.lower()] += 1
            if problem in _AVOIDED_FOREVER:
                self._avoided[name] = _FOREVER_S
            elif problem in _AVOIDED:
                self._avoided[name] = max(
                    self._avoided.get(name, 0.0), self._clock.monotonic_s() + self._times.avoid_s
                )

    def _count(self, name: str, more: int) -> None:
        with self._lock:
            self._counts[name] += more
