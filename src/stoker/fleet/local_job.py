"""What keeps one life of a local job: `python -m stoker.fleet.local_job FOLDER RESTARTS NODE`.

It starts the job's command, gives it SIGUSR1 before its time is up, ends it when it is told to, and tells how
it ended. SIGTERM: the job is cancelled. SIGINT: it is queued again, so its end is not told.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

from stoker.core.atomic import exclusive
from stoker.core.clock import SystemClock
from stoker.fleet.job_journal import append_event
from stoker.fleet.launchers import JobEvent, JobId, JobOrder, JobState
from stoker.fleet.local_jobs import read_order
from stoker.fleet.signals import signals_as_bytes

GRACE_S: Final = 20.0
"""Longer than a supervisor gives its ranks."""

_HEARD: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)


def keep(folder: Path, restarts: int, node: str) -> None:
    """One life of the job in `folder`, until its command has ended."""
    clock, job = SystemClock(), JobId(folder.name)
    order = read_order(folder / "order.json")

    def tell(state: JobState, reason: str = "", status: int | None = None) -> None:
        code, number = (None, None) if status is None else (max(status, 0), max(-status, 0))
        event = JobEvent(clock.now_s(), job, state, node, reason, restarts, code, number)
        append_event(folder / "events.jsonl", event)

    with exclusive(folder / "lock", f"job {job}"), signals_as_bytes(_HEARD) as wake_fd:
        (folder / "pid").write_text(str(os.getpid()))
        try:
            with order.log.open("ab") as log:
                child = subprocess.Popen(
                    order.command, cwd=order.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log
                )
        except OSError as error:
            tell(JobState.FAILED, f"its command cannot be started: {error.strerror}")
            return
        tell(JobState.RUNNING)
        state, reason = _attend(child, order, wake_fd, clock)
        if state is not None:
            tell(state, reason, child.returncode)


def _attend(
    child: subprocess.Popen[bytes], order: JobOrder, wake_fd: int, clock: SystemClock
) -> tuple[JobState | None, str]:
    """How the command ended; None when the job was queued again meanwhile."""
    limit_s = order.time_limit_minutes * 60.0
    begun_s, kill_at_s = clock.monotonic_s(), float("inf")
    told_early, ended_by = False, ""
    with selectors.DefaultSelector() as selector:
        selector.register(wake_fd, selectors.EVENT_READ)
        while child.poll() is None:
            heard = set(os.read(wake_fd, 64)) if selector.select(0.5) else set()
            now_s = clock.monotonic_s()
            passed_s = now_s - begun_s
            if limit_s and not told_early and passed_s > limit_s - order.early_s:
                told_early = True
                child.send_signal(signal.SIGUSR1)
            asked = (
                "queued again" if signal.SIGINT in heard else "cancelled" if heard - {signal.SIGCHLD} else ""
            )
            asked = asked or ("out of time" if limit_s and passed_s > limit_s else "")
            if asked and not ended_by:
                ended_by, kill_at_s = asked, now_s + GRACE_S
                with contextlib.suppress(ProcessLookupError):
                    child.terminate()
            if now_s > kill_at_s:
                child.kill()
    states = {"queued again": None, "cancelled": JobState.CANCELLED, "out of time": JobState.OUT_OF_TIME}
    if ended_by:
        return states[ended_by], ended_by
    return (JobState.FAILED if child.returncode else JobState.FINISHED), ""


if __name__ == "__main__":
    keep(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
