"""One attempt as the supervisor holds it: the agent process, its control socket, the key threads, the lock.

See docs/design/fleet.md, "The agent". The supervisor decides; this module only does.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from stoker.core.atomic import naming_full_disk
from stoker.core.clock import Clock
from stoker.core.events import MAX_LINE_BYTES, Event, decode_event
from stoker.core.isolation import Outside
from stoker.fleet.agent_plan import (
    AgentPlan,
    Kill,
    Lose,
    Order,
    Save,
    Spawn,
    Stop,
    Wake,
    Warm,
    encode_order,
    encode_plan,
)
from stoker.fleet.attempt_lock import lock_is_free, take_lock
from stoker.fleet.errors import AgentFailed
from stoker.fleet.rank_process import kill_group
from stoker.fleet.run_folder import RunFolder
from stoker.fleet.store_hands import StoreHands
from stoker.keys.agent import KeyAgent
from stoker.keys.caller import Caller, key_sockets
from stoker.keys.lease_page import LeasePage
from stoker.spec.run import IsolationMeans, IsolationPolicy, RankOutput
from stoker.store.handed import StoreHand
from stoker.store.remote_environment import store_environment

_PATIENCE_S: Final = 5.0
_READ_BYTES: Final = 256 * 1024

ENVIRONMENT_KEPT: Final = (
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "TZ",
    "TMPDIR",
    "LD_LIBRARY_PATH",
    "CUDA_VISIBLE_DEVICES",
    "CUDA_DEVICE_ORDER",
)
"""The only variables of the supervisor that a rank gets to see."""

KERNEL_CACHES: Final = {"TRITON_CACHE_DIR": "triton", "CUDA_CACHE_PATH": "cuda"}
"""Where what was compiled for a device is kept, and the folder for it under TMPDIR."""


def rank_environment(
    environment: Mapping[str, str], threads_per_rank: int, store_url: str = "file:"
) -> dict[str, str]:
    """The short list of `environment` that ranks need, and what keeps them on loopback and in their cores.

    A store elsewhere adds what says where it is and lets the ranks in; in a folder it adds nothing.
    """
    kept = {name: environment[name] for name in ENVIRONMENT_KEPT if name in environment}
    kept |= store_environment(store_url, environment)
    threads = str(threads_per_rank)
    return {
        **kept,
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "GLOO_SOCKET_IFNAME": "lo",
        "PYTHONUNBUFFERED": "1",
    }


@dataclass(frozen=True, slots=True)
class AttemptOrder:
    """What an attempt is made of."""

    folder: RunFolder
    run: str
    attempt: int
    nodes: tuple[str, ...]
    commands: tuple[tuple[str, ...], ...]
    environment: Mapping[str, str]
    isolation: IsolationPolicy
    outside: Outside
    isolate_by: IsolationMeans = IsolationMeans.AUTO
    probe_every_s: float = 10.0
    writable: tuple[str, ...] | None = None
    rank_output: RankOutput = RankOutput.SIEVED
    open_because: str = ""
    ahead: bool = False
    """It is started beside the attempt before it, and does not begin yet."""
    datagrams: bool = False
    first_rank: int = 0
    part: str = ""
    """The node whose part of an attempt this is, where each node has an agent of its own."""


class Attempt:
    """A started agent. Every method may be called when the agent has died."""

    def __init__(
        self,
        agent: subprocess.Popen[bytes],
        control: socket.socket,
        key_ends: Sequence[socket.socket],
        callers: Sequence[Caller],
        page: LeasePage | None,
        hands: StoreHands,
        order: AttemptOrder,
    ) -> None:
        self._agent = agent
        self._control = control
        self._key_ends = list(key_ends)
        self._callers = tuple(callers)
        self._page = page
        self._hands = hands
        self._key_threads: list[threading.Thread] = []
        self._lock = order.folder.attempt_lock(order.attempt, order.part)
        self._first_rank = order.first_rank
        self._ranks_here = len(order.commands)
        self._groups: list[int] = []
        self._partial = bytearray()
        self._closed = False
        self._told_to_stop = False
        self.number = order.attempt

    @classmethod
    def start(cls, order: AttemptOrder, *, with_keys: bool, hand: StoreHand | None = None) -> Attempt:
        """Start the agent; it probes its isolation and waits for `spawn`. `hand` serves ranks their store.

        Raises Busy when processes of an earlier attempt still exist, AgentFailed when no agent starts.
        """
        attempt_folder = order.folder.attempt(order.attempt)
        with contextlib.ExitStack() as ours, contextlib.ExitStack() as theirs:
            lock_fd = take_lock(order.folder, order.attempt, beside_others=order.ahead, part=order.part)
            theirs.callback(os.close, lock_fd)
            control, agent_control = socket.socketpair()
            ours.callback(control.close)
            theirs.callback(agent_control.close)
            key_ends, rank_ends, callers, secret_fds = [], [], [], []
            for _ in order.commands if with_keys else ():
                key_end, rank_end = key_sockets()
                ours.callback(key_end.close)
                theirs.callback(rank_end.close)
                caller = Caller()
                ours.callback(caller.forget)
                secret_fds.append(caller.hand_over())
                theirs.callback(os.close, secret_fds[-1])
                key_ends.append(key_end)
                rank_ends.append(rank_end)
                callers.append(caller)
            page = LeasePage.make() if with_keys else None
            if page is not None:
                ours.callback(page.close)
            lease_fd = -1 if page is None else page.descriptor
            hands = StoreHands(hand, len(order.commands))
            ours.callback(hands.close)
            theirs.callback(hands.hand_on)
            plan = AgentPlan(
                run=order.run,
                attempt=order.attempt,
                nodes=order.nodes,
                commands=order.commands,
                environment=_with_own_temporary(order, attempt_folder),
                key_fds=tuple(each.fileno() for each in rank_ends),
                secret_fds=tuple(secret_fds),
                lease_fd=lease_fd,
                store_fds=hands.descriptors,
                lock_fd=lock_fd,
                events_path="" if order.part else str(order.folder.events),
                log_folder=str(attempt_folder),
                isolation=order.isolation,
                isolate_by=order.isolate_by,
                probe_every_s=order.probe_every_s,
                outside=order.outside,
                writable=order.writable,
                rank_output=order.rank_output,
                open_because=order.open_because,
                ahead=order.ahead,
                datagrams=order.datagrams,
                first_rank=order.first_rank,
            )
            log_path = order.folder.agent_log(order.attempt, order.part)
            inherited = [lock_fd, *plan.key_fds, *plan.secret_fds, *([] if page is None else [lease_fd])]
            inherited += hands.inherited
            agent = _spawn_agent(agent_control, inherited, order.environment, log_path)
            ours.pop_all()
        attempt = cls(agent, control, key_ends, callers, page, hands, order)
        hands.serve()
        with contextlib.suppress(OSError):  # an agent that has died already shows as the end of the socket
            control.sendall(encode_plan(plan))
        control.setblocking(False)
        return attempt

    def fileno(self) -> int:
        """For a selector: readable when the agent has told something, or is gone."""
        return self._control.fileno()

    def overdue(self) -> bool:
        """Whether something should be looked for that nobody tells: never, of an agent on this node."""
        return False

    def serve_keys(self, keys: KeyAgent) -> None:
        """Answer each rank's key requests in a thread of its own, from now on; show the lease to all."""
        if self._page is not None:
            keys.show_on(self._page)
        for number, key_end in enumerate(self._key_ends):
            name, arguments = f"keys-{self.number}-{number}", (key_end, self._callers[number])
            thread = threading.Thread(target=keys.serve, args=arguments, name=name, daemon=True)
            thread.start()
            self._key_threads.append(thread)
        self._key_ends.clear()

    def warm(self) -> None:
        """Of an attempt that was started ahead: its ranks may load what they need, and wait."""
        self._order(Warm())

    def can_begin(self, nodes: Sequence[str]) -> bool:
        """Of an attempt that was started ahead: whether it has what ranks on these nodes need."""
        return len(nodes) == self._ranks_here

    def wake(self, nodes: Sequence[str], first_rank: int = 0) -> None:
        """Of an attempt that was started ahead: it begins, as one whose agent was just started.

        Its ranks are numbered from `first_rank` and are on `nodes` from now on.
        """
        self._first_rank = first_rank
        self._order(Wake(first_rank, tuple(nodes)))

    def spawn(self) -> None:
        self._order(Spawn())

    def save(self) -> None:
        """Ask for a checkpoint now; that it was committed is told by an event, if at all."""
        self._order(Save())

    def lose_node(self, node: str) -> None:
        self._order(Lose(node))

    def signal_rank(self, rank: int, signal: int) -> None:
        self._order(Kill(rank, signal))

    def stop(self, grace_s: float, *, quiet: bool = False, stacks: bool = False) -> None:
        """Tell the agent to end its ranks. Told so twice without grace, it is ended itself."""
        heard = self._order(Stop(grace_s, quiet, stacks))
        if grace_s <= 0 and (self._told_to_stop or not heard):
            self._agent.kill()
        self._told_to_stop = self._told_to_stop or grace_s <= 0

    def note_rank(self, rank: int, pid: int) -> None:
        """The agent has started a rank: it may ask for keys, and its group is killed if its agent dies."""
        self._groups.append(pid)
        place = rank - self._first_rank
        if 0 <= place < len(self._callers):
            self._callers[place].is_process(pid)

    def read(self) -> tuple[list[Event], bool]:
        """What the agent has told since the last call, and whether its socket has ended.

        Raises AgentFailed when it breaks the protocol.
        """
        try:
            data = self._control.recv(_READ_BYTES)
        except BlockingIOError:
            return [], False
        except OSError:
            data = b""
        if not data:
            return [], True
        self._partial += data
        events = []
        while (end := self._partial.find(b"\n")) >= 0:
            line = bytes(self._partial[: end + 1])
            del self._partial[: end + 1]
            events.append(decode_event(line, "the agent"))
        if len(self._partial) > MAX_LINE_BYTES:
            raise AgentFailed("The agent sent a line that does not end.", hint="Start the run again.")
        return events, False

    def gone(self) -> bool:
        """Whether no process of this attempt exists any more; ranks that outlived their agent are killed."""
        if self._agent.poll() is None:
            return False
        if lock_is_free(self._lock):
            self._close()
            return True
        for group in self._groups:
            kill_group(group)
        return False

    def end_now(self, clock: Clock) -> None:
        """Kill everything and wait until it is gone: the way out of a supervisor that fails itself.

        Raises AgentFailed when a process does not go even so.
        """
        if not self._closed:
            self._control.close()  # the agent kills its ranks, then ends
        deadline_s = clock.monotonic_s() + _PATIENCE_S
        while not self.gone():
            if clock.monotonic_s() > deadline_s:
                self._agent.kill()
            if clock.monotonic_s() > deadline_s + _PATIENCE_S:
                raise AgentFailed(
                    f"Processes of attempt {self.number} do not end even when they are killed.",
                    hint=f"See which hold {self._lock} open; a broken device may block them.",
                )
            clock.sleep(0.01)

    def _order(self, order: Order) -> bool:
        try:
            self._control.sendall(encode_order(order))
        except OSError:
            return False
        return True

    def _close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._control.close()
        for key_end in self._key_ends:
            key_end.close()
        for caller in self._callers:
            caller.forget()
        self._hands.close()
        for thread in self._key_threads:
            thread.join(_PATIENCE_S)
        if self._page is not None:
            self._page.close()


def _with_own_temporary(order: AttemptOrder, attempt_folder: Path) -> Mapping[str, str]:
    """Ranks that may not write to the machine's temporary folder have one in their attempt's.

    So do the compilers of kernels, which would write into the user's home.
    """
    if order.writable is None:
        return order.environment
    own = attempt_folder / "tmp"
    with naming_full_disk(own):
        own.mkdir(mode=0o700, exist_ok=True)
    caches = {name: str(own / folder) for name, folder in KERNEL_CACHES.items()}
    return {**order.environment, "TMPDIR": str(own), **caches}


def _spawn_agent(
    control: socket.socket, inherited: Sequence[int], environment: Mapping[str, str], log_path: Path
) -> subprocess.Popen[bytes]:
    """The agent leads a session of its own, so that Ctrl-C at the terminal reaches the supervisor alone."""
    with naming_full_disk(log_path):
        descriptor = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    command = [sys.executable, "-P", "-m", "stoker.fleet.agent", "--control", str(control.fileno())]
    try:
        return subprocess.Popen(
            command,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=descriptor,
            stderr=descriptor,
            pass_fds=(control.fileno(), *inherited),
            start_new_session=True,
        )
    except OSError as error:
        raise AgentFailed(f"No agent could be started: {error.strerror}.") from error
    finally:
        os.close(descriptor)
