"""What a supervisor finds when it takes a run over: an attempt of which nobody told the end.

See docs/design/attribution.md, "How it is judged".
"""

from __future__ import annotations

from collections.abc import Iterable

from stoker.core.events import Event, EventKind
from stoker.fleet.attribution import Attribution, Witness, judge_open_end
from stoker.fleet.taxonomy import MACHINE_GONE, SUPERVISOR_GONE


def left_open(
    events: Iterable[Event], node: str, mono_s: float, said: Iterable[Witness] = ()
) -> Attribution | None:
    """What the last attempt died of when its supervisor died with it; None when it told the end.

    `mono_s` is the monotonic clock of `node` now: one that stands before what it told earlier began anew, and
    its machine with it. `said` is what is on record of the job and of the nodes.
    """
    attempt, last_mono_s, last_s = 0, 0.0, 0.0
    nodes: set[str] = set()
    for event in events:
        last_s = event.ts
        nodes.add(event.node)
        if event.node == node:
            last_mono_s = event.mono_s
        if event.kind is EventKind.ATTEMPT_STARTED:
            attempt = event.attempt
        elif event.kind in (EventKind.ATTEMPT_ENDED, EventKind.RUN_ENDED):
            attempt = 0
        elif event.kind is EventKind.RUN_STARTED and attempt:
            attempt = 0  # the supervisor before told of that one
    if not attempt:
        return None
    anew = mono_s < last_mono_s
    meaning = MACHINE_GONE if anew else SUPERVISOR_GONE
    what = "the machine was started anew since" if anew else "its supervisor ended without a word"
    line = f"nobody told the end of attempt {attempt}; {what}"
    return judge_open_end(meaning, line, last_s, nodes, said)
