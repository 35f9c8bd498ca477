"""What becomes of a job that is looked after: a pure decision from what was seen. See docs/design/slurm.md.

Slurm notices a lost node after SlurmdTimeout (300 s by default), and lets two minutes pass before it runs a
job again. The signs that a life of a job gives tell within seconds, and whether its node answers tells which
of the two it is: the node, or the supervisor alone.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from stoker.fleet.launchers import OVER, JobState, JobView

HUNG_FACTOR = 5.0
"""A life whose node answers is given up after so many times the patience with a node that does not."""


class Care(enum.StrEnum):
    """What is to be done for a job."""

    NOTHING = "nothing"
    HASTEN = "hasten"
    """It waits for nothing but time."""

    GIVE_UP_NODE = "give-up-node"
    """Its node is lost: tell Slurm, which takes the job from it and queues it again."""

    REQUEUE = "requeue"
    """Its node is well and its supervisor is not; or Slurm has ended it although the run goes on."""

    FORGET = "forget"
    """The run is over, or the job is and nothing can be done for it."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What is known of a job. `silent_s`: for how long its life gave no sign, None before its first.

    `run_over`: the run needs no job any more. `gave_signs`: this life of the job has given any.
    `node_answers` is None unless it was asked.
    """

    view: JobView
    run_over: bool
    gave_signs: bool
    silent_s: float | None
    node_answers: bool | None = None


_TAKEN_AWAY = frozenset({JobState.NODE_LOST, JobState.PREEMPTED})


def is_suspect(seen: Seen, lost_after_s: float) -> bool:
    """Whether it is time to ask the node."""
    running = seen.view.state is JobState.RUNNING and not seen.run_over
    return running and seen.silent_s is not None and seen.silent_s > lost_after_s


def care_for(seen: Seen, lost_after_s: float) -> Care:
    """What to do for a job now."""
    state = seen.view.state
    if state is JobState.WAITING:
        return Care.FORGET if seen.run_over else Care.HASTEN if seen.view.restarts else Care.NOTHING
    if state in _TAKEN_AWAY:
        return Care.FORGET if seen.run_over else Care.REQUEUE
    if state is JobState.FAILED and seen.view.restarts and not seen.gave_signs and not seen.run_over:
        return Care.REQUEUE  # slurmd refused to launch it: it took it for the life before
    if state in OVER:
        return Care.FORGET
    if not is_suspect(seen, lost_after_s) or seen.node_answers is None:
        return Care.NOTHING
    assert seen.silent_s is not None
    if not seen.node_answers:
        return Care.GIVE_UP_NODE
    return Care.REQUEUE if seen.silent_s > HUNG_FACTOR * lost_after_s else Care.NOTHING
