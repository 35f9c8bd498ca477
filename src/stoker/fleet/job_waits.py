"""What became of a run's time between two of its supervisors, by the journal of its job.

A supervisor's events say nothing of the time in which there was none. The journal does: when a life of the
job ended, and when the next one had its nodes. See docs/design/goodput.md, "Between two lives of a job".
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from stoker.core.events import Event, EventKind
from stoker.fleet.launchers import OVER, JobEvent, JobState

QUEUED: Final = "queued_s"
UNNOTICED: Final = "unnoticed_s"
STARTING: Final = "starting_s"
PREEMPTED: Final = "preempted"
"""Fields of `run_started` that are filled in here, and read by the account."""

STARTS_WITHIN_S: Final = 300.0
"""A life that has its nodes has a supervisor sooner than this, or it never had one."""

_TAKEN_AWAY: Final = frozenset({JobState.NODE_LOST, JobState.PREEMPTED})
_GIVEN_UP: Final = OVER - _TAKEN_AWAY
"""After these a job runs again only when a person has it queued again."""


@dataclass(frozen=True, slots=True)
class _Span:
    """From `began_s` to `ended_s` a job had its nodes (`held`), or waited for them. Wall clock.

    `untold`: the next life had begun when the end of this one was known, and it had them for a part of it.
    """

    began_s: float
    ended_s: float
    held: bool
    preempted: bool = False
    untold: bool = False

    def within(self, since_s: float, until_s: float) -> float:
        """Seconds of it that lie in this time."""
        return max(min(self.ended_s, until_s) - max(self.began_s, since_s), 0.0)


def with_job_waits(events: Iterable[Event], jobs: Sequence[JobEvent]) -> Iterator[Event]:
    """The events, each `run_started` saying what the time before it was spent on.

    `queued_s` waiting for nodes, `preempted` when they had been given to somebody else; `unnoticed_s` with
    nodes and without a supervisor, until the end of that life was told of; `starting_s` with nodes until the
    supervisor began. What an event says of itself stays. Without a journal nothing is changed.
    """
    spans = tuple(_spans(jobs)) if jobs else ()
    last_s, open_ended = -math.inf, False
    for event in events:
        if event.kind is EventKind.RUN_STARTED and spans:
            told = _before(event.ts, last_s, spans, open_ended)
            yield replace(event, fields={**told, **event.fields})
        else:
            yield event
        last_s, open_ended = event.ts, event.kind is not EventKind.RUN_ENDED


def _before(now_s: float, last_s: float, spans: Sequence[_Span], open_ended: bool) -> dict[str, float | bool]:
    waits = [span for span in spans if not span.held and span.within(last_s, now_s) > 0]
    told: dict[str, float | bool] = {QUEUED: sum(span.within(last_s, now_s) for span in waits)}
    if any(span.preempted for span in waits):
        told[PREEMPTED] = True
    for span in spans:
        if not span.held:
            continue
        if span.began_s <= last_s < span.ended_s <= now_s and (open_ended or span.untold):
            told[QUEUED if span.untold else UNNOTICED] = span.ended_s - last_s
        if last_s <= span.began_s <= now_s <= span.ended_s and now_s - span.began_s <= STARTS_WITHIN_S:
            told[STARTING] = now_s - span.began_s
    return told


def _spans(jobs: Sequence[JobEvent]) -> Iterator[_Span]:
    """In the order of their time; what waits and never ran again is none.

    Where nobody told how a life ended, and the next one runs, all since the life before counts as waiting
    from the run's last event on.
    """
    held: JobEvent | None = None
    waits: JobEvent | None = None
    preempted = False
    for event in sorted(jobs, key=lambda each: each.at_s):
        if event.state is JobState.RUNNING:
            if held is not None and (held.job, held.restarts) == (event.job, event.restarts):
                continue  # told by the keeper and by the watch
            if held is not None and held.job == event.job:
                yield _Span(held.at_s, event.at_s, held=True, untold=True)
            if waits is not None and waits.job == event.job:
                yield _Span(waits.at_s, event.at_s, held=False, preempted=preempted)
            held, waits, preempted = event, None, False
        elif event.state is not JobState.UNKNOWN:
            if held is not None and held.job == event.job:
                yield _Span(held.at_s, event.at_s, held=True)
            held = None
            preempted = (preempted and waits is not None) or _says_preempted(event)
            if event.state in _GIVEN_UP:
                waits = None
            elif waits is None or waits.job != event.job:
                waits = event
    if held is not None:
        yield _Span(held.at_s, math.inf, held=True)


def _says_preempted(event: JobEvent) -> bool:
    """By its state, or by the reason for which the watch had it queued again."""
    return event.state is JobState.PREEMPTED or event.reason.endswith(JobState.PREEMPTED.value)
