"""What Slurm's commands answer, read strictly: a line is understood whole, or it is an error that shows it.

Fields stand between bars, what people may fill at the end, so that no comment and no reason can pass for
another field. See docs/design/slurm.md, "What is asked".
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Final

from stoker.fleet.errors import BadAnswer
from stoker.fleet.launchers import JobEvent, JobId, JobState, JobView, NodeState, NodeView

QUEUE_FIELDS: Final = "JobID:|,State:|,RestartCnt:|,BatchHost:|,SubmitTime:|,EligibleTime:|,Reason:|"
NODE_FIELDS: Final = "NodeList:|,StateLong:|,NodeAddr:|,Port:|,Reason:|"
ACCOUNT_FIELDS: Final = "JobID,State,ExitCode,Start,End,NodeList,Reason"

MAX_LINES: Final = 200_000
"""More than any cluster has nodes, or any job lives."""

_STATES: Final = {
    "PENDING": JobState.WAITING,
    "CONFIGURING": JobState.WAITING,
    "SUSPENDED": JobState.WAITING,
    "REQUEUE_FED": JobState.WAITING,
    "REQUEUE_HOLD": JobState.WAITING,
    "RESV_DEL_HOLD": JobState.WAITING,
    "SPECIAL_EXIT": JobState.WAITING,
    "RUNNING": JobState.RUNNING,
    "RESIZING": JobState.RUNNING,
    "SIGNALING": JobState.RUNNING,
    "STAGE_OUT": JobState.ENDING,
    "STOPPED": JobState.ENDING,
    "COMPLETING": JobState.ENDING,
    "COMPLETED": JobState.FINISHED,
    "FAILED": JobState.FAILED,
    "LAUNCH_FAILED": JobState.FAILED,
    "RECONFIG_FAIL": JobState.FAILED,
    "CANCELLED": JobState.CANCELLED,
    "REVOKED": JobState.CANCELLED,
    "TIMEOUT": JobState.OUT_OF_TIME,
    "DEADLINE": JobState.OUT_OF_TIME,
    "OUT_OF_MEMORY": JobState.OUT_OF_MEMORY,
    "PREEMPTED": JobState.PREEMPTED,
    "NODE_FAIL": JobState.NODE_LOST,
    "BOOT_FAIL": JobState.NODE_LOST,
    "REQUEUED": JobState.REQUEUED,
}
_NODE_STATES: Final = {
    "idle": NodeState.UP,
    "allocated": NodeState.UP,
    "mixed": NodeState.UP,
    "completing": NodeState.UP,
    "reserved": NodeState.UP,
    "planned": NodeState.UP,
    "draining": NodeState.DRAINING,
    "drained": NodeState.DRAINED,
    "down": NodeState.DOWN,
    "fail": NodeState.DOWN,
    "failing": NodeState.DRAINING,
    "error": NodeState.DOWN,
    "perfctrs": NodeState.DOWN,
    "future": NodeState.DOWN,
    "power_down": NodeState.DOWN,
    "powering_down": NodeState.DOWN,
    "powered_down": NodeState.DOWN,
    "powering_up": NodeState.DOWN,
    "reboot": NodeState.DOWN,
    "reboot_issued": NodeState.DOWN,
    "maint": NodeState.DOWN,
    "inval": NodeState.DOWN,
    "unknown": NodeState.UNKNOWN,
}
_WORDS: Final = re.compile(r"\*|~|#|!|%|\$|@|\^|-$")
"""What sinfo appends to a node's state: not responding, powering, maintenance and so on."""

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}")
_JOB: Final = re.compile(r"[1-9][0-9]{0,9}")
_EXIT: Final = re.compile(r"([0-9]{1,3}):([0-9]{1,3})")
_NOWHERE: Final = frozenset({"", "n/a", "None assigned", "(null)"})
_NO_REASON: Final = frozenset({"", "none", "None", "(null)", "N/A"})


def job_state(word: str, place: str) -> JobState:
    """The state that Slurm calls `word`, such as RUNNING or `CANCELLED by 0`. Raises BadAnswer."""
    state = _STATES.get(word.partition(" ")[0].rstrip("+"))
    if state is None:
        raise _unreadable(place, word, "a state of a job")
    return state


def read_queue(text: str) -> tuple[JobView, ...]:
    """What `squeue --noheader --states=all --Format=QUEUE_FIELDS` answers. Raises BadAnswer."""
    views = []
    for line in _lines(text, "squeue"):
        job, word, restarts, host, queued, eligible, reason = _fields(line, 7, "squeue")
        if _JOB.fullmatch(job) is None or not restarts.isdecimal():
            raise _unreadable("squeue", line, "a job's number and how often it was queued again")
        state = job_state(word, "squeue")
        node = "" if host in _NOWHERE else _name(host, line, "squeue")
        reason = "" if reason in _NO_REASON else reason
        queued_s, eligible_s = (_time_s(each, line, "squeue") or 0.0 for each in (queued, eligible))
        views.append(JobView(JobId(job), state, int(restarts), node, reason, queued_s, eligible_s))
    return tuple(views)


def read_nodes(text: str) -> tuple[NodeView, ...]:
    """What `sinfo --noheader --Node --all --Format=NODE_FIELDS` answers, each node once. Raises BadAnswer."""
    views: dict[str, NodeView] = {}
    for line in _lines(text, "sinfo"):
        name, word, address, port, reason = _fields(line, 5, "sinfo")
        if not port.isdecimal():
            raise _unreadable("sinfo", line, "a node's port")
        state = _NODE_STATES.get(_WORDS.sub("", word).lower())
        if state is None:
            raise _unreadable("sinfo", line, "a state of a node")
        if state is NodeState.UP and "*" in word:
            state = NodeState.UNKNOWN
        reason = "" if reason in _NO_REASON else reason
        views[name] = NodeView(_name(name, line, "sinfo"), state, reason, address, int(port))
    return tuple(views.values())


def read_accounts(text: str, job: JobId) -> tuple[JobEvent, ...]:
    """What `sacct --parsable2 --noheader --duplicates --allocations --format=ACCOUNT_FIELDS` says of `job`.

    Each life that has ended is one event; one that still waits or runs is its beginning, if it began. Raises
    BadAnswer.
    """
    events: list[JobEvent] = []
    for restarts, line in enumerate(_lines(text, "sacct")):
        found, word, code, begun, ended, node, reason = _fields(line, 7, "sacct", last_bar=False)
        if found != job:
            raise _unreadable("sacct", line, f"a life of job {job}")
        exit_code, signal = _exit(code, line)
        state = job_state(word, "sacct")
        began_s, ended_s = _time_s(begun, line, "sacct"), _time_s(ended, line, "sacct")
        node = "" if node in _NOWHERE else node
        reason = "" if reason in _NO_REASON else reason
        if began_s is not None:
            events.append(JobEvent(began_s, job, JobState.RUNNING, node, restarts=restarts))
        if ended_s is not None and state not in (JobState.WAITING, JobState.RUNNING):
            events.append(JobEvent(ended_s, job, state, node, reason, restarts, exit_code, signal))
    return tuple(sorted(events, key=lambda each: (each.restarts, each.at_s)))


def _lines(text: str, place: str) -> Iterator[str]:
    lines = text.splitlines()
    if len(lines) > MAX_LINES:
        raise BadAnswer(f"{place} answered {len(lines)} lines; at most {MAX_LINES} are read.")
    return (line for line in lines if line.strip())


def _fields(line: str, count: int, place: str, *, last_bar: bool = True) -> Sequence[str]:
    """Exactly `count` fields; bars in the last one are its own."""
    if last_bar and not line.rstrip().endswith("|"):
        raise _unreadable(place, line, "a line that ends with a bar")
    parts = line.rstrip()[: -1 if last_bar else None].split("|", count - 1)
    if len(parts) != count:
        raise _unreadable(place, line, f"{count} fields")
    return [part.strip() for part in parts]


def _name(text: str, line: str, place: str) -> str:
    if _NAME.fullmatch(text) is None:
        raise _unreadable(place, line, "a node's name")
    return text


def _exit(text: str, line: str) -> tuple[int, int]:
    found = _EXIT.fullmatch(text)
    if found is None:
        raise _unreadable("sacct", line, "an exit code and a signal, such as 1:0")
    return int(found[1]), int(found[2])


def _time_s(text: str, line: str, place: str) -> float | None:
    if text in ("Unknown", "None", "N/A", ""):
        return None
    try:
        return datetime.strptime(text, "%Y-%m-%dT%H:%M:%S").replace(tzinfo=UTC).timestamp()
    except ValueError as error:
        raise _unreadable(place, line, "a time such as 2026-01-31T08:00:00") from error


def _unreadable(place: str, what: str, expected: str) -> BadAnswer:
    return BadAnswer(
        f"{place} answered {what[:200]!a}, where {expected} was expected; nothing was taken from it.",
        hint="Stoker reads Slurm 22.05 and later. Look what a wrapper or a plugin of the site adds.",
    )
