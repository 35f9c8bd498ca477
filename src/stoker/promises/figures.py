"""Promise 7: every figure shown was measured. Figures come from events; here they are made again."""

from __future__ import annotations

import math

from stoker.core.errors import StokerError
from stoker.fleet.summary import read_run
from stoker.promises.house import OpenHouse
from stoker.promises.promise import Check, PromiseReport, judged
from stoker.promises.runs import ToldRun, unreadable

_ROUNDING_S = 1e-3


def check_figures(house: OpenHouse, runs: tuple[ToldRun, ...]) -> PromiseReport:
    """Make every run's figures again from its events and hold them against each other."""
    if not runs:
        return judged(7, [], missing="No run has trained yet, so no figure has been shown.")
    wrong = unreadable(runs)
    for run in runs:
        if run.problem:
            continue
        try:
            report = read_run(house.home, house.ledger, run.id)
        except StokerError as error:
            wrong.append(f"run {run.id}: {error.message}")
            continue
        goodput = report.goodput
        total = sum(goodput.seconds.values())
        if not math.isclose(total, goodput.wall_s, abs_tol=_ROUNDING_S):
            wrong.append(f"run {run.id}: its kinds of time add up to {total:.3f} s of {goodput.wall_s:.3f} s")
        standing = sum(point.stands for point in report.steps)
        if standing != goodput.steps:
            wrong.append(f"run {run.id}: {standing} steps stand, {goodput.steps} were counted")
    seen = "every second has one kind, every step is counted once; no figure is a prediction"
    return judged(
        7, [Check(f"figures of {len(runs)} runs, from their events", not wrong, "; ".join(wrong[:5]) or seen)]
    )
