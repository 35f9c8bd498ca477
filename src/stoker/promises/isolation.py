"""Promise 5: training processes reach their peers and nothing else, or no key is leased."""

from __future__ import annotations

from collections.abc import Iterator

from stoker.core.events import EventKind
from stoker.core.isolation import Isolation, IsolationState
from stoker.promises.acts import Acts
from stoker.promises.promise import Check, PromiseReport, judged
from stoker.promises.runs import ToldRun, unreadable


def check_isolation(runs: tuple[ToldRun, ...], acts: Acts, now: Isolation) -> PromiseReport:
    """For every attempt: a probe found no way out before its ranks existed. `now` is one of this moment."""
    if not runs:
        missing = f"No run has trained yet. A process isolated just now: {now.state}; {now.reason}."
        return judged(5, acts.readable(), missing=missing)
    wrong = unreadable(runs)
    attempts, ways = 0, set[str]()
    for run in runs:
        probed: dict[int, str] = {}
        served: dict[int, str] = {}
        for event in run.events:
            if event.kind is EventKind.ISOLATION_PROBED:
                probed[event.attempt] = event.text("state")
                ways.add(event.text("reason"))
            elif event.rank >= 0 and served.get(event.attempt) in (None, IsolationState.ISOLATED):
                served[event.attempt] = probed.get(event.attempt, "never probed")
        attempts += len(served)
        wrong += [
            f"run {run.id}, attempt {attempt}, had its keys while {state}"
            for attempt, state in served.items()
            if state != IsolationState.ISOLATED
        ]
        if not run.problem:
            wrong += _untold(run, acts, probed)
    tried = f"the probe of {attempts} attempts, each before its ranks had keys"
    seen = "; ".join(wrong[:5]) or "; ".join(sorted(ways)) or "no attempt had keys"
    isolated = now.state is IsolationState.ISOLATED
    live = Check("a process isolated just now, as ranks are", isolated, f"{now.state}: {now.reason}")
    return judged(5, [Check(tried, not wrong, seen), *acts.readable(), live])


def _untold(run: ToldRun, acts: Acts, probed: dict[int, str]) -> Iterator[str]:
    """The log says which attempts had keys; each of them must have told of its probe."""
    for lease in acts.leases.get(run.id, ()):
        state = probed.get(lease.attempt, "never probed")
        if state != IsolationState.ISOLATED:
            yield f"run {run.id}, attempt {lease.attempt}, was leased its keys while {state}"
