"""Where the tasks of a preparation run. See docs/design/intake.md, "Tasks and executors"."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from stoker.intake.task_room import TaskRoom
from stoker.intake.tasks import Phase
from stoker.intake.workplace import Workplace


class Executor(Protocol):
    """A way to do tasks; each gives the same objects."""

    @property
    def name(self) -> str:
        """What `--on` calls it."""
        ...

    @property
    def rooms(self) -> Sequence[TaskRoom]:
        """Where tasks were done so far, and how closed off their processes were; open ones first."""
        ...

    def run(self, work: Workplace, phase: Phase, tasks: Sequence[int], done: Callable[[int], None]) -> None:
        """Do `tasks` of `phase`, each once at least; `done` hears of each once, in any order.

        Raises TaskFailed, WorkerLost, DiskFull and what the tasks raise. What is running is ended before an
        error or an interrupt goes on.
        """
        ...

    def close(self) -> None:
        """End whatever was started for running tasks. Called once, after the last phase or an error."""
        ...
