"""What a run's job runs: `python -m stoker.fleet.slurm.keeper --run ID --home DIR --as NAME`.

It has `stoker run resume` supervise the run, gives a sign of life twice a second, passes on that the time is
nearly up, and ends itself when another life of the job has taken over. It holds no key. See
docs/design/slurm.md, "The keeper".
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import selectors
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from stoker.core.clock import Clock, SystemClock
from stoker.core.errors import EXIT_CANCELLED, EXIT_DONE, EXIT_USAGE, Busy, StokerError
from stoker.core.home import Home
from stoker.core.ids import RunId
from stoker.fleet.job_journal import append_event
from stoker.fleet.launchers import JobEvent, JobId, JobState, Launcher
from stoker.fleet.run_folder import RunFolder
from stoker.fleet.signals import signals_as_bytes
from stoker.fleet.slurm.job_folder import Holder, JobFolder, Sign
from stoker.fleet.slurm.launcher import SlurmLauncher

SIGN_EVERY_S: Final = 0.5
BUSY_PATIENCE_S: Final = 60.0
"""How long an earlier life, whose node still lives, has to see that it is over and to end its ranks."""

KILL_AFTER_S: Final = 20.0
"""Longer than a supervisor gives its ranks."""

LIVES: Final = 5
"""How many supervisors in a row may be killed before the job fails."""

COMMITTED: Final = b'"kind": "checkpoint_committed"'
"""What stands in the line of an event that tells of progress."""

_HEARD: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD)


@dataclass(slots=True)
class Keeper:
    """One life of a job."""

    command: Sequence[str]
    folder: JobFolder
    holder: Holder
    launcher: Launcher
    clock: Clock
    events: Path
    leaving: bool = False
    ending: bool = False
    _signs: int = 0
    _events_bytes: int = 0

    def keep(self) -> int:
        """Until the run is over, or is to go on elsewhere; the job's exit code."""
        self._events_bytes = self.events.stat().st_size if self.events.exists() else 0
        self.folder.take(self.holder)
        self._tell(JobState.RUNNING)
        busy_until_s = self.clock.monotonic_s() + BUSY_PATIENCE_S
        lives = 0
        with signals_as_bytes(_HEARD) as wake_fd:
            while True:
                code = self._supervise(wake_fd)
                killed = code < 0 and not (self.leaving or self.ending)
                lives += killed
                waits = code == Busy.exit_code and self.clock.monotonic_s() < busy_until_s
                if self.ending or self.leaving or not (waits or (killed and lives < LIVES)):
                    break
                self.clock.sleep(SIGN_EVERY_S)
        return self._over(code)

    def _over(self, code: int) -> int:
        left = self.leaving and (code == EXIT_CANCELLED or code < 0) and not self.ending
        if left and self._progressed():
            self._tell(JobState.REQUEUED, "its time was nearly up")
            self.launcher.requeue(self.holder.job)  # Slurm ends this process, too
            return EXIT_CANCELLED
        if not self.ending:
            state = JobState.FINISHED if code == EXIT_DONE else JobState.FAILED
            reason = "no checkpoint in the time that it had" if left else ""
            self._tell(state, reason, max(code, 0), max(-code, 0))
        return code if code >= 0 else 128 - code

    def _progressed(self) -> bool:
        """Whether this life has committed a checkpoint; without one, the next would do the same again."""
        with contextlib.suppress(OSError), self.events.open("rb") as file:
            file.seek(self._events_bytes)
            return COMMITTED in file.read()
        return False

    def _supervise(self, wake_fd: int) -> int:
        """One supervisor, from its start to its end; its exit code or -signal."""
        child = subprocess.Popen(self.command, stdin=subprocess.DEVNULL)
        kill_at_s = float("inf")
        with selectors.DefaultSelector() as selector:
            selector.register(wake_fd, selectors.EVENT_READ)
            while child.poll() is None:
                heard = set(os.read(wake_fd, 64)) if selector.select(SIGN_EVERY_S) else set()
                over = self._sign()
                if signal.SIGUSR1 in heard:
                    self.leaving = True
                    self._pass_on(child, signal.SIGUSR1)
                if (over or heard & {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}) and not self.ending:
                    self.ending, kill_at_s = True, self.clock.monotonic_s() + KILL_AFTER_S
                    self._pass_on(child, signal.SIGTERM)
                if over:  # the other life waits: no grace for ranks that may not commit any more
                    self._pass_on(child, signal.SIGTERM)
                if self.clock.monotonic_s() > kill_at_s:
                    child.kill()
        return child.returncode

    def _sign(self) -> bool:
        """Give a sign; whether another life has taken over. A disk that fails is no reason to end."""
        self._signs += 1
        try:
            holder = self.folder.holder()
            if holder is not None and holder != self.holder:
                return True
            self.folder.sign(Sign(self.holder, self._signs))
        except (OSError, StokerError) as error:
            print(f"warning: no sign of life could be given: {error}", file=sys.stderr, flush=True)
        return False

    def _pass_on(self, child: subprocess.Popen[bytes], number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            child.send_signal(number)

    def _tell(
        self, state: JobState, reason: str = "", code: int | None = None, number: int | None = None
    ) -> None:
        mine = self.holder
        now_s = self.clock.now_s()
        event = JobEvent(now_s, mine.job, state, mine.node, reason, mine.restarts, code, number)
        with contextlib.suppress(StokerError):  # the run is worth more than what is told of its job
            append_event(self.folder.journal, event)


def holder_of(environment: Mapping[str, str]) -> Holder:
    """Which life of which job this process is, as Slurm says."""
    return Holder(
        JobId(environment["SLURM_JOB_ID"]),
        int(environment.get("SLURM_RESTART_COUNT", "0")),
        environment.get("SLURMD_NODENAME") or platform.node(),
        os.getpid(),
    )


def supervising(run: str, home: Path, acting: str) -> tuple[str, ...]:
    """The command that supervises a run where it is called."""
    words = ("run", "resume", run, "--on", "local", "--home", str(home), "--as", acting)
    return (sys.executable, "-P", "-m", "stoker.cli", *words)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m stoker.fleet.slurm.keeper")
    parser.add_argument("--run", required=True)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--as", dest="acting", required=True)
    words = parser.parse_args(arguments)
    if "SLURM_JOB_ID" not in os.environ:
        print("error: This is what a job of Slurm runs, and SLURM_JOB_ID is not set.", file=sys.stderr)
        return EXIT_USAGE
    clock = SystemClock()
    runs_dir = Home(words.home).runs_dir
    folder = JobFolder.of(runs_dir, RunId(words.run))
    events = RunFolder.of(runs_dir, RunId(words.run)).events
    command = supervising(words.run, words.home, words.acting)
    keeper = Keeper(command, folder, holder_of(os.environ), SlurmLauncher(clock), clock, events)
    try:
        return keeper.keep()
    except StokerError as error:
        print(f"error: {error.message}\nhint: {error.hint}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
