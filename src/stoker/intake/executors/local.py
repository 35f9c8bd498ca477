"""Tasks on this machine: this process opens and seals, forked workers see documents and tokens and no key."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from stoker.intake.task_room import TaskRoom, in_order
from stoker.intake.tasks import Phase, run_tasks
from stoker.intake.workers import Workers
from stoker.intake.workplace import Workplace


class LocalExecutor:
    """`processes` workers, as many as there are tasks at the most."""

    name = "local"

    def __init__(self, processes: int = 2) -> None:
        self._processes = processes
        self._rooms: set[TaskRoom] = set()

    @property
    def rooms(self) -> Sequence[TaskRoom]:
        """This machine, with what was found of its workers' network; empty when none was needed."""
        return in_order(self._rooms)

    def run(self, work: Workplace, phase: Phase, tasks: Sequence[int], done: Callable[[int], None]) -> None:
        """Raises WorkerLost when a worker dies, and what loading and storing raise."""
        if phase.making is None:
            run_tasks(phase, tasks, done)
            return
        processes = min(self._processes, len(tasks))
        with Workers(processes, phase.making.start, phase.making.settings()) as workers:
            self._rooms.add(TaskRoom.here(workers.isolation))
            inputs = (phase.load(task) for task in tasks)
            for place, made in workers.as_done(inputs):
                phase.store(tasks[place], made)
                done(tasks[place])

    def close(self) -> None:
        """Nothing outlives a phase."""
