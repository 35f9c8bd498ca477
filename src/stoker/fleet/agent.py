"""The agent of one attempt on one node: `python -m stoker.fleet.agent --control FD`.

It spawns the ranks, reads their events, stamps and appends them, and forwards them to the supervisor. When
the supervisor tells it to, or is gone, it kills every rank; it ends only when none is left. See
docs/design/fleet.md, "The agent".
"""

from __future__ import annotations

import argparse
import contextlib
import os
import selectors
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from stoker.core.canonical import JsonValue
from stoker.core.clock import Clock, SystemClock
from stoker.core.errors import StokerError
from stoker.core.events import Event, EventKind, EventLog, encode_event
from stoker.core.ids import RunId
from stoker.core.isolation import Isolation, IsolationState, probe
from stoker.fleet.agent_plan import (
    MAX_PLAN_BYTES,
    AgentPlan,
    Kill,
    Lose,
    Order,
    Save,
    Spawn,
    Stop,
    Wake,
    Warm,
    decode_order,
    decode_plan,
)
from stoker.fleet.container import contained, read_plan, ruleset_of
from stoker.fleet.errors import AgentFailed
from stoker.fleet.gate import Gate, Gates
from stoker.fleet.rank_ears import EventEar
from stoker.fleet.rank_output import OutputSieve
from stoker.fleet.rank_process import (
    EVENT_FD_NAME,
    KEY_FD_NAME,
    LOCAL_RANK_NAME,
    RankProcess,
    adopt_orphans,
    ended_ranks,
    kill_children,
    refuse_core_files,
    spawn_rank,
)
from stoker.fleet.signals import signals_as_bytes
from stoker.fleet.stack_ears import StackEar, StackEars
from stoker.keys.caller import SECRET_FD_NAME
from stoker.keys.lease_page import LEASE_FD_NAME
from stoker.keys.memory import harden_process
from stoker.spec.run import RankOutput
from stoker.store.handed import STORE_FD_NAME

_SIGNALS: Final = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_READ_BYTES: Final = 256 * 1024
_MAX_UNSENT_BYTES: Final = 4 * 1024 * 1024


class Agent:
    """One attempt's ranks on this node, from spawn to the last one reaped."""

    def __init__(
        self,
        control: socket.socket,
        plan: AgentPlan,
        log: EventLog | None,
        clock: Clock,
        contained: Isolation | None = None,
    ) -> None:
        """`contained` says how this process was isolated already; None: it was not asked for."""
        self._control = control
        self._plan = plan
        self._log = log
        self._clock = clock
        self._ranks: dict[int, RankProcess] = {}
        """By its place here, as everything of a rank is kept: its number may change until it begins."""
        self._ears: dict[int, EventEar] = {}
        self._sieves: dict[int, OutputSieve] = {}
        self._ordered: set[int] = set()
        self._ahead = plan.ahead
        self._unsent = bytearray()
        self._orders = bytearray()
        self._selector: selectors.BaseSelector = selectors.DefaultSelector()
        self._gates = Gates(self._selector)
        self._stacks = StackEars(self._selector, self._tell_stack)
        self._stopping = False
        self._spawned = False
        self._kill_at_s: float | None = None
        self._supervised = True
        self._isolated = False
        self._found = Isolation(IsolationState.OPEN, plan.open_because)
        self._probe_at_s: float | None = None
        self._contained = contained

    def run(self) -> None:
        """Serve until every rank is gone and there is nothing more to do. Kills all ranks on any way out."""
        try:
            with signals_as_bytes(_SIGNALS) as wake_fd:
                self._selector.register(self._control, selectors.EVENT_READ)
                self._selector.register(wake_fd, selectors.EVENT_READ)
                self._probe_isolation()
                while not self._done():
                    self._turn(wake_fd)
                self._flush()
        finally:
            for rank in self._ranks.values():
                rank.kill()
            kill_children()

    # -- one turn of the loop

    def _done(self) -> bool:
        return not self._ranks and (self._stopping or self._spawned)

    def _turn(self, wake_fd: int) -> None:
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._unsent else 0)
        if self._supervised:
            self._selector.modify(self._control, wanted)
        happened = self._selector.select(self._patience_s())
        self._reap()  # who is dead is told before what others say of it
        for key, mask in happened:
            if key.fileobj is self._control:
                if mask & selectors.EVENT_WRITE:
                    self._send()
                if mask & selectors.EVENT_READ and self._supervised:
                    self._listen()
            elif key.fd == wake_fd:
                self._take_signals(os.read(wake_fd, 4096))
            elif key.data is not None and key.data[0] in self._ranks:
                self._hear(*key.data)
        now_s = self._clock.monotonic_s()
        if self._kill_at_s is not None and now_s >= self._kill_at_s:
            self._kill_all()
        if self._probe_at_s is not None and now_s >= self._probe_at_s:
            self._probe_again()
        self._reap()

    def _patience_s(self) -> float | None:
        awaited = [each for each in (self._kill_at_s, self._probe_at_s) if each is not None]
        return max(min(awaited) - self._clock.monotonic_s(), 0.0) if awaited else None

    # -- the supervisor

    def _listen(self) -> None:
        try:
            data = self._control.recv(65_536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._supervisor_gone()
            return
        self._orders += data
        while (end := self._orders.find(b"\n")) >= 0:
            line = bytes(self._orders[: end + 1])
            del self._orders[: end + 1]
            self._obey(decode_order(line))

    def _obey(self, order: Order) -> None:
        if isinstance(order, Warm):
            self._spawn_all()
        elif isinstance(order, Spawn):
            self._open_gates() if self._gates.shut else self._spawn_all()
        elif isinstance(order, Wake):
            self._begin(order)
            if self._isolated:
                self._probe_again()
            else:
                self._tell_isolation()
        elif isinstance(order, Lose):
            self._lose(order.node)
        elif isinstance(order, Kill):
            place = order.rank - self._plan.first_rank
            if place in self._ranks:
                self._ranks[place].take_signal(order.signal)
        elif isinstance(order, Save):
            if self._plan.first_rank == 0 and 0 in self._ranks:
                self._ranks[0].ask_to_save()
        else:
            self._stop(order)

    def _stop(self, order: Stop) -> None:
        self._stopping = True
        if order.grace_s <= 0:
            self._kill_all()
            return
        self._kill_at_s = self._clock.monotonic_s() + order.grace_s
        if order.stacks:
            self._stacks.ask(self._ranks)
        elif not order.quiet:
            for rank in self._ranks.values():
                rank.ask_to_end()

    def _lose(self, node: str) -> None:
        """Told before its ranks end, so that nobody takes their ends for failures of their own."""
        self._tell(EventKind.NODE_LOST, name=node)
        for place, process in self._ranks.items():
            if self._plan.nodes[place] == node:
                process.kill()

    def _kill_all(self) -> None:
        self._stacks.give_up()
        self._kill_at_s = None
        self._ordered |= self._ranks.keys()
        for rank in self._ranks.values():
            rank.kill()

    def _supervisor_gone(self) -> None:
        if self._supervised:
            self._supervised = False
            self._selector.unregister(self._control)
        self._unsent.clear()
        self._stopping = True
        self._kill_all()

    def _take_signals(self, numbers: bytes) -> None:
        if set(numbers) & {signal.SIGTERM, signal.SIGHUP, signal.SIGINT}:
            self._stopping = True
            self._kill_all()

    def _send(self) -> None:
        try:
            sent = self._control.send(self._unsent)
        except BlockingIOError:
            return
        except OSError:
            self._supervisor_gone()
            return
        del self._unsent[:sent]

    def _flush(self) -> None:
        """Hand over what is left; the supervisor reads until the end of the socket."""
        if self._supervised:
            self._control.settimeout(5.0)
            with contextlib.suppress(OSError):
                self._control.sendall(self._unsent)

    # -- the ranks

    def _probe_isolation(self) -> None:
        found = self._contained or Isolation(IsolationState.OPEN, self._plan.open_because)
        if found.state is IsolationState.ISOLATED:
            found = self._probe([])
        self._isolated = found.state is IsolationState.ISOLATED
        # Until a rank is started its key socket is ours, and no other process may take it out of our hands.
        # Not before the namespace: a process that cannot be looked into may not write its own maps of users.
        harden_process()
        self._found = found
        self._tell_isolation()

    def _tell_isolation(self) -> None:
        self._tell(EventKind.ISOLATION_PROBED, state=self._found.state.value, reason=self._found.reason)

    def _probe_again(self) -> None:
        """Where ranks were isolated it is tried again and again whether they still are."""
        found = self._probe([each.pid for each in self._ranks.values()], begun=True)
        self._found = found
        self._tell_isolation()
        closed = found.state is IsolationState.ISOLATED
        self._probe_at_s = self._clock.monotonic_s() + self._plan.probe_every_s if closed else None

    def _probe(self, processes: Sequence[int], *, begun: bool = False) -> Isolation:
        plan = self._plan
        with ruleset_of(plan) as ruleset:
            return probe(
                plan.outside, begun=begun, processes=processes, datagrams=plan.datagrams, ruleset=ruleset
            )

    def _spawn_all(self) -> None:
        if self._spawned or self._stopping:
            return
        self._spawned = True
        if self._isolated:
            self._probe_at_s = self._clock.monotonic_s() + self._plan.probe_every_s
        with ruleset_of(self._plan) as ruleset:
            self._spawn_each(ruleset)

    def _spawn_each(self, ruleset: int | None) -> None:
        plan = self._plan
        for place, command in enumerate(plan.commands):
            ear, writer = EventEar.beside_pipe()
            sieve, printing = OutputSieve.beside_pipe(
                self._log_of(place), whole=plan.rank_output is RankOutput.WHOLE
            )
            for source in (ear, sieve):
                self._selector.register(source.descriptor, selectors.EVENT_READ, (place, source))
            own = {EVENT_FD_NAME: writer, **self._stacks.one_for(place)}
            own |= self._gates.one_for(place) if self._ahead else {}
            if plan.key_fds:
                own |= {KEY_FD_NAME: plan.key_fds[place], SECRET_FD_NAME: plan.secret_fds[place]}
            if plan.store_fds:
                own |= {f"{STORE_FD_NAME}{each}": fd for each, fd in enumerate(plan.store_fds[place])}
            shared = {LEASE_FD_NAME: plan.lease_fd} if plan.lease_fd >= 0 else {}
            process = spawn_rank(
                command,
                environment={**plan.environment, LOCAL_RANK_NAME: str(place)},
                named_fds={**own, **shared},
                lock_fd=plan.lock_fd,
                output=printing,
                powerless=self._isolated,
                ruleset=ruleset,
            )
            for descriptor in (*own.values(), printing):
                os.close(descriptor)
            self._ranks[place], self._ears[place], self._sieves[place] = process, ear, sieve
            if not self._ahead:
                self._tell_at(place, EventKind.RANK_SPAWNED, pid=process.pid)

    def _log_of(self, place: int) -> Path:
        """Where a rank's output is kept; one that waits has no number yet."""
        plan = self._plan
        name = f"ahead-{plan.nodes[0]}-{place}.log" if self._ahead else f"rank-{plan.first_rank + place}.log"
        return Path(plan.log_folder) / name

    def _begin(self, order: Wake) -> None:
        """What was started ahead has its numbers and nodes from now on."""
        waiting = [self._log_of(place) for place in self._ranks]
        self._ahead = False
        self._plan = replace(self._plan, first_rank=order.first_rank, nodes=order.nodes)
        for place, path in zip(self._ranks, waiting, strict=True):
            with contextlib.suppress(OSError):
                path.rename(self._log_of(place))

    def _open_gates(self) -> None:
        for place, process in self._ranks.items():
            self._tell_at(place, EventKind.RANK_SPAWNED, pid=process.pid)
        self._gates.open(self._plan.first_rank)

    def _hear(self, place: int, source: EventEar | OutputSieve | Gate | StackEar) -> None:
        try:
            data = os.read(source.descriptor, _READ_BYTES)
        except BlockingIOError:
            return
        if not data:
            self._selector.unregister(source.descriptor)
        elif isinstance(source, EventEar):
            self._tell_of(place, source, data)
        else:
            source.take(data)
            if isinstance(source, Gate) and self._gates.all_loaded:
                self._tell(EventKind.STANDBY_LOADED)
            elif isinstance(source, StackEar) and self._stacks.heard(place):
                self._kill_at_s = self._clock.monotonic_s()

    def _tell_of(self, place: int, ear: EventEar, data: bytes) -> None:
        plan, now_s = self._plan, self._clock.monotonic_s()
        for event in ear.take(data):
            stamped = replace(
                event,
                run=RunId(plan.run),
                attempt=plan.attempt,
                rank=plan.first_rank + place,
                node=plan.nodes[place],
                mono_s=min(event.mono_s, now_s),
            )
            self._record(stamped, keep=ear.worth_keeping(event, now_s))

    def _reap(self) -> None:
        for place, status in ended_ranks(self._ranks):
            del self._ranks[place]
            ear, sieve = self._ears.pop(place), self._sieves.pop(place)
            self._gates.drop(place)
            self._stacks.drop(place)
            for source in (ear, sieve):
                self._drain(place, source)
            ear.close()
            sieve.close()
            if sieve.withheld_bytes:
                self._tell_at(place, EventKind.OUTPUT_WITHHELD, bytes=sieve.withheld_bytes)
            exit_code, by_signal = max(status, 0), max(-status, 0)
            self._tell_at(
                place,
                EventKind.RANK_EXITED,
                exit_code=exit_code,
                signal=by_signal,
                ordered=place in self._ordered,
                dropped_lines=ear.dropped,
            )

    def _drain(self, place: int, source: EventEar | OutputSieve) -> None:
        """What a rank said before it ended is told before its end is."""
        with contextlib.suppress(BlockingIOError):
            while data := os.read(source.descriptor, _READ_BYTES):
                if isinstance(source, EventEar):
                    self._tell_of(place, source, data)
                else:
                    source.take(data)
        with contextlib.suppress(KeyError):
            self._selector.unregister(source.descriptor)

    # -- telling

    def _tell_stack(self, place: int, stack: tuple[str, ...]) -> None:
        state = self._ranks[place].state if place in self._ranks else ""
        self._tell_at(place, EventKind.RANK_STACK, frames=list(stack), process_state=state)

    def _tell(self, kind: EventKind, **fields: JsonValue) -> None:
        """News of the agent itself."""
        self._append(-1, self._plan.nodes[0], kind, fields)

    def _tell_at(self, place: int, kind: EventKind, **fields: JsonValue) -> None:
        """News of a rank."""
        self._append(self._plan.first_rank + place, self._plan.nodes[place], kind, fields)

    def _append(self, rank: int, node: str, kind: EventKind, fields: Mapping[str, JsonValue]) -> None:
        now_s, mono_s = self._clock.now_s(), self._clock.monotonic_s()
        self._record(
            Event(now_s, mono_s, RunId(self._plan.run), self._plan.attempt, rank, node, kind, fields)
        )

    def _record(self, event: Event, *, keep: bool = True) -> None:
        if keep and self._log is not None and not self._ahead:
            self._log.append(event)
        crowded = len(self._unsent) > _MAX_UNSENT_BYTES
        if self._supervised and not (crowded and event.kind is EventKind.HEARTBEAT):
            self._unsent += encode_event(event)


def main(arguments: list[str]) -> int:
    """Take the plan from the control socket and serve it. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m stoker.fleet.agent")
    parser.add_argument("--control", type=int, required=True, help="descriptor of the control socket")
    parser.add_argument("--plan", type=int, default=-1, help="descriptor of the plan, in a container")
    words = parser.parse_args(arguments)
    control = socket.socket(fileno=words.control)
    refuse_core_files()
    adopt_orphans()
    try:
        begun = words.plan >= 0
        plan = decode_plan(read_plan(words.plan) if begun else _first_line(control))
        os.set_inheritable(control.fileno(), False)
        control.setblocking(False)
        found = contained(plan, control, begun)
        with contextlib.ExitStack() as stack:
            log = EventLog(Path(plan.events_path)) if plan.events_path else None
            if log is not None:
                stack.callback(log.close)
            Agent(control, plan, log, SystemClock(), found).run()
    except StokerError as error:
        print(f"error: {error.message}\nhint: {error.hint}", file=sys.stderr)
        return error.exit_code
    return 0


def _first_line(control: socket.socket) -> bytes:
    """The plan, byte by byte at its end, so that no order behind it is swallowed."""
    line = bytearray()
    while not line.endswith(b"\n"):
        seen = control.recv(65_536, socket.MSG_PEEK)
        end = seen.find(b"\n") + 1
        line += control.recv(end or len(seen))
        if not seen or len(line) > MAX_PLAN_BYTES:
            raise AgentFailed(
                "The control socket closed before the plan was whole, or the plan is too long.",
                hint="The supervisor ended while it started this agent; look at its own messages.",
            )
    return bytes(line)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
