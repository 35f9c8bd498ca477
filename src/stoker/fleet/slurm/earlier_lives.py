"""What became of the lives of a job before this one, by accounting, where nobody told it.

A life that Slurm takes away at once tells nothing itself, and not every home has a watch. The journal gets
what accounting says, so that attribution and goodput find it. See docs/design/slurm.md, "The keeper".
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeAlias

from stoker.core.errors import StokerError
from stoker.fleet.job_journal import append_event, read_journal
from stoker.fleet.launchers import OVER, JobEvent, JobId, JobState
from stoker.fleet.slurm.job_folder import JobFolder

Accounts: TypeAlias = Callable[[JobId], Sequence[JobEvent]]
"""What accounting says of all lives of a job."""

_ENDS: Final = OVER | {JobState.REQUEUED}


def note_earlier_lives(folder: JobFolder, environment: Mapping[str, str], accounts: Accounts) -> None:
    """In a later life of a job: add to its journal how the lives ended of which it does not say so.

    Accounting is asked only when the end of the life before is missing. Nothing is done outside of a job, and
    what cannot be asked or written stays unknown.
    """
    job, restarts = JobId(environment.get("SLURM_JOB_ID", "")), environment.get("SLURM_RESTART_COUNT", "0")
    if not job or not restarts.isdecimal():
        return
    with contextlib.suppress(StokerError, OSError):
        known = {
            each.restarts for each in read_journal(folder.journal) if each.job == job and each.state in _ENDS
        }
        if int(restarts) < 1 or int(restarts) - 1 in known:
            return
        for event in accounts(job):
            ended_before = event.state in _ENDS and event.restarts < int(restarts)
            if ended_before and event.restarts not in known:
                append_event(folder.journal, event)
