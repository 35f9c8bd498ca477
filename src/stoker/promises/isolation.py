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
        open_rooms = [check for check in _prepared(acts) if not check.held]
        return judged(5, [*open_rooms, *acts.readable()], missing=missing)
    wrong = unreadable(runs)
    attempts, ways = 0, set[str]()
    for run in runs:
        probed: dict[int, str] = {}
        why: dict[int, str] = {}
        served: dict[int, str] = {}
        for event in run.events:
            if event.kind is EventKind.ISOLATION_PROBED:
                probed[event.attempt] = event.text("state")
                why[event.attempt] = event.text("reason")
                ways.add(event.text("reason"))
            elif event.rank >= 0 and served.get(event.attempt) in (None, IsolationState.ISOLATED):
                served[event.attempt] = probed.get(event.attempt, "never probed")
        attempts += len(served)
        wrong += [
            f"run {run.id}, attempt {attempt}, had its keys while {state}: {why.get(attempt, 'nothing told')}"
            for attempt, state in served.items()
            if state != IsolationState.ISOLATED
        ]
        if not run.problem:
            wrong += _untold(run, acts, probed)
    tried = f"the probe of {attempts} attempts, each before its ranks had keys"
    seen = "; ".join(wrong[:5]) or "; ".join(sorted(ways)) or "no attempt had keys"
    isolated = now.state is IsolationState.ISOLATED
    live = Check("a process isolated just now, as ranks are", isolated, f"{now.state}: {now.reason}")
    return judged(5, [Check(tried, not wrong, seen), *_prepared(acts), *acts.readable(), live])


def _prepared(acts: Acts) -> Iterator[Check]:
    """What read documents in preparations had no network, on every node that did tasks of them."""
    if not acts.rooms:
        return
    wrong = [
        f"dataset {room.dataset}, version {room.version[:8]}, on {room.node}: {room.state}, {room.reason}"
        for room in acts.rooms
        if room.state != IsolationState.ISOLATED
    ]
    nodes = len({room.node for room in acts.rooms})
    versions = len({(room.dataset, room.version) for room in acts.rooms})
    tried = f"the processes that read documents in {versions} preparations on {nodes} nodes"
    yield Check(tried, not wrong, "; ".join(wrong[:5]) or "none of them had a network")


def _untold(run: ToldRun, acts: Acts, probed: dict[int, str]) -> Iterator[str]:
    """The log says which attempts had keys; each of them must have told of its probe."""
    for lease in acts.leases.get(run.id, ()):
        state = probed.get(lease.attempt, "never probed")
        if state != IsolationState.ISOLATED:
            yield f"run {run.id}, attempt {lease.attempt}, was leased its keys while {state}"
