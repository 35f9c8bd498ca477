"""The host of one node: starts its part of an attempt there, and is its link to the supervisor.

Its standard input and output are the link. Keys are opened here, from the same home, so none crosses a
network. When the link ends, no process of the attempt stays. See docs/design/spread.md, "The host".
"""

from __future__ import annotations

import contextlib
import os
import selectors
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias

from stoker.core.clock import Clock
from stoker.core.errors import Busy, StokerError
from stoker.core.events import EventKind, encode_event
from stoker.core.isolation import Outside
from stoker.fleet.agent_plan import MAX_PLAN_BYTES, Kill, Lose, Save, Spawn, Stop, Wake, Warm
from stoker.fleet.attempt import Attempt, AttemptOrder
from stoker.fleet.attempt_lock import held_lock
from stoker.fleet.run_folder import RunFolder
from stoker.fleet.spread.interfaces import interface_of
from stoker.fleet.spread.node_lines import (
    Beat,
    Failed,
    Hello,
    LeaseEnded,
    LeaseGiven,
    LeaseShown,
    NodePlan,
    Over,
    ToHost,
    decode_plan,
    decode_to_host,
    encode_from_host,
)
from stoker.keys.agent import KeyAgent, shared_rendezvous
from stoker.keys.backend import KeyBackend
from stoker.keys.refs import KekRef
from stoker.spec.run import IsolationPolicy

BEAT_EVERY_S: Final = 0.5
EARLIER_PART_S: Final = 10.0
"""How long processes of an attempt before, on this node, have to end."""

_READ_BYTES: Final = 256 * 1024
_LEAVING_S: Final = 0.005

OpenKeys: TypeAlias = Callable[[Path, Path], KeyBackend]
"""Opens the keys of a home, as seen from a folder with settings."""


@dataclass(slots=True)
class NodeHost:
    """Serves one plan from `reader` until no process of it is left; `writer` is the other end's input."""

    reader: int
    writer: int
    open_keys: OpenKeys
    clock: Clock
    _attempt: Attempt | None = None
    _keys: KeyAgent | None = None
    _given: LeaseGiven | None = None
    _plan: NodePlan | None = None
    _linked: bool = True
    _ended_socket: bool = False
    _partial: bytearray = field(default_factory=bytearray)
    _saying: threading.Lock = field(default_factory=threading.Lock)
    _done: threading.Event = field(default_factory=threading.Event)

    def serve(self) -> int:
        """0, or the exit code of the error that ended it, which was told."""
        beating = threading.Thread(target=self._beat, name="beats", daemon=True)
        try:
            self._serve(beating)
        except StokerError as error:
            self._say(encode_from_host(Failed(error.message, error.hint)))
            return error.exit_code
        finally:
            self._done.set()
            if self._attempt is not None:
                self._attempt.end_now(self.clock)
            if self._keys is not None:
                self._keys.close()
        self._say(encode_from_host(Over()))
        return 0

    def _serve(self, beating: threading.Thread) -> None:
        line = self._first_line()
        if not line:
            return
        self._plan = plan = decode_plan(line)
        self._say(encode_from_host(Hello(self.clock.monotonic_s())))
        beating.start()
        order = order_of(plan)
        self._wait_for_earlier_part(order)
        self._attempt = attempt = Attempt.start(order, with_keys=plan.with_keys)
        with selectors.DefaultSelector() as selector:
            selector.register(self.reader, selectors.EVENT_READ)
            selector.register(attempt, selectors.EVENT_READ)
            self._obey_all()  # orders that came along with the plan
            while self._linked and not (self._ended_socket and attempt.gone()):
                for key, _ in selector.select(_LEAVING_S if self._ended_socket else None):
                    if key.fileobj is attempt:
                        self._forward(attempt)
                        if self._ended_socket:
                            selector.unregister(attempt)
                    else:
                        self._listen()
        if self._linked:
            self._attempt = None  # it is gone

    # -- from the supervisor

    def _first_line(self) -> bytes:
        while (end := self._partial.find(b"\n")) < 0:
            data = os.read(self.reader, _READ_BYTES)
            if not data or len(self._partial) > MAX_PLAN_BYTES:
                return b""
            self._partial += data
        return self._take(end)

    def _take(self, end: int) -> bytes:
        line = bytes(self._partial[: end + 1])
        del self._partial[: end + 1]
        return line

    def _listen(self) -> None:
        data = os.read(self.reader, _READ_BYTES)
        self._linked = bool(data)
        self._partial += data
        self._obey_all()

    def _obey_all(self) -> None:
        while self._linked and (end := self._partial.find(b"\n")) >= 0:
            self._obey(decode_to_host(self._take(end)))

    def _obey(self, order: ToHost) -> None:
        attempt = self._attempt
        assert attempt is not None
        match order:
            case LeaseGiven():
                self._given = order
            case LeaseShown(good_for_s):
                self._show(attempt, good_for_s)
            case LeaseEnded():
                if self._keys is not None:
                    self._keys.revoke(order.end)
            case Spawn():
                attempt.spawn()
            case Warm():
                attempt.warm()
            case Wake(first_rank, nodes):
                attempt.wake(nodes, first_rank)
            case Kill(rank, signal):
                attempt.signal_rank(rank, signal)
            case Lose(node):
                attempt.lose_node(node)
            case Save():
                attempt.save()
            case Stop(grace_s, quiet, stacks):
                attempt.stop(grace_s, quiet=quiet, stacks=stacks)

    def _show(self, attempt: Attempt, good_for_s: float) -> None:
        """The lease begins, or is renewed; it is measured by this node's clock, whatever that says."""
        expires_s = self.clock.now_s() + good_for_s
        if self._keys is not None:
            if not self._keys.revoked:
                self._keys.renew(expires_s)
            return
        given, plan = self._given, self._plan
        assert given is not None and plan is not None
        backend = self.open_keys(Path(plan.home), Path(plan.project))
        secret = shared_rendezvous(backend, KekRef.parse(given.kek), bytes.fromhex(given.wrapped))
        self._keys = KeyAgent(backend, given.lease(expires_s), self.clock, rendezvous=secret)
        attempt.serve_keys(self._keys)

    # -- to the supervisor

    def _forward(self, attempt: Attempt) -> None:
        events, self._ended_socket = attempt.read()
        for event in events:
            if event.kind is EventKind.RANK_SPAWNED:
                attempt.note_rank(event.rank, int(event.number("pid")))
            self._say(encode_event(event))

    def _say(self, line: bytes) -> None:
        """A link that is broken shows where it is read."""
        with self._saying, contextlib.suppress(OSError):
            while line:
                line = line[os.write(self.writer, line) :]

    def _beat(self) -> None:
        """In a thread: nobody is to take the node for lost while keys are opened, or ranks are started."""
        while not self._done.wait(BEAT_EVERY_S):
            keys = self._keys
            self._say(encode_from_host(Beat(0 if keys is None else keys.strangers)))

    def _wait_for_earlier_part(self, order: AttemptOrder) -> None:
        deadline_s = self.clock.monotonic_s() + EARLIER_PART_S
        while not order.ahead and (lock := held_lock(order.folder, order.part)) is not None:
            if self.clock.monotonic_s() > deadline_s:
                raise Busy(
                    f"Processes of an earlier attempt on {order.part} still hold {lock}.",
                    hint="They should have ended with their link. Look which they are, then end them.",
                )
            self.clock.sleep(0.05)


def order_of(plan: NodePlan) -> AttemptOrder:
    """The part as this node's agent gets it: without a network of its own, on the one that ranks share.

    Raises AgentFailed when no interface is found by which other nodes reach this one.
    """
    interface = plan.interface or interface_of(plan.node)
    return AttemptOrder(
        folder=RunFolder(Path(plan.run_folder)),
        run=plan.run,
        attempt=plan.attempt,
        nodes=(plan.node,) * len(plan.commands),
        commands=plan.commands,
        environment={**plan.environment, "GLOO_SOCKET_IFNAME": interface, "NCCL_SOCKET_IFNAME": interface},
        isolation=IsolationPolicy.OFF,
        outside=Outside(0, ""),
        writable=plan.writable,
        rank_output=plan.rank_output,
        open_because=plan.open_because,
        ahead=plan.ahead,
        datagrams=plan.datagrams,
        first_rank=plan.first_rank,
        part=plan.node,
    )
