"""Where the time of a run went, from its events alone. The rules are in docs/design/fleet.md, "Accounting".

Every second between the start and the end of a run belongs to exactly one kind. Rank 0 stands for all ranks:
they wait for one another in every step.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from stoker.core.events import Event, EventKind, Section
from stoker.fleet.job_waits import PREEMPTED, QUEUED, STARTING, UNNOTICED, with_job_waits
from stoker.fleet.launchers import JobEvent
from stoker.fleet.timeline import Timeline


class TimeKind(enum.StrEnum):
    """What a second of a run was spent on."""

    START_UP = "start_up"
    PRODUCTIVE = "productive"
    CHECKPOINT = "checkpoint"
    DATA_WAIT = "data_wait"
    EVALUATE = "evaluate"
    COMPILATION = "compilation"
    LOST = "lost"
    DETECTION = "detection"
    HANG = "hang"
    RESTART = "restart"
    QUEUE = "queue"
    PREEMPTION = "preemption"
    IDLE_SPARE = "idle_spare"
    """Of nodes, not of the run: what waits in the allocation for another node's failure."""

    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Goodput:
    """The account of one run. Times in seconds, tokens of steps that stand.

    `ettr` is productive over wall time. `tokens_per_s` is over the time of standing steps,
    `tokens_per_s_of_run` over the wall time. `mttf_s` is the time with an attempt alive over its failures;
    it is None without a failure; a pre-emption is none. `node_seconds` counts each second once for every node
    that the attempt then had, spare ones as idle. `stopped_s` lies between two supervisors of a run and is
    not wall time.
    `clock_steps_back` counts events whose clock was more than a second behind; they take no time away.
    """

    wall_s: float
    seconds: Mapping[TimeKind, float]
    ettr: float | None
    steps: int
    steps_lost: int
    tokens: int
    tokens_lost: int
    tokens_per_s: float | None
    tokens_per_s_of_run: float | None
    attempts: int
    failures: int
    faults_injected: int
    preemptions: int
    alive_s: float
    mttf_s: float | None
    node_seconds: Mapping[TimeKind, float]
    stopped_s: float
    clock_steps_back: int


_BY_SECTION: Final[Mapping[Section, TimeKind]] = {
    Section.START_UP: TimeKind.START_UP,
    Section.DATA: TimeKind.DATA_WAIT,
    Section.CHECKPOINT: TimeKind.CHECKPOINT,
    Section.EVALUATE: TimeKind.EVALUATE,
}
"""Time outside of steps; the other sections count as other."""

_SECTIONS: Final[Mapping[str, Section]] = {section.value: section for section in Section}
_FAILED: Final = "failed"
_PREEMPTION: Final = "preemption"


class _Stage(enum.Enum):
    """What the time of rank 0 belongs to until something else happens."""

    OUTSIDE = enum.auto()
    GETTING_READY = enum.auto()
    WORKING = enum.auto()
    FAULTY = enum.auto()
    RECOVERING = enum.auto()
    ENDING = enum.auto()


@dataclass(slots=True)
class _DoneStep:
    seconds: dict[TimeKind, float]
    tokens: int
    nodes: int


@dataclass(slots=True)
class _Fold:
    """The account while events are read in order; of what lies before `since_s` only what follows from it."""

    since_s: float = -math.inf
    timeline: Timeline = field(default_factory=Timeline)
    seconds: dict[TimeKind, float] = field(default_factory=lambda: dict.fromkeys(TimeKind, 0.0))
    node_seconds: dict[TimeKind, float] = field(default_factory=lambda: dict.fromkeys(TimeKind, 0.0))
    nodes: int = 1
    spares: int = 0
    preempted: bool = False
    counting: bool = False
    stage: _Stage = _Stage.OUTSIDE
    section: Section = Section.START_UP
    first_of_session: bool = True
    pending: list[tuple[TimeKind, float]] = field(default_factory=list)
    stall_s: float = 0.0
    standing: dict[int, _DoneStep] = field(default_factory=dict)
    steps_lost: int = 0
    tokens_lost: int = 0
    sessions: int = 0
    wall_s: float = 0.0
    alive_s: float = 0.0
    stopped_s: float = 0.0
    attempts: int = 0
    failures: int = 0
    preemptions: int = 0
    faults: int = 0

    def take(self, event: Event) -> None:
        inside_s = math.inf
        if not self.counting and event.ts >= self.since_s:
            self._forget()
            inside_s = event.ts - self.since_s
        outside = self.stage is _Stage.OUTSIDE
        cut = outside and (event.kind is EventKind.ATTEMPT_STARTED or not self.sessions)
        if event.kind is EventKind.RUN_STARTED or cut:
            self._open_session(event, inside_s)
        elif outside:
            return
        else:
            self._spend(min(self.timeline.advance(event), inside_s))
        self._turn(event)

    def _forget(self) -> None:
        """Begin to count: the stage stays as it is, and steps of before are neither gained nor lost."""
        self.counting = True
        self.seconds = dict.fromkeys(TimeKind, 0.0)
        self.node_seconds = dict.fromkeys(TimeKind, 0.0)
        self.standing.clear()
        self.pending, self.stall_s = [], 0.0
        self.wall_s = self.alive_s = self.stopped_s = 0.0
        self.steps_lost = self.tokens_lost = self.attempts = 0
        self.failures = self.preemptions = self.faults = 0

    def _book(self, kind: TimeKind, amount_s: float, nodes: int | None = None) -> None:
        self.seconds[kind] += amount_s
        self.node_seconds[kind] += amount_s * (self.nodes if nodes is None else nodes)

    def _open_session(self, event: Event, inside_s: float) -> None:
        """A supervisor begins; where its `run_started` was cut out, the first event found stands for it.

        Of the time before it, what it says of a scheduler's queue, and of nodes without a supervisor, is the
        run's.
        """
        self._settle_by_section()
        gap_s = min(self.timeline.anchor(event), inside_s)
        left_s = gap_s if self.sessions else inside_s
        away = self.preempted or event.fields.get(PREEMPTED) is True
        away = away or event.fields.get("failure_kind") == _PREEMPTION
        for name, kind in (
            (QUEUED, TimeKind.PREEMPTION if away else TimeKind.QUEUE),
            (UNNOTICED, TimeKind.DETECTION),
            (STARTING, TimeKind.START_UP),
        ):
            told_s = min(_told_s(event, name), left_s)
            left_s -= told_s
            self.wall_s += told_s
            self._book(kind, told_s)
        self.stopped_s += left_s if self.sessions else 0.0
        self.sessions += 1
        self.preempted = False
        self.stage, self.first_of_session = _Stage.GETTING_READY, True
        self.section = Section.START_UP

    def _spend(self, passed_s: float) -> None:
        self.wall_s += passed_s
        self.node_seconds[TimeKind.IDLE_SPARE] += passed_s * self.spares
        if self.stage is _Stage.WORKING:
            self.alive_s += passed_s
            self.pending.append((_BY_SECTION.get(self.section, TimeKind.OTHER), passed_s))
        elif self.stage is _Stage.GETTING_READY:
            self.alive_s += passed_s
            self.pending.append((self._getting_ready_kind, passed_s))
        elif self.stage is _Stage.FAULTY:
            self._book(TimeKind.DETECTION, passed_s)
        elif self.preempted:
            self._book(TimeKind.PREEMPTION, passed_s)
        elif self.stage is _Stage.RECOVERING:
            self._book(TimeKind.RESTART, passed_s)
        else:
            self._book(TimeKind.OTHER, passed_s)

    @property
    def _getting_ready_kind(self) -> TimeKind:
        if self.preempted:
            return TimeKind.PREEMPTION
        return TimeKind.START_UP if self.first_of_session else TimeKind.RESTART

    def _turn(self, event: Event) -> None:
        kind = event.kind
        if kind is EventKind.ATTEMPT_STARTED:
            self._attempt_started(event)
        elif kind is EventKind.RUN_ENDED:
            self._settle_by_section()
            self.stage = _Stage.OUTSIDE
        elif kind is EventKind.CANCEL_REQUESTED:
            self._settle_by_section()
            self.preempted = event.fields.get("reason") == _PREEMPTION
            self.stage = _Stage.ENDING
        elif kind is EventKind.FAULT_INJECTED:
            self.faults += 1
            if self.stage in (_Stage.WORKING, _Stage.GETTING_READY):
                self._settle_as_lost()
                self.stage = _Stage.FAULTY
        elif kind is EventKind.REGROUPING:
            self._settle_by_section()
            self.stage = _Stage.RECOVERING
        elif kind is EventKind.RANK_HUNG:
            self._failed(_seconds(event, "silent_s"))
        elif kind is EventKind.RANK_ERROR or (kind is EventKind.RANK_EXITED and not _well(event)):
            self._failed(0.0)
        elif kind is EventKind.ATTEMPT_ENDED:
            self._attempt_ended(event)
        elif event.rank == 0:
            self._rank_0(event)

    def _attempt_started(self, event: Event) -> None:
        self._settle_by_section()
        self.attempts += 1
        self.nodes, self.spares = max(_told_count(event, "nodes", 1), 1), _told_count(event, "spares", 0)
        if self.stage is not _Stage.GETTING_READY:
            self.first_of_session = False
        self.stage, self.section = _Stage.GETTING_READY, Section.START_UP
        self._undo(int(event.number("resume_step")))

    def _undo(self, resume_step: int) -> None:
        """Steps behind `resume_step` stand no longer: their time is lost."""
        for step in [step for step in self.standing if step > resume_step]:
            again = self.standing.pop(step)
            self.steps_lost += 1
            self.tokens_lost += again.tokens
            for kind, amount_s in again.seconds.items():
                self._book(kind, -amount_s, again.nodes)
                self._book(TimeKind.LOST, amount_s, again.nodes)

    def _attempt_ended(self, event: Event) -> None:
        if event.text("outcome") == _FAILED:
            self._failed(0.0)
            if event.fields.get("failure_kind") == _PREEMPTION and self.stage is _Stage.RECOVERING:
                self.preempted = True
                self.failures, self.preemptions = max(self.failures - 1, 0), self.preemptions + 1
        else:
            self._settle_by_section()
            self.stage = _Stage.ENDING

    def _failed(self, silent_s: float) -> None:
        """The first sign of a failure ends detection; the stages after it are already its consequence."""
        if self.stage in (_Stage.WORKING, _Stage.GETTING_READY):
            total_s = sum(amount_s for _, amount_s in self.pending)
            hang_s = min(silent_s, total_s)
            self._settle_as_lost(total_s - hang_s)
            self._book(TimeKind.HANG, hang_s)
        if self.stage in (_Stage.WORKING, _Stage.GETTING_READY, _Stage.FAULTY):
            self.failures += 1
            self.stage = _Stage.RECOVERING

    def _rank_0(self, event: Event) -> None:
        if event.kind is EventKind.HEARTBEAT:
            self.section = _SECTIONS.get(event.text("section"), self.section)
        elif event.kind is EventKind.RANK_READY and self.stage is _Stage.GETTING_READY:
            self._settle_by_section()
            self.stage, self.section, self.preempted = _Stage.WORKING, Section.COMPUTE, False
        elif event.kind is EventKind.CHECKPOINT_STARTED and "stall_s" in event.fields:
            self.stall_s += _seconds(event, "stall_s")  # in the background: its commit is told steps later
        elif event.kind is EventKind.CHECKPOINT_COMMITTED and not event.fields.get("background"):
            self.stall_s += _seconds(event, "stall_s")
        elif event.kind is EventKind.EVALUATION and self.stage is _Stage.WORKING:
            self._settle_evaluation(_seconds(event, "seconds"))
        elif event.kind is EventKind.STEP and self.stage in (_Stage.WORKING, _Stage.FAULTY):
            self.stage = _Stage.WORKING
            self._settle_step(event)
        elif event.kind is EventKind.BATCH_SKIPPED and self.stage is _Stage.WORKING:
            self._settle_as_lost()
        elif event.kind is EventKind.ROLLED_BACK and self.stage is _Stage.WORKING:
            self._settle_as_lost()
            self._undo(int(event.number("to_step")))

    def _settle_step(self, event: Event) -> None:
        """Divide the time since the last step by what the step says of itself; the rest is other."""
        left_s = sum(amount_s for _, amount_s in self.pending)
        data_s, compile_s = _seconds(event, "data_wait_s"), _told_s(event, "compile_s")
        parts: dict[TimeKind, float] = {}
        for kind, wanted_s in (
            (TimeKind.DATA_WAIT, data_s),
            (TimeKind.COMPILATION, compile_s),
            (TimeKind.PRODUCTIVE, _seconds(event, "step_s") - data_s - compile_s),
            (TimeKind.CHECKPOINT, self.stall_s),
        ):
            parts[kind] = min(max(wanted_s, 0.0), left_s)
            left_s -= parts[kind]
        parts[TimeKind.OTHER] = left_s
        for kind, amount_s in parts.items():
            self._book(kind, amount_s)
        step = int(event.number("step"))
        twice = self.standing.get(step)
        if twice is not None:
            for kind, amount_s in twice.seconds.items():
                parts[kind] = parts.get(kind, 0.0) + amount_s
        self.standing[step] = _DoneStep(parts, int(event.number("tokens")), self.nodes)
        self.pending, self.stall_s = [], 0.0

    def _settle_evaluation(self, evaluate_s: float) -> None:
        """The last `evaluate_s` seconds went into the evaluation; what lies before goes by section."""
        for place in reversed(range(len(self.pending))):
            kind, amount_s = self.pending[place]
            taken_s = min(amount_s, evaluate_s)
            evaluate_s -= taken_s
            self._book(TimeKind.EVALUATE, taken_s)
            self.pending[place] = (kind, amount_s - taken_s)
        self._settle_by_section()

    def _settle_by_section(self) -> None:
        by_kind: dict[TimeKind, float] = {}
        for kind, amount_s in self.pending:
            by_kind[kind] = by_kind.get(kind, 0.0) + amount_s
        unnamed_s = by_kind.get(TimeKind.OTHER, 0.0)
        stall_s = min(unnamed_s, max(self.stall_s - by_kind.get(TimeKind.CHECKPOINT, 0.0), 0.0))
        self._book(TimeKind.CHECKPOINT, stall_s)
        self._book(TimeKind.OTHER, -stall_s)
        for kind, amount_s in by_kind.items():
            self._book(kind, amount_s)
        self.pending, self.stall_s = [], 0.0

    def _settle_as_lost(self, amount_s: float | None = None) -> None:
        """Work that no step event followed is lost; an attempt that was not ready lost only its start-up."""
        total_s = sum(each_s for _, each_s in self.pending) if amount_s is None else amount_s
        kind = TimeKind.LOST if self.stage is _Stage.WORKING else self._getting_ready_kind
        self._book(kind, total_s)
        self.pending, self.stall_s = [], 0.0


def _seconds(event: Event, name: str) -> float:
    """A duration that an event tells; what is no duration counts as none."""
    value = event.number(name)
    return value if math.isfinite(value) and value > 0 else 0.0


def _told_s(event: Event, name: str) -> float:
    """A duration that an event of this kind may leave out."""
    value = event.fields.get(name)
    return _seconds(event, name) if isinstance(value, int | float) and not isinstance(value, bool) else 0.0


def _told_count(event: Event, name: str, usual: int) -> int:
    value = event.fields.get(name)
    return max(value, 0) if isinstance(value, int) and not isinstance(value, bool) else usual


def _well(event: Event) -> bool:
    return event.number("exit_code") == 0 and event.number("signal") == 0


def account(events: Iterable[Event], since_s: float = -math.inf, jobs: Sequence[JobEvent] = ()) -> Goodput:
    """The account of the run whose events these are, in the order of its file.

    A run that still goes on is counted up to its last event. Events that were cut out leave time that counts
    as other, or as lost where a failure follows; no time is counted twice. With `since_s`, seconds since the
    Unix epoch, only what was spent from then on counts. `jobs` is the journal of the run's job, which knows
    of the time between two supervisors.
    """
    fold = _Fold(since_s)
    for event in with_job_waits(events, jobs):
        fold.take(event)
    fold._settle_by_section()
    if not fold.counting:
        fold._forget()
    tokens = sum(step.tokens for step in fold.standing.values())
    stepping_s = sum(
        step.seconds[TimeKind.PRODUCTIVE] + step.seconds[TimeKind.DATA_WAIT]
        for step in fold.standing.values()
    )
    return Goodput(
        wall_s=fold.wall_s,
        seconds={kind: max(amount_s, 0.0) for kind, amount_s in fold.seconds.items()},
        ettr=_ratio(fold.seconds[TimeKind.PRODUCTIVE], fold.wall_s),
        steps=len(fold.standing),
        steps_lost=fold.steps_lost,
        tokens=tokens,
        tokens_lost=fold.tokens_lost,
        tokens_per_s=_ratio(tokens, stepping_s),
        tokens_per_s_of_run=_ratio(tokens, fold.wall_s),
        attempts=fold.attempts,
        failures=fold.failures,
        faults_injected=fold.faults,
        preemptions=fold.preemptions,
        alive_s=fold.alive_s,
        mttf_s=_ratio(fold.alive_s, fold.failures),
        node_seconds={kind: max(amount_s, 0.0) for kind, amount_s in fold.node_seconds.items()},
        stopped_s=fold.stopped_s,
        clock_steps_back=fold.timeline.steps_back,
    )


def _ratio(amount: float, of: float) -> float | None:
    return amount / of if of > 0 else None
