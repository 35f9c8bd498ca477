"""Where the time of one run or of a whole fleet went, how often it failed, and what formulas expect of it.

From events alone. See docs/design/goodput.md.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

from stoker.core.events import Event, EventKind
from stoker.fleet.attribution import Attribution
from stoker.fleet.goodput import Goodput, TimeKind, account
from stoker.fleet.launchers import JobEvent
from stoker.fleet.poisson import rate_interval
from stoker.fleet.taxonomy import Component, FailureKind
from stoker.spec.reliability import DAY_S, expected_ettr

COUNTED: Final = frozenset(
    {FailureKind.SYSTEM_SOFTWARE, FailureKind.HARDWARE, FailureKind.NETWORK, FailureKind.UNKNOWN}
)
"""Failures of the fleet; what a user, data or a pre-emption ended says nothing of its nodes."""


@dataclass(frozen=True, slots=True)
class RunTime:
    """One run's account, what it failed of, and what its attempts were like.

    `world_size` and `nodes` are those of its newest attempt; `injected` failures, made on purpose, are not in
    `failures`. Means over the run in seconds, None where there was nothing to measure.
    """

    run: str
    name: str
    world_size: int
    nodes: int
    goodput: Goodput
    failures: tuple[tuple[FailureKind, Component], ...]
    injected: int
    interval_s: float | None
    write_s: float | None
    recovery_s: float | None


@dataclass(frozen=True, slots=True)
class MttfRow:
    """Mean time to failure of runs of `least` to `most` ranks, with its exact interval at 95 %.

    `high_s` is None where the failures seen leave any longer time possible; `mttf_s` None without a failure.
    """

    least: int
    most: int
    runs: int
    alive_s: float
    failures: int
    mttf_s: float | None
    low_s: float | None
    high_s: float | None


@dataclass(frozen=True, slots=True)
class ComponentRow:
    """How often a component failed, per 1,000 node-days, with its exact interval at 95 %."""

    kind: FailureKind
    component: Component
    failures: int
    per_1000_node_days: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Expectation:
    """What ETTR formulas expect of one run beside what it had, from its own measured means.

    `mttf_s` is the run's own, or what the fleet's rate says for its nodes when it never failed (`assumed`).
    Outside of the closed form's range, `exponential` is the one to look at.
    """

    run: str
    measured: float | None
    closed: float
    exponential: float
    within_range: bool
    mttf_s: float
    assumed: bool


@dataclass(frozen=True, slots=True)
class FleetGoodput:
    """The account of some runs together. Seconds are node-seconds: each once for every node that was held."""

    kind: ClassVar[str] = "goodput"
    version: ClassVar[int] = 1

    since_s: float | None
    runs: tuple[RunTime, ...]
    node_seconds: Mapping[TimeKind, float]
    ettr: float | None
    failures: int
    by_size: tuple[MttfRow, ...]
    by_component: tuple[ComponentRow, ...]
    expected: tuple[Expectation, ...]
    skipped: tuple[str, ...]
    """Runs whose events could not be read, with the reason."""


def run_time(
    run: str,
    name: str,
    events: Sequence[Event],
    since_s: float = -math.inf,
    jobs: Sequence[JobEvent] = (),
) -> RunTime:
    """One run's account, of what happened from `since_s` on, on the wall clock. `jobs`: its job's journal."""
    recent = [event for event in events if event.ts >= since_s]
    failures, injected = _failures(recent)
    started = [event for event in events if event.kind is EventKind.ATTEMPT_STARTED]
    world_size = int(started[-1].number("world_size")) if started else 0
    nodes = started[-1].fields.get("nodes") if started else None
    goodput = account(events, since_s, jobs)
    lost_s = sum(goodput.seconds[kind] for kind in (TimeKind.DETECTION, TimeKind.HANG, TimeKind.RESTART))
    return RunTime(
        run=run,
        name=name,
        world_size=world_size,
        nodes=nodes if isinstance(nodes, int) and nodes > 0 else 1,
        goodput=goodput,
        failures=failures,
        injected=injected,
        interval_s=_between_checkpoints_s(recent),
        write_s=_mean([event.number("stall_s") for event in _commits(recent)]),
        recovery_s=lost_s / goodput.failures if goodput.failures else None,
    )


def fleet_goodput(
    runs: Iterable[RunTime], *, since_s: float | None = None, skipped: Sequence[str] = ()
) -> FleetGoodput:
    """All of them together; runs that were not alive in the time asked for are left out."""
    alive = tuple(run for run in runs if run.goodput.wall_s > 0)
    seconds = {kind: math.fsum(run.goodput.node_seconds[kind] for run in alive) for kind in TimeKind}
    whole_s = math.fsum(seconds.values())
    return FleetGoodput(
        since_s=since_s,
        runs=alive,
        node_seconds=seconds,
        ettr=seconds[TimeKind.PRODUCTIVE] / whole_s if whole_s > 0 else None,
        failures=sum(len(run.failures) for run in alive),
        by_size=mttf_by_size(alive),
        by_component=rates_by_component(alive),
        expected=tuple(found for run in alive if (found := expectation(run, alive)) is not None),
        skipped=tuple(skipped),
    )


def mttf_by_size(runs: Sequence[RunTime]) -> tuple[MttfRow, ...]:
    """Runs put together by how many ranks they had, each class twice as large as the one before."""
    classes: dict[int, list[RunTime]] = {}
    for run in runs:
        classes.setdefault(max(run.world_size, 1).bit_length() - 1, []).append(run)
    rows = []
    for place, members in sorted(classes.items()):
        alive_s = math.fsum(run.goodput.alive_s for run in members)
        failures = sum(counted_failures(run) for run in members)
        rate = rate_interval(failures, alive_s)
        rows.append(
            MttfRow(
                least=1 << place,
                most=(2 << place) - 1,
                runs=len(members),
                alive_s=alive_s,
                failures=failures,
                mttf_s=1 / rate.value if rate is not None and rate.value > 0 else None,
                low_s=1 / rate.high if rate is not None else None,
                high_s=1 / rate.low if rate is not None and rate.low > 0 else None,
            )
        )
    return tuple(rows)


def rates_by_component(runs: Sequence[RunTime]) -> tuple[ComponentRow, ...]:
    """Every kind and component that failed, the most frequent first."""
    node_days = math.fsum(run.goodput.alive_s * run.nodes for run in runs) / DAY_S
    counts = Counter(failure for run in runs for failure in run.failures)
    rows = []
    for (kind, component), failures in sorted(counts.items(), key=lambda each: (-each[1], each[0])):
        rate = rate_interval(failures, node_days / 1000)
        bounds = (None, None, None) if rate is None else (rate.value, rate.low, rate.high)
        rows.append(ComponentRow(kind, component, failures, *bounds))
    return tuple(rows)


def expectation(run: RunTime, fleet: Sequence[RunTime]) -> Expectation | None:
    """What the formulas expect of `run`; None where it saved no two checkpoints, or nothing ever failed."""
    if run.interval_s is None or run.write_s is None:
        return None
    failures = counted_failures(run) + run.injected
    assumed = failures == 0
    if assumed:
        node_s = math.fsum(each.goodput.alive_s * each.nodes for each in fleet)
        seen = sum(counted_failures(each) for each in fleet)
        mttf_s = node_s / seen / run.nodes if seen else 0.0
    else:
        mttf_s = run.goodput.alive_s / failures
    if mttf_s <= 0:
        return None
    means = [each.recovery_s for each in fleet if each.recovery_s is not None]
    recovery_s = run.recovery_s if run.recovery_s is not None else (_mean(means) or 0.0)
    found = expected_ettr(1 / mttf_s, recovery_s, run.interval_s, run.write_s)
    return Expectation(
        run.run,
        run.goodput.ettr,
        found.closed,
        found.exponential,
        found.within_range,
        mttf_s,
        assumed,
    )


def counted_failures(run: RunTime) -> int:
    """How many of a run's failures say something of its nodes."""
    return sum(kind in COUNTED for kind, _ in run.failures)


def _failures(events: Iterable[Event]) -> tuple[tuple[tuple[FailureKind, Component], ...], int]:
    """What each failed attempt died of, and how many were failed on purpose."""
    found: list[tuple[FailureKind, Component]] = []
    injected, on_purpose = 0, False
    for event in events:
        if event.kind is EventKind.ATTEMPT_STARTED:
            on_purpose = False
        elif event.kind is EventKind.FAULT_INJECTED:
            on_purpose = True
        elif event.kind is EventKind.ATTEMPT_ENDED and event.text("outcome") == "failed":
            why = Attribution.told_in(event)
            if on_purpose:
                injected += 1
            elif why is None:
                found.append((FailureKind.UNKNOWN, Component.NONE))
            else:
                found.append((why.kind, why.component))
    return tuple(found), injected


def _commits(events: Iterable[Event]) -> list[Event]:
    return [event for event in events if event.kind is EventKind.CHECKPOINT_COMMITTED]


def _between_checkpoints_s(events: Iterable[Event]) -> float | None:
    """The mean training time between checkpoints of one attempt: steps, without what else came between."""
    spans: list[float] = []
    since_s, begun = 0.0, False
    for event in events:
        if event.kind is EventKind.ATTEMPT_STARTED:
            since_s, begun = 0.0, True
        elif event.kind is EventKind.STEP and event.rank == 0:
            step_s = event.number("step_s")
            since_s += step_s if math.isfinite(step_s) and step_s > 0 else 0.0
        elif event.kind is EventKind.CHECKPOINT_COMMITTED:
            if begun and since_s > 0:
                spans.append(since_s)
            since_s, begun = 0.0, True
    return _mean(spans)


def _mean(values: Sequence[float]) -> float | None:
    fine = [value for value in values if math.isfinite(value) and value >= 0]
    return math.fsum(fine) / len(fine) if fine else None
