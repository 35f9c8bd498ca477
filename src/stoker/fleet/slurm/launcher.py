"""Slurm as a launcher: its commands and their parsable answers, nothing else. See docs/design/slurm.md."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from stoker.core.clock import Clock
from stoker.core.slurm import missing_commands, slurm_command, submitted
from stoker.fleet.errors import BadAnswer, LauncherRefused, LauncherSilent, UnknownJob, UnknownNode
from stoker.fleet.launchers import JobEvent, JobId, JobOrder, JobState, JobView, NodeState, NodeView
from stoker.fleet.slurm.answers import (
    ACCOUNT_FIELDS,
    NODE_FIELDS,
    QUEUE_FIELDS,
    read_accounts,
    read_nodes,
    read_queue,
)
from stoker.fleet.slurm.batch_script import batch_script

COMMANDS: Final = ("sbatch", "squeue", "scancel", "scontrol", "sinfo", "sacct")

SAFE_S: Final = 2.0
"""From the end of a job's life until its next one may be started."""

_NO_ACCOUNTING: Final = "accounting storage is disabled"
_UNKNOWN_JOB: Final = "Invalid job id"
_OVER_ALREADY: Final = ("already completed", "already completing", "Invalid job id")


@dataclass(frozen=True, slots=True)
class SlurmLauncher:
    """The Slurm that SLURM_CONF, or its usual place, says. `environment` is what jobs may take along."""

    clock: Clock
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))

    @property
    def name(self) -> str:
        return "slurm"

    def submit(self, order: JobOrder) -> JobId:
        require_slurm()
        answer = submitted(batch_script(order), str(order.folder), self.environment)
        if not answer.job:
            raise LauncherRefused(
                f"Slurm does not take the job: {answer.said!a}.",
                hint="Mend what it names, in [slurm] of stoker.toml, or SBATCH_ACCOUNT and the like.",
            )
        return JobId(answer.job)

    def job(self, job: JobId) -> JobView:
        """What squeue says of it; it forgets jobs MinJobAge after their end (300 s by default)."""
        view = self._queued(job)
        if view is None:
            raise UnknownJob(
                f"Slurm's queue does not know job {job}, or does not any more.",
                hint=f"If accounting is kept, it has what became of it: sacct --jobs={job} --duplicates",
            )
        return view

    def cancel(self, job: JobId) -> None:
        said = self._ask("scancel", job, tolerated=_OVER_ALREADY)
        self._require_done(said, f"cancel job {job}")

    def requeue(self, job: JobId) -> None:
        said = self._ask("scontrol", "requeue", job, tolerated=("pending execution",))
        self._require_done(said, f"queue job {job} again")

    def hasten(self, job: JobId, *, safe_s: float = SAFE_S) -> bool:
        """Slurm lets about two minutes pass before it runs a job again; this ends them, once that is safe.

        As long as old steps are ending the job is COMPLETING. And slurmd refuses to launch what was
        credentialled in the second in which it was told to end the job, or before, as if it were the old
        life; credentials know whole seconds only, so `safe_s` must have passed: none for a node that is lost.
        """
        view = self.job(job)
        if view.state is JobState.ENDING:
            return False
        if view.state is not JobState.WAITING or not view.restarts:
            return True
        now_s = self.clock.now_s()
        if view.eligible_s <= now_s:
            return True
        if now_s >= view.queued_s + safe_s:
            said = self._ask("scontrol", "update", f"jobid={job}", "starttime=now")
            self._require_done(said, f"let job {job} begin")
        return False  # until the queue says so

    def avoid(self, job: JobId, nodes: Sequence[str]) -> None:
        """Keep a waiting job off `nodes` from now on, instead of those that it was to keep off before."""
        said = self._ask("scontrol", "update", f"jobid={job}", f"excnodelist={','.join(nodes)}")
        self._require_done(said, f"keep job {job} off {', '.join(nodes)}")

    def nodes(self) -> Sequence[NodeView]:
        return read_nodes(self._answer("sinfo", "--noheader", "--Node", "--all", f"--Format={NODE_FIELDS}"))

    def drain(self, node: str, reason: str) -> None:
        self._update(node, "drain", reason)

    def resume(self, node: str) -> None:
        """Slurm refuses to resume a node that takes work; here nothing happens then."""
        kept_out = (NodeState.DOWN, NodeState.DRAINING, NodeState.DRAINED)
        known = {each.name: each.state for each in self.nodes()}
        if known.get(node, NodeState.DOWN) in kept_out:
            self._update(node, "resume", "")

    def give_up(self, node: str, reason: str) -> None:
        """Tell Slurm that a node is down: it takes its jobs away at once, and queues again what may be."""
        self._update(node, "down", reason)

    def events(self, job: JobId) -> Sequence[JobEvent]:
        """From accounting; where a Slurm keeps none, or has nothing yet, where the job stands now.

        Earlier lives, and their exit codes, are then not known, and nothing is told of them.
        """
        asked = ("--parsable2", "--noheader", "--duplicates", "--allocations", f"--format={ACCOUNT_FIELDS}")
        done = slurm_command("sacct", *asked, f"--jobs={job}", "--starttime=2000-01-01")
        if done.returncode == 0:
            told = read_accounts(done.stdout, job)
        elif _NO_ACCOUNTING in done.stderr:
            told = ()
        else:
            raise self._silent("sacct", done.stderr)
        if told:
            return told
        view = self._queued(job)
        if view is None:
            return ()
        return (JobEvent(self.clock.now_s(), job, view.state, view.node, view.reason, view.restarts),)

    # -- asking

    def _queued(self, job: JobId) -> JobView | None:
        asked = ("--noheader", "--states=all", f"--jobs={job}", f"--Format={QUEUE_FIELDS}")
        done = slurm_command("squeue", *asked)
        if done.returncode != 0:
            if _UNKNOWN_JOB in done.stderr:
                return None
            raise self._silent("squeue", done.stderr)
        views = read_queue(done.stdout)
        if not views:
            return None
        if len(views) > 1 or views[0].job != job:
            raise BadAnswer(f"squeue was asked for job {job} and answered of {len(views)} jobs.")
        return views[0]

    def _answer(self, *arguments: str) -> str:
        done = slurm_command(*arguments)
        if done.returncode != 0:
            raise self._silent(arguments[0], done.stderr)
        return done.stdout

    def _ask(self, *arguments: str, tolerated: Sequence[str] = ()) -> str:
        """What a command said against it; empty when it did as it was told."""
        done = slurm_command(*arguments)
        said = (done.stderr + done.stdout).strip()
        if done.returncode == 0 or any(each in said for each in tolerated):
            return ""
        if _UNKNOWN_JOB in said:
            raise UnknownJob(f"Slurm knows no such job: {' '.join(arguments)}.")
        if _unreachable(said):
            raise self._silent(arguments[0], said)
        return said or "it said nothing"

    def _require_done(self, said: str, what: str) -> None:
        if said:
            raise LauncherRefused(
                f"Slurm did not {what}: {said[:300]!a}.",
                hint="Look whether this user has the right to, and at `scontrol ping`.",
            )

    def _update(self, node: str, state: str, reason: str) -> None:
        if all(each.name != node for each in self.nodes()):
            raise UnknownNode(f"Slurm knows no node {node!a}.", hint="See: sinfo --Node")
        because = (f"reason={reason}",) if reason else ()
        said = self._ask("scontrol", "update", f"nodename={node}", f"state={state}", *because)
        self._require_done(said, f"set node {node} to {state}")

    def _silent(self, command: str, said: str) -> LauncherSilent:
        require_slurm()
        return LauncherSilent(
            f"Slurm does not answer {command}: {said.strip()[:200]!a}.",
            hint="See `scontrol ping`. Jobs that run go on meanwhile.",
        )


def require_slurm() -> None:
    """Raise LauncherSilent unless Slurm's commands are on this machine."""
    missing = missing_commands(COMMANDS)
    if missing:
        raise LauncherSilent(
            f"Slurm's commands are not on this machine's PATH: {', '.join(missing)}.",
            hint="Run it on a login node of the cluster, or with --on local.",
        )


def _unreachable(said: str) -> bool:
    words = ("no answer", "Unable to contact", "configuration source", "Connection refused")
    return any(each in said for each in words)
