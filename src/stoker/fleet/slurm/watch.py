"""Looks after the jobs of a home's runs: `stoker fleet watch`. See docs/design/slurm.md, "The watch".

It decides nothing: care.py does. It may be killed and started again at any time, and two of them do no harm.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from stoker.core.clock import Clock
from stoker.core.errors import StokerError
from stoker.core.ids import RunId
from stoker.fleet.errors import BadRunFolder, LauncherRefused, UnknownJob
from stoker.fleet.job_journal import append_event
from stoker.fleet.launchers import JobEvent, JobId, JobState, JobView, NodeView
from stoker.fleet.slurm.care import Care, Seen, care_for, is_suspect
from stoker.fleet.slurm.job_folder import JobFolder, Sign
from stoker.fleet.slurm.launcher import SAFE_S, SlurmLauncher

LOOK_EVERY_S: Final = 0.5
ANSWER_WITHIN_S: Final = 1.0

RunOver = Callable[[RunId], bool]
"""Whether a run is finished or has failed, so that it needs no job any more."""


@dataclass(frozen=True, slots=True)
class Deed:
    """What was done for a run, and why; `failed` is what was said against it, empty when nothing was."""

    at_s: float
    run: RunId
    job: JobId
    care: Care
    node: str
    reason: str
    failed: str = ""


@dataclass(slots=True)
class _Watched:
    """What this process remembers of a job: the last sign, and when it saw that one first."""

    job: JobId
    sign: Sign | None = None
    since_s: float = 0.0
    told: tuple[JobState, int, str] | None = None
    forgotten: bool = False


@dataclass(slots=True)
class JobWatch:
    """The jobs of the runs below `runs_dir`. `run_over` asks the ledger."""

    runs_dir: Path
    launcher: SlurmLauncher
    run_over: RunOver
    lost_after_s: float
    clock: Clock
    _watched: dict[RunId, _Watched] = field(default_factory=dict)

    def look(self) -> Iterator[Deed]:
        """Look at every job once, and do what is to be done; what was done or could not be done.

        Raises LauncherSilent while Slurm does not answer.
        """
        for path in sorted(self.runs_dir.glob("r-*/slurm/job.json")):
            run = RunId(path.parent.parent.name)
            folder = JobFolder(path.parent)
            with contextlib.suppress(BadRunFolder):  # one run's damaged file keeps no other run waiting
                submitted = folder.submitted()
                if submitted is not None:
                    yield from self._look_at(run, folder, submitted.job)

    def _look_at(self, run: RunId, folder: JobFolder, job: JobId) -> Iterator[Deed]:
        known = self._watched.get(run)
        if known is None or known.job != job:
            known = self._watched[run] = _Watched(job)
        if known.forgotten:
            return
        try:
            view = self.launcher.job(job)
        except UnknownJob:
            known.forgotten = True
            return
        self._tell(folder, known, view)
        seen = self._see(run, folder, known, view)
        node = None
        if is_suspect(seen, self.lost_after_s):
            node = next((each for each in self.launcher.nodes() if each.name == view.node), None)
            seen = replace(seen, node_answers=node is not None and answers(node))
        care = care_for(seen, self.lost_after_s)
        if care is Care.FORGET:
            known.forgotten = True
        elif care is not Care.NOTHING:
            yield from self._do(care, run, folder, seen)

    def _see(self, run: RunId, folder: JobFolder, known: _Watched, view: JobView) -> Seen:
        sign, now_s = folder.last_sign(), self.clock.monotonic_s()
        if sign != known.sign:
            known.sign, known.since_s = sign, now_s
        ours = sign is not None and (sign.holder.job, sign.holder.restarts) == (view.job, view.restarts)
        silent_s = now_s - known.since_s if ours else None
        return Seen(view, self.run_over(run), ours, silent_s)

    def _do(self, care: Care, run: RunId, folder: JobFolder, seen: Seen) -> Iterator[Deed]:
        view = seen.view
        silent = f"no sign of run {run} for {seen.silent_s or 0.0:.0f} s"
        reason = {
            Care.HASTEN: "it waited for nothing but time",
            Care.GIVE_UP_NODE: f"{silent}, and the node does not answer",
            Care.REQUEUE: silent if seen.silent_s is not None else f"Slurm ended it: {view.state}",
        }[care]
        deed = Deed(self.clock.now_s(), run, view.job, care, view.node, reason)
        try:
            if care is Care.HASTEN:
                self.launcher.hasten(view.job)
                if not view.queued_s + SAFE_S <= self.clock.now_s() < view.eligible_s:
                    return  # it could run already, or shall not yet
            elif care is Care.GIVE_UP_NODE:
                self._give_up(view, reason)
            else:
                self.launcher.requeue(view.job)
        except StokerError as error:
            yield replace(deed, failed=error.message)
            return
        state = JobState.NODE_LOST if care is Care.GIVE_UP_NODE else JobState.REQUEUED
        if care is not Care.HASTEN:
            event = JobEvent(deed.at_s, view.job, state, view.node, reason, view.restarts)
            append_event(folder.journal, event)
        yield deed

    def _give_up(self, view: JobView, reason: str) -> None:
        """An operator's right; whoever has it not can only have the job queued again, off that node."""
        try:
            self.launcher.give_up(view.node, f"stoker: {reason}")
            self.launcher.hasten(view.job, safe_s=0.0)
        except LauncherRefused:
            self.launcher.requeue(view.job)
            self.launcher.avoid(view.job, [view.node])

    def _tell(self, folder: JobFolder, known: _Watched, view: JobView) -> None:
        """What changed of a job goes into its journal, with Slurm's reason."""
        now = (view.state, view.restarts, view.reason)
        if now == known.told:
            return
        before, known.told = known.told, now
        if before is None or (before[:2] == now[:2] and view.state is JobState.WAITING):
            return  # reasons to wait change all the time
        event = JobEvent(self.clock.now_s(), view.job, view.state, view.node, view.reason, view.restarts)
        append_event(folder.journal, event)


def answers(node: NodeView) -> bool:
    """Whether a node's daemon takes a connection: a dead node does not, nor one that is cut off from here."""
    try:
        with socket.create_connection((node.address, node.port), timeout=ANSWER_WITHIN_S):
            return True
    except OSError:
        return False
