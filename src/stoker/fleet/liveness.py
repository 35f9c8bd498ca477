"""Whether processes of a recorded run exist, for whoever must not take its data away.

Gone is a lock: the supervisor's, and the one that every process of an attempt holds. See
docs/design/fleet.md.
"""

from __future__ import annotations

from dataclasses import dataclass

from stoker.core.home import Home
from stoker.fleet.attempt_lock import held_lock, lock_is_free
from stoker.fleet.run_folder import RunFolder
from stoker.fleet.summary import supervisor_lock
from stoker.intake.life import RunStanding
from stoker.ledger.records import RunOutcome, RunRecord


@dataclass(frozen=True, slots=True)
class HomeWatch:
    """Watches the runs of one home. A run that was started in another home is `elsewhere` while it runs."""

    home: Home

    def standing(self, run: RunRecord) -> RunStanding:
        """Asks the locks, whatever the ledger says of the outcome: a record may be ahead of the last process.

        The supervisor's lock is asked first, so that a run that is well is not disturbed.
        """
        running = run.outcome is RunOutcome.RUNNING
        folder = RunFolder.of(self.home.runs_dir, run.id)
        if not folder.run_file.exists():
            return RunStanding.ELSEWHERE if running else RunStanding.ENDED
        if not (lock_is_free(supervisor_lock(self.home, run.id)) and held_lock(folder) is None):
            return RunStanding.LIVE
        return RunStanding.ABANDONED if running else RunStanding.ENDED

    def last_sign_s(self, run: RunRecord) -> float | None:
        """When its file of events was last written: heartbeats reach it at most half a second late."""
        try:
            return RunFolder.of(self.home.runs_dir, run.id).events.stat().st_mtime
        except OSError:
            return None
