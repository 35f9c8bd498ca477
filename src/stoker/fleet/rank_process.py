"""One rank as a process: started with little, killed with everything it started, reaped once.

Linux gives the strongest ties: a rank dies with its agent (PR_SET_PDEATHSIG), and what a rank leaves behind
becomes a child of the agent (PR_SET_CHILD_SUBREAPER). See docs/design/fleet.md, "No process stays behind".
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from stoker.core.gates import STACK_SIGNAL
from stoker.core.landlock import hold_to

EVENT_FD_NAME: Final = "STOKER_EVENT_FD"
KEY_FD_NAME: Final = "STOKER_KEY_FD"
LOCAL_RANK_NAME: Final = "LOCAL_RANK"
"""A rank's number on its node, by the name that libraries know; its CUDA device is the one of that number."""

_PR_SET_PDEATHSIG: Final = 1
_PR_CAPBSET_DROP: Final = 24
_PR_SET_CHILD_SUBREAPER: Final = 36
_PR_SET_NO_NEW_PRIVS: Final = 38
_LOST_PARENT: Final = 1
_CAPABILITIES: Final = 64
"""More than any kernel has; dropping one that does not exist does nothing."""
_STOPPED: Final = ("T", "t")
"""The kernel's letters for a process that a signal or a debugger holds."""


@dataclass(frozen=True, slots=True)
class RankProcess:
    """A rank and its process group."""

    process: subprocess.Popen[bytes]

    @property
    def pid(self) -> int:
        return self.process.pid

    def kill(self) -> None:
        """SIGKILL to the rank and everything in its process group."""
        kill_group(self.pid)

    def take_signal(self, number: int) -> None:
        """An injected fault: SIGKILL to the group, any other signal to the rank alone."""
        if number == signal.SIGKILL:
            self.kill()
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def ask_to_save(self) -> None:
        """SIGUSR1 to a rank that is ready, which saves a checkpoint after its step."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGUSR1)

    def ask_to_end(self) -> None:
        """SIGTERM to the rank alone, which may commit what it has."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGTERM)

    @property
    def state(self) -> str:
        """The kernel's letter for what the process does, such as T for stopped; empty when it is gone."""
        try:
            return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (OSError, IndexError):
            return ""

    def ask_for_stack(self) -> bool:
        """Have the rank write where its threads stand. False when it cannot: it is stopped.

        False, too, when it does not listen, since it would end of the signal.
        """
        if self.state in _STOPPED:
            return False
        try:
            status = Path(f"/proc/{self.pid}/status").read_text()
            line = next(each for each in status.splitlines() if each.startswith("SigCgt:"))
            caught = int(line.split()[1], 16)
        except (OSError, StopIteration, ValueError):
            return False
        if not caught >> (STACK_SIGNAL - 1) & 1:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, STACK_SIGNAL)
        return True


def spawn_rank(
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    named_fds: Mapping[str, int],
    lock_fd: int,
    output: int,
    powerless: bool,
    ruleset: int | None = None,
) -> RankProcess:
    """Start one rank: its own process group, no standard input, output and error into `output`.

    It inherits `named_fds`, whose numbers it is told in variables of these names, and the attempt's lock, and
    no other descriptor. A powerless rank has none of root's capabilities, so that it cannot leave the network
    it was put into. With `ruleset` it writes only where that allows it.
    """
    names = {name: str(descriptor) for name, descriptor in named_fds.items()}
    inherited = [*named_fds.values(), lock_fd]
    agent = os.getpid()
    prctl = _prctl()  # looked up before the fork: the agent has one thread, and the child does the least

    def tie_to_agent() -> None:
        if prctl is None:
            return
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        for capability in range(_CAPABILITIES if powerless else 0):
            prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
        if ruleset is not None:
            hold_to(ruleset)
        if os.getppid() != agent:
            os._exit(_LOST_PARENT)

    process = subprocess.Popen(
        command,
        env={**environment, **names},
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        pass_fds=inherited,
        process_group=0,
        umask=0o077,
        preexec_fn=tie_to_agent,
    )
    return RankProcess(process)


def ended_ranks(ranks: Mapping[int, RankProcess]) -> list[tuple[int, int]]:
    """Ranks that have ended, with exit code or -signal; each is reaped, and its group is killed before.

    While a rank is not reaped its number cannot be given to another process, so the group is surely its own.
    """
    ended = []
    for rank, each in ranks.items():
        if os.waitid(os.P_PID, each.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            each.kill()
            ended.append((rank, each.process.wait()))
    return ended


def kill_group(group: int) -> None:
    """SIGKILL to every process of a process group that there is."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def refuse_core_files() -> None:
    """No process from here on writes a core file."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def adopt_orphans() -> None:
    """What ranks leave behind becomes a child of this process instead of the machine's first."""
    prctl = _prctl()
    if prctl is not None:
        prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def kill_children() -> None:
    """SIGKILL and reap every child of this process, adopted ones too, until there is none."""
    while children := list(_children()):
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pid in children:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)


def _children() -> Iterator[int]:
    path = Path(f"/proc/self/task/{os.getpid()}/children")
    with contextlib.suppress(OSError):
        yield from (int(pid) for pid in path.read_text().split())


def _prctl() -> Callable[[int, int, int, int, int], int] | None:
    if not sys.platform.startswith("linux"):
        return None
    function = ctypes.CDLL(None).prctl
    function.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
    function.restype = ctypes.c_int
    call: Callable[[int, int, int, int, int], int] = function
    return call
