"""What the scheduler and the checks of nodes said around a failure, as lines for attribution.

Neither is asked anew: a job's journal and the ledger have their words. See docs/design/attribution.md,
"Witnesses".
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from stoker.core.canonical import JsonValue
from stoker.core.errors import BadName, StokerError
from stoker.core.home import Home
from stoker.core.ids import RunId
from stoker.core.node import node_name
from stoker.fleet.attribution import Witness
from stoker.fleet.job_journal import read_journal
from stoker.fleet.launchers import JobEvent, JobState
from stoker.fleet.nodes.errors import NodeNeverSeen
from stoker.fleet.nodes.node_acts import ACTIONS, node_record
from stoker.fleet.nodes.node_state import LOST, PERSON, Checked
from stoker.fleet.nodes.slurm_hook import slurm_node
from stoker.fleet.slurm.job_folder import JobFolder
from stoker.fleet.taxonomy import Source
from stoker.ledger.ledger import Ledger
from stoker.ledger.records import AuditEntry

_WORDS: Final[Mapping[JobState, str]] = {
    JobState.NODE_LOST: "NODE_FAIL",
    JobState.PREEMPTED: "PREEMPTED",
    JobState.OUT_OF_TIME: "TIMEOUT",
    JobState.OUT_OF_MEMORY: "OUT_OF_MEMORY",
}
"""Slurm's own words for what it did to a job; its other states say nothing of a failure."""

_ENDED_IT: Final = re.compile(r"Slurm ended it: (\w+)")
"""Why the watch had a job queued again (slurm/watch.py)."""


@dataclass(frozen=True, slots=True)
class OnRecord:
    """What is on record of a run's job and nodes. `nodes`: their names there, with what the events say."""

    ledger: Ledger
    journal: Path
    nodes: Mapping[str, str]

    def lines(self, now_s: float) -> tuple[Witness, ...]:
        """All of it, asked at `now_s` on the wall clock; what cannot be read says nothing."""
        said: list[Witness] = []
        with contextlib.suppress(StokerError, OSError):
            said += scheduler_lines(read_journal(self.journal), self.nodes)
        with contextlib.suppress(StokerError):
            said += check_lines(self.ledger, self.nodes, now_s)
        return tuple(said)


def on_record_of(ledger: Ledger, home: Home, run: RunId, here: str, others: Iterable[str]) -> OnRecord:
    """Of the run whose events call this node `here`; in the ledger and in Slurm it has names of its own."""
    names = {slurm_node(os.environ): here, node_name(home): here, **{name: name for name in others}}
    return OnRecord(ledger, JobFolder.of(home.runs_dir, run).journal, names)


def scheduler_lines(jobs: Iterable[JobEvent], nodes: Mapping[str, str]) -> Iterator[Witness]:
    """What a job's journal says was done to it; about the whole job where its node is none of `nodes`."""
    for event in jobs:
        state = event.state
        if state is JobState.REQUEUED and (told := _ENDED_IT.search(event.reason)) is not None:
            state = next((each for each in _WORDS if each.value == told[1]), state)
        word = _WORDS.get(state)
        if word is not None:
            where = f" on {event.node}" if event.node else ""
            reason = f" ({event.reason})" if event.reason else ""
            text = f"job {event.job}{where}: {word}{reason}"
            yield Witness(event.at_s, nodes.get(event.node, ""), Source.SCHEDULER, text)


def check_lines(ledger: Ledger, nodes: Mapping[str, str], now_s: float) -> Iterator[Witness]:
    """What recorded checks found on these nodes.

    A finding is dated by its report; one that still keeps its node out of work counts as said at `now_s`.
    Warnings, and checks that gave no answer, say nothing.
    """
    for name, called in nodes.items():
        try:
            record = node_record(ledger, name)
        except (NodeNeverSeen, BadName):  # a machine may be called anything
            continue
        for entry in record.history:
            if entry.action == ACTIONS[Checked]:
                yield from _found_in(entry, called)
        for reason in record.state.reasons:
            if reason.source not in (PERSON, LOST):
                yield Witness(now_s, called, Source.CHECK, f"{reason.source}: {reason.evidence}")


def _found_in(entry: AuditEntry, called: str) -> Iterator[Witness]:
    event = entry.detail.get("event")
    findings: JsonValue = event.get("findings") if isinstance(event, Mapping) else None
    for each in findings if isinstance(findings, list) else ():
        if isinstance(each, Mapping) and each.get("severity") and each.get("answered") is True:
            text = f"{each.get('check')}: {each.get('evidence')}"
            yield Witness(entry.time_s, called, Source.CHECK, text)
