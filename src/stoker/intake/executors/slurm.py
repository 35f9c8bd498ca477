"""Tasks as Slurm job arrays. See docs/design/intake.md, "Tasks and executors".

Whether a task is done is told by the store alone; Slurm is only asked whether the array still lives.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from stoker.core.atomic import write_atomic
from stoker.core.clock import Clock
from stoker.core.slurm import PASSED_ON, exported, missing_commands, slurm_command, submitted, user_name
from stoker.intake.executors.remote import Site, elements_of, run_attempts
from stoker.intake.task_errors import TaskFailed, UnusableExecutor
from stoker.intake.task_room import TaskRoom, in_order, rooms_told
from stoker.intake.tasks import Phase, TaskJob
from stoker.intake.workplace import Workplace

_SILENCE_PATIENCE_S: Final = 900.0
"""For how long the controller may fail to answer before a preparation gives up."""


@dataclass(frozen=True, slots=True)
class SlurmExecutor:
    """Job arrays of at most `elements` elements, submitted from here and asked after every `poll_s` seconds.

    Partition, account, time and memory are Slurm's own settings: SBATCH_PARTITION and the like.
    """

    site: Site
    clock: Clock
    elements: int = 4
    poll_s: float = 2.0
    _rooms: set[TaskRoom] = field(default_factory=set)

    @property
    def name(self) -> str:
        return "slurm"

    @property
    def rooms(self) -> Sequence[TaskRoom]:
        """The nodes on which tasks were done, as these have told."""
        return in_order(self._rooms)

    def run(self, work: Workplace, phase: Phase, tasks: Sequence[int], done: Callable[[int], None]) -> None:
        """Raises UnusableExecutor, TaskFailed. The array is cancelled before an error or Ctrl-C goes on."""
        require_slurm()
        self.site.require_open_keys(self.name)
        name = job_name(work.plan.version)
        slurm_command("scancel", f"--name={name}", f"--user={user_name()}")  # what a killed command left
        folder = self.site.home / "tasks" / work.plan.version
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

        def attempt(left: Sequence[int], look: Callable[[], None]) -> str:
            job = TaskJob.of(work, phase, left, self.site.home, self.site.project)
            path = folder / f"{phase.name}.json"
            write_atomic(path, job.encode())
            places = elements_of(left, self.elements)
            script = batch_script(path, name, len(places), len(places[0]), len(left))
            self._await(_submit(script, self.site.home), look)
            said = _logs(folder, phase.name, len(places))
            self._rooms.update(rooms_told(said))
            return said

        try:
            run_attempts(work, phase, tasks, done, attempt)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def close(self) -> None:
        """Nothing outlives a phase."""

    def _await(self, job: str, look: Callable[[], None]) -> None:
        """Wait until no element of the array is pending or running; `look` now and then."""
        heard_s = self.clock.monotonic_s()
        try:
            while True:
                asked = slurm_command("squeue", "--noheader", f"--jobs={job}", "--format=%T")
                if asked.returncode == 0 or "Invalid job id" in asked.stderr:
                    if not asked.stdout.strip():
                        return
                    heard_s = self.clock.monotonic_s()
                elif self.clock.monotonic_s() - heard_s > _SILENCE_PATIENCE_S:
                    raise TaskFailed(
                        f"Slurm does not say what became of job {job}: {asked.stderr.strip()[:200]!a}.",
                        hint="When `squeue` answers, run the same command again: it goes on.",
                    )
                look()
                self.clock.sleep(self.poll_s)
        except BaseException:
            slurm_command("scancel", job)
            raise


def job_name(version: str) -> str:
    """What the arrays of one preparation are called, so that they can be found again."""
    return f"stoker-{version}"


def batch_script(job: Path, job_called: str, elements: int, step: int, tasks: int) -> str:
    """The batch script: element i does the places i·step up to (i + 1)·step of the job's list."""
    log = str(job.with_suffix("")).replace("%", "%%")
    passed = exported(PASSED_ON)
    return f"""#!/bin/bash
#SBATCH --job-name={job_called}
#SBATCH --array=0-{elements - 1}
#SBATCH --ntasks=1
#SBATCH --output="{log}-%a.log"
#SBATCH --export={passed}
set -euo pipefail
first=$((SLURM_ARRAY_TASK_ID * {step}))
last=$((first + {step} < {tasks} ? first + {step} : {tasks}))
exec {shlex.quote(sys.executable)} -m stoker.intake.task_worker {shlex.quote(str(job))} "$first" "$last"
"""


def require_slurm() -> None:
    """Raise UnusableExecutor unless Slurm's commands are there."""
    missing = missing_commands(("sbatch", "squeue", "scancel"))
    if missing:
        raise UnusableExecutor(
            f"Slurm's commands are not on this machine's PATH: {', '.join(missing)}.",
            hint="Run the command on a login node of the cluster, or prepare with --on local.",
        )


def _submit(script: str, home: Path) -> str:
    """Submit a batch script; the job's number. Raises UnusableExecutor with what sbatch said."""
    answer = submitted(script, "/", {**os.environ, "STOKER_HOME": str(home)})
    if not answer.job:
        raise UnusableExecutor(
            f"Slurm does not take the job: {answer.said!a}.",
            hint="Mend what it names, such as SBATCH_PARTITION or SBATCH_ACCOUNT, then run it again.",
        )
    return answer.job


def _logs(folder: Path, phase: str, elements: int) -> str:
    """What the elements of an array said, all of it."""
    found = []
    for element in range(elements):
        log = folder / f"{phase}-{element}.log"
        if log.exists():
            found.append(log.read_text(errors="replace"))
    return "".join(found)
