"""This machine as a launcher: a job is a process of its own session, and what happened to it is in a folder.

For runs that are to go on without a terminal where there is no Slurm, and for whatever is written against
launchers to be tried on. See docs/design/slurm.md, "Launchers".
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from stoker.core.atomic import exclusive, naming_full_disk, write_atomic
from stoker.core.clock import Clock
from stoker.core.config import from_plain
from stoker.core.result import plain
from stoker.fleet.attempt_lock import lock_is_free
from stoker.fleet.errors import BadRunFolder, UnknownJob, UnknownNode
from stoker.fleet.job_journal import append_event, read_journal
from stoker.fleet.launchers import OVER, JobEvent, JobId, JobOrder, JobState, JobView, NodeState, NodeView

_KEEPER: Final = (sys.executable, "-P", "-m", "stoker.fleet.local_job")


@dataclass(frozen=True, slots=True)
class LocalLauncher:
    """Jobs in `folder`, one folder each; `node` is what this machine is called."""

    folder: Path
    node: str
    clock: Clock

    @property
    def name(self) -> str:
        return "local"

    def submit(self, order: JobOrder) -> JobId:
        with naming_full_disk(self.folder):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with exclusive(self.folder / "numbers.lock", "the list of jobs"):
            numbers = (int(each.name) for each in self.folder.iterdir() if each.name.isdecimal())
            job = JobId(str(max(numbers, default=0) + 1))
            (self.folder / job).mkdir(mode=0o700)
        write_atomic(self._order(job), json.dumps(plain(order)).encode())
        self._tell(JobEvent(self.clock.now_s(), job, JobState.WAITING))
        self.hasten(job)
        return job

    def job(self, job: JobId) -> JobView:
        events = self.events(job)
        last = events[-1]
        if last.state in (JobState.RUNNING, JobState.ENDING) and lock_is_free(self._lock(job)):
            # Its keeper was killed: nobody was left to tell of the end.
            return JobView(job, JobState.NODE_LOST, last.restarts, "", "the process that kept it is gone")
        queued_s = max(each.at_s for each in events if each.state is JobState.WAITING)
        return JobView(job, last.state, last.restarts, last.node, last.reason, queued_s)

    def cancel(self, job: JobId) -> None:
        state = self.job(job).state
        if state is JobState.WAITING:
            self._tell(JobEvent(self.clock.now_s(), job, JobState.CANCELLED, restarts=self.job(job).restarts))
        elif state not in OVER:
            self._signal(job, signal.SIGTERM)

    def requeue(self, job: JobId) -> None:
        view = self.job(job)
        if view.state is JobState.WAITING:
            return
        self._signal(job, signal.SIGINT)
        self._tell(JobEvent(self.clock.now_s(), job, JobState.WAITING, restarts=view.restarts + 1))

    def hasten(self, job: JobId) -> bool:
        view = self.job(job)
        if view.state is not JobState.WAITING:
            return True
        if not lock_is_free(self._lock(job)):
            return False
        if self._drained() is None:
            self._start(job, view.restarts)
        return True

    def nodes(self) -> Sequence[NodeView]:
        reason = self._drained()
        if reason is None:
            return (NodeView(self.node, NodeState.UP),)
        jobs = (each.parent.name for each in self.folder.glob("*/order.json"))
        busy = any(self.job(JobId(each)).state is JobState.RUNNING for each in jobs)
        return (NodeView(self.node, NodeState.DRAINING if busy else NodeState.DRAINED, reason),)

    def drain(self, node: str, reason: str) -> None:
        self._require(node)
        with naming_full_disk(self.folder):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomic(self.folder / "drained", reason.encode())

    def resume(self, node: str) -> None:
        self._require(node)
        (self.folder / "drained").unlink(missing_ok=True)

    def events(self, job: JobId) -> Sequence[JobEvent]:
        events = read_journal(self._journal(job))
        if not events:
            raise UnknownJob(f"There is no job {job!a} in {self.folder}.")
        return events

    # -- files

    def _journal(self, job: JobId) -> Path:
        if not job.isdecimal():
            raise UnknownJob(f"{job!a} is no number of a job.")
        return self.folder / job / "events.jsonl"

    def _order(self, job: JobId) -> Path:
        return self.folder / job / "order.json"

    def _lock(self, job: JobId) -> Path:
        return self.folder / job / "lock"

    def _drained(self) -> str | None:
        try:
            return (self.folder / "drained").read_text()
        except FileNotFoundError:
            return None

    def _require(self, node: str) -> None:
        if node != self.node:
            raise UnknownNode(
                f"This machine is {self.node}, not {node!a}.", hint="Ask the launcher that has it."
            )

    def _tell(self, event: JobEvent) -> None:
        append_event(self._journal(event.job), event)

    def _signal(self, job: JobId, number: signal.Signals) -> None:
        """To the keeper, which holds the lock as long as it lives, so that the number is surely its own."""
        pid = self.folder / job / "pid"
        if pid.exists() and not lock_is_free(self._lock(job)):
            os.kill(int(pid.read_text()), number)

    def _start(self, job: JobId, restarts: int) -> None:
        """Start the keeper, and wait until it holds the lock and has told that the job runs."""
        order = read_order(self._order(job))
        told = len(self.events(job))
        keeper = subprocess.Popen(
            [*_KEEPER, str(self.folder / job), str(restarts), self.node],
            cwd=order.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        while len(self.events(job)) == told and keeper.poll() is None:
            self.clock.sleep(0.01)


def read_order(path: Path) -> JobOrder:
    """The order of a job. Raises BadRunFolder."""
    try:
        body = json.loads(path.read_bytes())
        return from_plain(
            JobOrder, {**body, "folder": Path(body["folder"]), "log": Path(body["log"])}, str(path)
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadRunFolder(f"{path} is no order of a job: {error}.") from error
