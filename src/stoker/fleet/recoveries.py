"""What went wrong in a run, and how long it took to go on: from its events alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from stoker.core.events import Event, EventKind
from stoker.fleet.attribution import Attribution
from stoker.train.checkpoint_errors import PeerLost


@dataclass(frozen=True, slots=True)
class Placed:
    """An event with its place on the run's line of time, in seconds since the run began."""

    at_s: float
    event: Event


@dataclass(frozen=True, slots=True)
class Recovery:
    """One failure of an attempt. Times in seconds since the run began; None where the run did not get there.

    `step` is the last step that was done before it, `resume_step` the checkpoint that the next attempt
    loaded; `next_step_s` is when the next step was done, so `next_step_s - failed_s` is the whole pause.
    `attribution` is what the failure was put down to; None in runs of before that was told.
    """

    attempt: int
    rank: int
    what: str
    injected: bool
    step: int
    failed_s: float
    detected_s: float
    resume_step: int | None = None
    ready_s: float | None = None
    next_step_s: float | None = None
    attribution: Attribution | None = None

    def sentence(self) -> str:
        """What failed, how soon it was noticed, and what it took to go on."""
        who = "" if self.rank < 0 else f"rank {self.rank} "
        parts = [f"after step {self.step}: {who}{self.what}{', on purpose' if self.injected else ''}"]
        if self.attribution is not None:
            parts.append(self.attribution.sentence())
        parts.append(f"noticed after {self.detected_s - self.failed_s:.2f} s")
        if self.resume_step is not None:
            parts.append(f"went on from the checkpoint of step {self.resume_step}")
        if self.next_step_s is None:
            parts.append("no step was done after it")
        else:
            parts.append(f"next step done after {self.next_step_s - self.failed_s:.1f} s")
        return "; ".join(parts)


def find_recoveries(events: Iterable[Placed]) -> tuple[Recovery, ...]:
    """Every failure in the order of its detection; ranks that end because of it are not counted again."""
    found: list[Recovery] = []
    injected_s: float | None = None
    step, attempt, last_s, failing, cancelled = 0, 0, 0.0, False, False
    for placed in events:
        event, kind = placed.event, placed.event.kind
        if kind is EventKind.RUN_STARTED and (lost := Attribution.told_in(event)) is not None:
            if failing:
                _last(found, attribution=lost)
            else:
                gone = Recovery(attempt, -1, "the supervisor was lost", False, step, last_s, placed.at_s)
                found.append(replace(gone, attribution=lost))
        last_s = placed.at_s
        if kind in (EventKind.RUN_STARTED, EventKind.ATTEMPT_STARTED):
            failing, cancelled, injected_s = False, False, None
        if kind is EventKind.CANCEL_REQUESTED:
            cancelled = True
        elif kind is EventKind.ATTEMPT_ENDED and failing:
            _last(found, attribution=Attribution.told_in(event))
        elif kind is EventKind.FAULT_INJECTED:
            injected_s = placed.at_s
        elif kind is EventKind.STEP and event.rank == 0 and not failing:
            step = int(event.number("step"))
            _last(found, next_step_s=placed.at_s)
        elif kind is EventKind.RANK_READY and event.rank == 0:
            _last(found, ready_s=placed.at_s)
        elif kind is EventKind.ATTEMPT_STARTED:
            step, attempt = int(event.number("resume_step")), event.attempt
            _last(found, resume_step=step)
        what: str | None = _what(event)
        if failing and what is not None and _explains(event, found[-1]):
            found[-1] = replace(found[-1], rank=event.rank, what=what)
        if what is not None and not (failing or cancelled):
            failing = True
            failed_s = placed.at_s if injected_s is None else injected_s
            if kind is EventKind.RANK_HUNG:
                failed_s = max(placed.at_s - event.number("silent_s"), 0.0)
            injected = injected_s is not None
            found.append(Recovery(event.attempt, event.rank, what, injected, step, failed_s, placed.at_s))
    return tuple(found)


def _explains(event: Event, failure: Recovery) -> bool:
    """Whether `event` is the end of the peer that the failing rank only told it had lost."""
    lost_itself = event.fields.get("exit_code") == PeerLost.exit_code
    return (
        failure.what == PeerLost.id
        and event.kind is EventKind.RANK_EXITED
        and event.attempt == failure.attempt
        and event.rank != failure.rank
        and not lost_itself
    )


def _last(found: list[Recovery], **news: float | int | Attribution | None) -> None:
    """Fill in what is not known yet of the last failure."""
    if found:
        unknown = {name: value for name, value in news.items() if getattr(found[-1], name) is None}
        found[-1] = replace(found[-1], **unknown)  # type: ignore[arg-type]  # names are checked above


def _what(event: Event) -> str | None:
    """How a failure is told, None when the event is none."""
    if event.kind is EventKind.RANK_HUNG:
        return f"hung in {event.text('section')}"
    if event.kind is EventKind.RANK_ERROR:
        return event.text("error_id")
    if event.kind is EventKind.RANK_EXITED and event.number("signal"):
        return f"ended by signal {int(event.number('signal'))}"
    if event.kind is EventKind.RANK_EXITED and event.number("exit_code"):
        return f"ended with exit code {int(event.number('exit_code'))}"
    if event.kind is EventKind.ATTEMPT_ENDED and event.text("outcome") == "failed":
        return "the agent was lost"
    return None
