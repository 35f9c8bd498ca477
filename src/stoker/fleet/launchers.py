"""Where the job of a run lives: the one interface of launchers, and the words that they all use.

A job is one life of a supervisor, wherever it is; a launcher starts it, ends it, starts it again under the
same number, and knows the nodes. See docs/design/slurm.md.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NewType, Protocol

JobId = NewType("JobId", str)
"""A launcher's number of a job. It stays the same when the job is queued again."""


class JobState(enum.StrEnum):
    """Where a job stands. What no word here fits is UNKNOWN and never one of the others."""

    WAITING = "waiting"
    RUNNING = "running"
    ENDING = "ending"
    """Its processes are being ended; it may be queued again after that."""

    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"
    OUT_OF_TIME = "out_of_time"
    OUT_OF_MEMORY = "out_of_memory"
    PREEMPTED = "preempted"
    NODE_LOST = "node_lost"
    REQUEUED = "requeued"
    """An earlier life of a job that was queued again; told of by accounting alone."""

    UNKNOWN = "unknown"


OVER: Final = frozenset(
    {
        JobState.FINISHED,
        JobState.FAILED,
        JobState.CANCELLED,
        JobState.OUT_OF_TIME,
        JobState.OUT_OF_MEMORY,
        JobState.PREEMPTED,
        JobState.NODE_LOST,
    }
)
"""The states after which a job does not run again by itself."""


class NodeState(enum.StrEnum):
    """Whether a node takes work."""

    UP = "up"
    DRAINING = "draining"
    """It takes no new work and still has some."""

    DRAINED = "drained"
    DOWN = "down"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class JobOrder:
    """What is to run: `command` on the first of `nodes` nodes, its output appended to `log`, in `folder`.

    `cpus` are those of each node. `early_s` before the job's time is up it gets SIGUSR1. The allocation has
    `spare_nodes` more, and outlives the loss of a node; `exclude` are nodes that must not be used.
    """

    name: str
    comment: str
    command: tuple[str, ...]
    folder: Path
    log: Path
    cpus: int = 1
    nodes: int = 1
    time_limit_minutes: int = 0
    early_s: int = 120
    spare_nodes: int = 0
    exclude: tuple[str, ...] = ()
    switches: int = 0
    switches_wait_minutes: int = 0
    partition: str = ""
    account: str = ""
    options: tuple[str, ...] = ()
    """Further options of the site's own, each as on sbatch's command line."""


@dataclass(frozen=True, slots=True)
class JobView:
    """What is known of a job now. `node` is where its command runs; empty while it runs nowhere.

    `restarts` counts how often it was queued again, which it was last at `queued_s`, seconds since the Unix
    epoch; before `eligible_s` the launcher does not let it run.
    """

    job: JobId
    state: JobState
    restarts: int
    node: str
    reason: str = ""
    queued_s: float = 0.0
    eligible_s: float = 0.0


@dataclass(frozen=True, slots=True)
class NodeView:
    """What is known of a node now; `reason` is why it takes no work. `address`, `port`: its daemon's."""

    name: str
    state: NodeState
    reason: str = ""
    address: str = ""
    port: int = 0


@dataclass(frozen=True, slots=True)
class JobEvent:
    """One thing that happened to a job, by the wall clock; `node` and `reason` are empty where not known.

    `exit_code` and `signal` are of the job's command, None where they are not known or do not apply.
    """

    at_s: float
    job: JobId
    state: JobState
    node: str = ""
    reason: str = ""
    restarts: int = 0
    exit_code: int | None = None
    signal: int | None = None


class Launcher(Protocol):
    """A way to have jobs; every implementation passes tests/fleet/test_launchers.py."""

    @property
    def name(self) -> str:
        """What `--on` calls it."""
        ...

    def submit(self, order: JobOrder) -> JobId:
        """Start `order`, or queue it. Raises LauncherRefused with what was said against it."""
        ...

    def job(self, job: JobId) -> JobView:
        """Raises UnknownJob, LauncherSilent when nobody answers, BadAnswer for one that cannot be read."""
        ...

    def cancel(self, job: JobId) -> None:
        """End a job for good; nothing happens to one that has ended. Its processes may live a while."""
        ...

    def requeue(self, job: JobId) -> None:
        """End what runs of a job and queue it again under the same number. It runs again after `hasten`."""
        ...

    def hasten(self, job: JobId) -> bool:
        """Let a queued job run again at once, but never while processes of its earlier life exist.

        Whether nothing is left to be done: False asks to be called again in a moment.
        """
        ...

    def nodes(self) -> Sequence[NodeView]:
        """Every node. Raises LauncherSilent, BadAnswer."""
        ...

    def drain(self, node: str, reason: str) -> None:
        """Give a node no new work. Raises UnknownNode, and LauncherRefused for want of the right to."""
        ...

    def resume(self, node: str) -> None:
        """Give a node work again. Raises as `drain` does."""
        ...

    def events(self, job: JobId) -> Sequence[JobEvent]:
        """What happened to a job so far, oldest first, as far as anybody kept it."""
        ...
