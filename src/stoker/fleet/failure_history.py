"""What this home's runs say of how often a node fails: for the checkpoint interval of the next one.

See docs/design/goodput.md, "How often to save".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from stoker.core.errors import StokerError
from stoker.core.events import Event, read_events
from stoker.fleet.fleet_account import counted_failures, run_time
from stoker.fleet.run_folder import RunFolder
from stoker.ledger.records import RunOutcome, RunRecord
from stoker.spec.reliability import DAY_S, FailureRate

LOOKS_BACK_S: Final = 90 * DAY_S
MOST_RUNS: Final = 200


def believed_rate(
    prior: FailureRate, runs_dir: Path, records: Iterable[RunRecord], now_s: float
) -> FailureRate:
    """`prior` after the runs that ended in the last 90 days, the newest 200 of them.

    A run whose events cannot be read tells nothing.
    """
    ended = [each for each in records if each.outcome is not RunOutcome.RUNNING and each.ended_s is not None]
    recent = [each for each in ended if (each.ended_s or 0.0) >= now_s - LOOKS_BACK_S]
    rate = prior
    for record in recent[-MOST_RUNS:]:
        try:
            events = read_events(RunFolder.of(runs_dir, record.id).events).events
        except (StokerError, OSError):
            continue
        rate = after_run(rate, events)
    return rate


def after_run(rate: FailureRate, events: Sequence[Event]) -> FailureRate:
    """`rate` after what the events of one run say; failures on purpose and those of users count nothing."""
    told = run_time("", "", events)
    return rate.seen(counted_failures(told), told.goodput.alive_s * told.nodes)
