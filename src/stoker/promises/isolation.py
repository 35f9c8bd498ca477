"""Promise 5: training processes reach their peers and nothing else, or no key is leased."""

from __future__ import annotations

from stoker.core.events import EventKind
from stoker.fleet.isolation import IsolationState
from stoker.promises.promise import Check, PromiseReport, judged
from stoker.promises.runs import ToldRun, unreadable


def check_isolation(runs: tuple[ToldRun, ...]) -> PromiseReport:
    """For every attempt: a probe found no way out before the first rank had its keys."""
    wrong = unreadable(runs)
    attempts, ways = 0, set[str]()
    for run in runs:
        probed: dict[int, str] = {}
        for event in run.of_kind(EventKind.ISOLATION_PROBED, EventKind.RANK_READY):
            if event.kind is EventKind.ISOLATION_PROBED:
                probed[event.attempt] = event.text("state")
                ways.add(event.text("reason"))
            elif event.rank == 0:
                attempts += 1
                state = probed.get(event.attempt, "never probed")
                if state != IsolationState.ISOLATED:
                    wrong.append(f"run {run.id}, attempt {event.attempt}, had its keys while {state}")
    if not attempts and not wrong:
        return judged(5, [], missing="No run has trained yet.")
    tried = f"the probe of {attempts} attempts, each before its ranks had keys"
    return judged(5, [Check(tried, not wrong, "; ".join(wrong[:5]) or "; ".join(sorted(ways)))])
