"""What a supervisor finds when it takes a run over: an attempt of which nobody told the end.

See docs/design/attribution.md, "How it is judged".
"""

from __future__ import annotations

from collections.abc import Iterable

from stoker.core.events import Event, EventKind
from stoker.fleet.attribution import Attribution
from stoker.fleet.taxonomy import MACHINE_GONE, SUPERVISOR_GONE


def left_open(events: Iterable[Event], node: str, mono_s: float) -> Attribution | None:
    """What the last attempt died of when its supervisor died with it; None when it told the end.

    `mono_s` is the monotonic clock of `node` now: one that stands before what it told earlier began anew, and
    its machine with it.
    """
    attempt, last_s = 0, 0.0
    for event in events:
        if event.node == node:
            last_s = event.mono_s
        if event.kind is EventKind.ATTEMPT_STARTED:
            attempt = event.attempt
        elif event.kind in (EventKind.ATTEMPT_ENDED, EventKind.RUN_ENDED):
            attempt = 0
        elif event.kind is EventKind.RUN_STARTED and attempt:
            attempt = 0  # the supervisor before told of that one
    if not attempt:
        return None
    anew = mono_s < last_s
    meaning = MACHINE_GONE if anew else SUPERVISOR_GONE
    what = "the machine was started anew since" if anew else "its supervisor ended without a word"
    line = f"nobody told the end of attempt {attempt}; {what}"
    return Attribution(meaning.kind, meaning.component, -1, node, (line,), meaning.confidence)
