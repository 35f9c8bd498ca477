"""Promise 7: every figure shown was measured. Figures come from events; here they are made again."""

from __future__ import annotations

import math
from collections.abc import Iterator

from stoker.core.errors import StokerError
from stoker.core.events import EventKind
from stoker.fleet.run_folder import RunFolder
from stoker.fleet.summary import read_run
from stoker.ledger.records import RunOutcome
from stoker.promises.acts import Acts
from stoker.promises.house import OpenHouse
from stoker.promises.promise import Check, PromiseReport, judged
from stoker.promises.runs import ToldRun, unreadable

_ROUNDING_S = 1e-3


def check_figures(house: OpenHouse, runs: tuple[ToldRun, ...], acts: Acts) -> PromiseReport:
    """Make every run's figures again from its events; hold them against each other and against the ledger."""
    if not runs:
        return judged(7, [], missing="No run has trained yet, so no figure has been shown.")
    wrong = unreadable(runs)
    for run in runs:
        if not run.problem:
            wrong += [f"run {run.id}: {problem}" for problem in _problems(house, run)]
    seen = "every second has one kind, every step is counted once; no figure is a prediction"
    cut_lines = sum(run.cut_lines for run in runs)
    if cut_lines:
        seen += f"; {cut_lines} lines were cut by a crash"
    tried = f"figures of {len(runs)} runs, from their events"
    return judged(7, [Check(tried, not wrong, "; ".join(wrong[:5]) or seen), *_untouched(house, runs, acts)])


def _untouched(house: OpenHouse, runs: tuple[ToldRun, ...], acts: Acts) -> list[Check]:
    """Whether the events of runs that have ended are the very bytes that the ledger recorded at the end."""
    ended = [run for run in runs if acts.events.get(run.id)]
    if not ended:
        return []
    changed = [
        f"run {run.id}: its events were changed after its end"
        for run in ended
        if RunFolder.of(house.home.runs_dir, run.id).events_digest() != acts.events[run.id]
    ]
    tried = f"events of {len(ended)} runs against the digest that the log recorded at their end"
    return [Check(tried, not changed, "; ".join(changed[:5]) or "all hold")]


def _problems(house: OpenHouse, run: ToldRun) -> Iterator[str]:
    yield from _gaps(run)
    try:
        report = read_run(house.home, house.ledger, run.id)
    except StokerError as error:
        yield error.message
        return
    goodput = report.goodput
    total_s = sum(goodput.seconds.values())
    if not math.isclose(total_s, goodput.wall_s, abs_tol=_ROUNDING_S):
        yield f"its kinds of time add up to {total_s:.3f} s of {goodput.wall_s:.3f} s"
    standing = sum(point.stands for point in report.steps)
    if standing != goodput.steps:
        yield f"{standing} steps stand, {goodput.steps} were counted"
    if report.steps_planned != run.spec.train.steps:
        yield f"it tells of {report.steps_planned} planned steps, the ledger of {run.spec.train.steps}"
    for figure in report.evaluations:
        if figure.bits_per_byte is not None and (figure.bits_per_byte < 0 or figure.bytes <= 0):
            yield f"{figure.name} has {figure.bits_per_byte} bits a byte on {figure.bytes} bytes"


def _gaps(run: ToldRun) -> Iterator[str]:
    """Whether events are missing: only a supervisor that crashed may leave a cut line, or no end."""
    begun = list(run.of_kind(EventKind.RUN_STARTED))
    ended = list(run.of_kind(EventKind.RUN_ENDED))
    if not begun or run.events[0].kind is not EventKind.RUN_STARTED:
        yield "its events do not begin with its beginning"
    crashed = len(begun) - len(ended)
    if run.cut_lines and crashed <= 0:
        yield f"{run.cut_lines} lines of its events are cut, and no supervisor of it crashed"
    outcome = run.record.outcome
    if outcome in (RunOutcome.FINISHED, RunOutcome.CANCELLED):
        last = ended[-1].text("outcome") if ended else "nothing"
        if not ended or run.events[-1] is not ended[-1]:
            yield f"its events are cut before its end, which the ledger recorded as {outcome}"
        elif last != outcome:
            yield f"its events end with {last}, the ledger with {outcome}"
