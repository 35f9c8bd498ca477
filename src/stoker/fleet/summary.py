"""What became of a run, for the terminal, scripts and the report page: from its events and the ledger."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from stoker.core.config import from_plain
from stoker.core.events import Event, EventFile, EventKind, read_events
from stoker.core.home import Home
from stoker.core.ids import RunId
from stoker.core.isolation import Isolation, IsolationState
from stoker.fleet.attempt_lock import lock_is_free
from stoker.fleet.errors import BadRunFolder
from stoker.fleet.exposures import ExposureFigure, exposures_of
from stoker.fleet.feed_waits import FeedWaits, feed_waits
from stoker.fleet.goodput import Goodput, account
from stoker.fleet.job_journal import read_journal
from stoker.fleet.launchers import JobEvent, JobState
from stoker.fleet.lineage import Lineage, lineage_of
from stoker.fleet.links import Link
from stoker.fleet.measured import EarlyStop, MeasuredFigure, early_stop_of, measured_of
from stoker.fleet.recoveries import Placed, Recovery, find_recoveries
from stoker.fleet.run_folder import RunFolder
from stoker.fleet.slurm.job_folder import JobFolder
from stoker.fleet.stragglers import NONE_TOLD, Stragglers, find_stragglers
from stoker.fleet.timeline import Timeline
from stoker.fleet.verdict import RunError, Verdict
from stoker.ledger.ledger import Ledger
from stoker.ledger.records import RunOutcome, RunRecord
from stoker.spec.run import EvaluateSpec


@dataclass(frozen=True, slots=True)
class StepPoint:
    """One step as it was told; it stands unless a later attempt did it again. `loss` in nats a token."""

    step: int
    attempt: int
    at_s: float
    loss: float | None
    lr: float
    grad_norm: float | None
    tokens: int
    stands: bool


@dataclass(frozen=True, slots=True)
class CheckpointPoint:
    """One committed checkpoint; training stood still for `stall_s`."""

    step: int
    attempt: int
    sequence: int
    at_s: float
    stall_s: float
    bytes: int


@dataclass(frozen=True, slots=True)
class EvaluationFigure:
    """Bits per byte of `name` on the held-out bytes; `tokens` is None where there are none (a compressor)."""

    name: str
    bits_per_byte: float | None
    bytes: int
    tokens: int | None
    seconds: float


@dataclass(frozen=True, slots=True)
class LastProbe:
    """What the newest look for a way out found, `at_s` after the run began, and how many there were."""

    state: IsolationState
    reason: str
    at_s: float
    attempt: int
    probes: int


@dataclass(frozen=True, slots=True)
class RunReport:
    """Everything that is known of a run. Times `at_s` are seconds since it began.

    `error` is why it failed; None when it did not, and when it goes on again. `abandoned`: it counts as
    running, but its supervisor is gone and could not record the end, since it was killed or the disk full.
    """

    kind: ClassVar[str] = "run_report"
    version: ClassVar[int] = 1

    run: RunId
    name: str
    outcome: RunOutcome
    error: RunError | None
    abandoned: bool
    started_by: str
    started_s: float
    ended_s: float | None
    spec_digest: str
    steps_planned: int
    parameters: int | None
    steps: tuple[StepPoint, ...]
    checkpoints: tuple[CheckpointPoint, ...]
    recoveries: tuple[Recovery, ...]
    evaluations: tuple[EvaluationFigure, ...]
    measured: tuple[MeasuredFigure, ...]
    early_stop: EarlyStop | None
    exposures: tuple[ExposureFigure, ...]
    sample: str | None
    goodput: Goodput
    isolation: Isolation | None
    probe: LastProbe | None
    links: tuple[Link, ...]
    device: str
    """Where the newest attempt computed, and why there; empty for a run of before it was told."""
    lineage: Lineage
    cut_lines: int
    feed: FeedWaits
    stragglers: Stragglers = NONE_TOLD
    jobs: tuple[JobEvent, ...] = ()
    """What happened to the jobs in which it ran, oldest first; none for a run without a launcher."""


@dataclass(frozen=True, slots=True)
class RunSummary:
    """What `stoker train` answers: how the run ended, and the figures that matter."""

    kind: ClassVar[str] = "run_summary"
    version: ClassVar[int] = 1

    run: RunId
    outcome: RunOutcome
    error: RunError | None
    isolation: Isolation
    folder: str
    last_step: int
    steps_planned: int
    last_loss: float | None
    last_checkpoint_step: int | None
    recoveries: tuple[Recovery, ...]
    evaluations: tuple[EvaluationFigure, ...]
    measured: tuple[MeasuredFigure, ...]
    early_stop: EarlyStop | None
    exposures: tuple[ExposureFigure, ...]
    sample: str | None
    goodput: Goodput
    feed: FeedWaits


def read_run(home: Home, ledger: Ledger, run_id: RunId) -> RunReport:
    """The report of a run, while it goes on or after its end.

    Raises UnknownRun, BadRunFolder when its events are not there, BadEvent when they are malformed.
    """
    record = ledger.catalogue.run(run_id)
    folder = RunFolder.of(home.runs_dir, run_id)
    try:
        told = read_events(folder.events)
    except FileNotFoundError as error:
        raise BadRunFolder(
            f"{folder.events} is not there.",
            hint="The run was started on another machine, or its folder was removed; restore it.",
        ) from error
    jobs = read_journal(JobFolder.of(home.runs_dir, run_id).journal)
    waits = bool(jobs) and jobs[-1].state in (JobState.WAITING, JobState.REQUEUED)
    free = lock_is_free(supervisor_lock(home, run_id))
    abandoned = record.outcome is RunOutcome.RUNNING and free and not waits
    return report(record, lineage_of(ledger, record), told, abandoned=abandoned, jobs=jobs)


def supervisor_lock(home: Home, run: RunId) -> Path:
    """What the supervisor of a run holds while it lives."""
    return home.locks_dir / f"run-{run}.lock"


def report(
    record: RunRecord,
    lineage: Lineage,
    told: EventFile,
    *,
    abandoned: bool,
    jobs: Sequence[JobEvent] = (),
) -> RunReport:
    """The report of the run with these records and events, and its job's journal."""
    placed = tuple(place_events(told.events))
    started = _of_kind(placed, EventKind.RUN_STARTED)
    samples = _of_kind(placed, EventKind.SAMPLE)
    ready = _of_kind(placed, EventKind.RANK_READY)
    return RunReport(
        run=record.id,
        name=record.name,
        outcome=record.outcome,
        error=error_at_end(placed),
        abandoned=abandoned,
        started_by=record.started_by,
        started_s=record.started_s,
        ended_s=record.ended_s,
        spec_digest=record.spec_digest,
        steps_planned=int(started[-1].event.number("steps")) if started else 0,
        parameters=int(ready[-1].event.number("parameters")) if ready else None,
        steps=standing_steps(placed),
        checkpoints=tuple(_checkpoint(each) for each in _of_kind(placed, EventKind.CHECKPOINT_COMMITTED)),
        recoveries=find_recoveries(placed),
        evaluations=_evaluations(placed),
        measured=measured_of(told.events),
        early_stop=early_stop_of(told.events),
        exposures=exposures_of(told.events, _exposure_limit(record)),
        sample=samples[-1].event.text("text") if samples else None,
        goodput=account(told.events, jobs=jobs),
        isolation=_isolation(placed),
        probe=_last_probe(placed),
        links=_links(placed),
        device=_device(placed),
        lineage=lineage,
        cut_lines=told.cut_lines,
        feed=feed_waits(told.events),
        stragglers=find_stragglers(told.events),
        jobs=tuple(jobs),
    )


def _exposure_limit(record: RunRecord) -> float:
    """What the run's file, as it was recorded, allows; the strictest for a record that does not say."""
    asked = record.spec.get("evaluate")
    limit = asked.get("exposure_limit_bits") if isinstance(asked, Mapping) else None
    return float(limit) if isinstance(limit, int | float) else EvaluateSpec().exposure_limit_bits


def summarise(full: RunReport, verdict: Verdict, folder: RunFolder) -> RunSummary:
    """The short answer from the long one."""
    standing = [each for each in full.steps if each.stands]
    return RunSummary(
        run=full.run,
        outcome=full.outcome,
        error=verdict.error,
        isolation=verdict.isolation,
        folder=str(folder.path),
        last_step=standing[-1].step if standing else 0,
        steps_planned=full.steps_planned,
        last_loss=standing[-1].loss if standing else None,
        last_checkpoint_step=full.checkpoints[-1].step if full.checkpoints else None,
        recoveries=full.recoveries,
        evaluations=full.evaluations,
        measured=full.measured,
        early_stop=full.early_stop,
        exposures=full.exposures,
        sample=full.sample,
        goodput=full.goodput,
        feed=full.feed,
    )


def place_events(events: Iterable[Event]) -> Iterable[Placed]:
    """Each event with its place on the run's line of time, which stands still between two supervisors."""
    timeline, begun = Timeline(), False
    for event in events:
        if event.kind is EventKind.RUN_STARTED or not begun:
            timeline.anchor(event)
            begun = True
        else:
            timeline.advance(event)
        yield Placed(timeline.position_s, event)


def _of_kind(placed: Iterable[Placed], kind: EventKind) -> list[Placed]:
    return [each for each in placed if each.event.kind is kind]


def standing_steps(placed: Iterable[Placed]) -> tuple[StepPoint, ...]:
    """Steps in the order told; one stands unless a later attempt, or a roll-back, went behind it."""
    points: list[StepPoint] = []
    undone_from: list[tuple[int, int]] = []
    for each in placed:
        event = each.event
        if event.kind is EventKind.ATTEMPT_STARTED:
            undone_from.append((len(points), int(event.number("resume_step"))))
        elif event.kind is EventKind.ROLLED_BACK and event.rank == 0:
            undone_from.append((len(points), int(event.number("to_step"))))
        elif event.kind is EventKind.STEP and event.rank == 0:
            points.append(
                StepPoint(
                    step=int(event.number("step")),
                    attempt=event.attempt,
                    at_s=each.at_s,
                    loss=_finite(event.number("loss")),
                    lr=event.number("lr"),
                    grad_norm=_finite(event.number("grad_norm")),
                    tokens=int(event.number("tokens")),
                    stands=True,
                )
            )
    return tuple(
        point
        if not any(place < before and point.step > resume_step for before, resume_step in undone_from)
        else replace(point, stands=False)
        for place, point in enumerate(points)
    )


def _checkpoint(placed: Placed) -> CheckpointPoint:
    event = placed.event
    return CheckpointPoint(
        step=int(event.number("step")),
        attempt=event.attempt,
        sequence=int(event.number("sequence")),
        at_s=placed.at_s,
        stall_s=event.number("stall_s"),
        bytes=int(event.number("bytes")),
    )


def _evaluations(placed: Iterable[Placed]) -> tuple[EvaluationFigure, ...]:
    """The newest figure of each name, in the order in which the names came up."""
    newest: dict[str, EvaluationFigure] = {}
    for each in _of_kind(placed, EventKind.EVALUATION):
        event = each.event
        tokens = event.fields.get("tokens")
        newest[event.text("name")] = EvaluationFigure(
            name=event.text("name"),
            bits_per_byte=_finite(event.number("bits_per_byte")),
            bytes=int(event.number("bytes")),
            tokens=tokens if isinstance(tokens, int) else None,
            seconds=event.number("seconds"),
        )
    return tuple(newest.values())


def error_at_end(placed: Iterable[Placed]) -> RunError | None:
    """Why the run ended as it did, unless it ended well or goes on again."""
    ends = [each.event for each in placed if each.event.kind in (EventKind.RUN_STARTED, EventKind.RUN_ENDED)]
    if not ends or ends[-1].kind is EventKind.RUN_STARTED or not ends[-1].fields.get("error_id"):
        return None
    told = ends[-1].fields
    error_id, message, hint = (str(told.get(name, "")) for name in ("error_id", "message", "hint"))
    code = told.get("exit_code")
    return RunError(error_id, message, hint, code if isinstance(code, int) else 1)


def _isolation(placed: Iterable[Placed]) -> Isolation | None:
    last = _last_probe(placed)
    return None if last is None else Isolation(last.state, last.reason)


def _last_probe(placed: Iterable[Placed]) -> LastProbe | None:
    found = _of_kind(placed, EventKind.ISOLATION_PROBED)
    if not found:
        return None
    event, states = found[-1].event, {state.value: state for state in IsolationState}
    state = states.get(event.text("state"), IsolationState.OPEN)
    return LastProbe(state, event.text("reason"), found[-1].at_s, event.attempt, len(found))


def _device(placed: Iterable[Placed]) -> str:
    started = _of_kind(placed, EventKind.ATTEMPT_STARTED)
    told = started[-1].event.fields if started else {}
    return f"{told['device']}: {told.get('device_because', '')}" if told.get("device") else ""


def _links(placed: Iterable[Placed]) -> tuple[Link, ...]:
    """The links of the newest attempt; none for a run of before they were told."""
    started = _of_kind(placed, EventKind.ATTEMPT_STARTED)
    told = started[-1].event.fields.get("links") if started else None
    if not isinstance(told, list):
        return ()
    return tuple(from_plain(Link, each, "a link in the run's events") for each in told)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
