"""Processes: zombies, calls that do not return, and what a job left behind."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from stoker.fleet.nodes.finding import Finding, fail, ok, warn
from stoker.fleet.nodes.gpu_query import compute_processes
from stoker.fleet.nodes.machine_view import Absent, MachineView, Unreadable, read_text

BETWEEN_LOOKS_S: Final = 0.2
"""A process in an uninterruptible call at both looks waits for something that may not come."""

_RANK: Final = "stoker.train.worker"
_OURS: Final = (_RANK, "stoker.fleet.agent")


@dataclass(frozen=True, slots=True)
class Process:
    """What /proc/PID/stat says of one process."""

    pid: int
    name: str
    state: str
    parent: int

    def __str__(self) -> str:
        return f"{self.name} ({self.pid})"


def processes_of(view: MachineView) -> Iterator[Process]:
    """Every process that could be read; those that end meanwhile are passed over. Raises Absent."""
    folder = view.path("/proc")
    if not folder.is_dir():
        raise Absent("there is no /proc")
    for each in folder.iterdir():
        if each.name.isdigit():
            with contextlib.suppress(Absent, Unreadable, ProcessLookupError):
                yield parse_stat(read_text(each / "stat"))


def parse_stat(text: str) -> Process:
    """One /proc/PID/stat; the name stands in parentheses and may hold any character. Raises Unreadable."""
    pid, _, rest = text.partition(" (")
    name, _, fields = rest.rpartition(") ")
    words = fields.split()
    if not pid.isdigit() or len(words) < 2 or not words[1].isdigit():
        raise Unreadable(f"{text[:60]!a} is no line of a process")
    return Process(int(pid), name, words[0], int(words[1]))


def zombies(view: MachineView) -> Finding:
    """Ended processes that nobody reaped."""
    found = [each for each in processes_of(view) if each.state == "Z"]
    text = f"{len(found)} zombies" + (f", such as {found[0]}" if found else "")
    return warn(text) if len(found) > view.settings.zombies else ok(text)


def blocked_processes(view: MachineView) -> Finding:
    """Processes in a call that the kernel does not interrupt (state D), at two looks."""
    first = {each.pid for each in processes_of(view) if each.state == "D"}
    if not first:
        return ok("no process is blocked")
    view.clock.sleep(BETWEEN_LOOKS_S)
    still = [each for each in processes_of(view) if each.state == "D" and each.pid in first]
    if not still:
        return ok("no process stays blocked")
    return warn(f"{len(still)} processes stay blocked: {', '.join(map(str, still[:4]))}")


def leftover_processes(view: MachineView) -> Finding:
    """Ranks and agents whose supervisor is gone; on a node without a job, also whoever uses a GPU."""
    found = {each.pid: each for each in processes_of(view)}
    orphans = [
        each
        for each in found.values()
        if _runs(view, each, _OURS) and each.state != "Z" and _is_orphan(found, each)
    ]
    if orphans:
        return fail(f"left behind: {', '.join(map(str, orphans[:6]))}")
    if view.idle:
        try:
            users = compute_processes(view)
        except Absent:
            return ok("no rank was left behind")
        if users:
            return fail(f"no job is here, and GPUs are used by {', '.join(users[:6])}")
    return ok("no rank was left behind")


def _is_orphan(found: Mapping[int, Process], process: Process) -> bool:
    """Whoever loses its parent is given to the first process, or to the user's service manager."""
    parent = found.get(process.parent)
    return process.parent == 1 or (parent is not None and parent.name == "systemd")


def ranks_here(view: MachineView) -> tuple[Process, ...]:
    """The ranks of our runs that live on this machine. Raises Absent."""
    return tuple(each for each in processes_of(view) if each.state != "Z" and _runs(view, each, (_RANK,)))


def _runs(view: MachineView, process: Process, programs: tuple[str, ...]) -> bool:
    try:
        words = read_text(view.path(f"/proc/{process.pid}/cmdline")).split("\0")
    except (Absent, Unreadable):
        return False
    return any(word in programs for word in words)
