"""Whether a run only fails: counted over all of its supervisors and requeues, from its events.

One always-failing run of 1,024 GPUs was requeued 35 times and cost 548 others their nodes, because every
launch began to count anew. See docs/design/fleet.md, "Budget and back-off".
"""

from __future__ import annotations

from collections.abc import Iterable

from stoker.core.events import Event, EventKind
from stoker.fleet.attribution import Attribution
from stoker.fleet.taxonomy import FailureKind


def failures_in_row(events: Iterable[Event], now_s: float, window_s: float) -> int:
    """Failures of the last `window_s` seconds since the run last got further.

    Further is a checkpoint of a later step than any before; a run that a person forgave begins anew. An
    attempt without an end, whose supervisor died with it, is a failure; one that was pre-empted is none. A
    failure whose clock is ahead of `now_s` counts, since one of the two clocks is wrong.
    """
    failed_s: list[float] = []
    furthest, open_since_s = 0.0, None
    for event in events:
        if event.kind in (EventKind.RUN_STARTED, EventKind.ATTEMPT_STARTED) and open_since_s is not None:
            failed_s.append(open_since_s)
            open_since_s = None
        if event.kind is EventKind.RUN_STARTED and event.fields.get("forgiven") is True:
            failed_s.clear()
        elif event.kind is EventKind.ATTEMPT_STARTED:
            open_since_s = event.ts
        elif event.kind is EventKind.CHECKPOINT_COMMITTED and event.number("step") > furthest:
            furthest = event.number("step")
            failed_s.clear()
        elif event.kind is EventKind.ATTEMPT_ENDED:
            open_since_s = None
            why = Attribution.told_in(event)
            preempted = why is not None and why.kind is FailureKind.PREEMPTION
            if event.text("outcome") == "failed" and not preempted:
                failed_s.append(event.ts)
    if open_since_s is not None:
        failed_s.append(open_since_s)
    return sum(each_s >= now_s - window_s for each_s in failed_s)
