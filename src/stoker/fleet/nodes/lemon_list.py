"""From what was recorded to the list that launchers leave out: signals, verdicts, and what people say.

See docs/design/nodes.md, "Lemons".
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from stoker.core.canonical import JsonValue
from stoker.core.config import from_plain
from stoker.core.errors import ConfigError
from stoker.fleet.nodes.errors import BadJobHistory
from stoker.fleet.nodes.lemon import LemonScore, NodeSignals, score_nodes
from stoker.fleet.nodes.node_acts import Listing, NodeRecord, node_records
from stoker.fleet.nodes.node_state import TAKES_WORK
from stoker.ledger.ledger import Ledger

WINDOW_DAYS: Final = 28
DAY_S: Final = 86_400.0
VERDICT: Final = "fleet.lemons"
MAX_LINE_BYTES: Final = 4 << 20
"""A job on 100,000 nodes with names of 40 characters fits."""

_TAKES_WORK: Final = frozenset(phase.value for phase in TAKES_WORK)


@dataclass(frozen=True, slots=True)
class JobEnd:
    """A job that ended: where it ran, the nodes its end is blamed on, the nodes it left out by name."""

    ended_s: float
    nodes: tuple[str, ...]
    blamed: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Verdicts:
    """The scores of all nodes, worst first, and the list that launchers leave out."""

    since_s: float
    scores: tuple[LemonScore, ...]
    excluded: tuple[str, ...]


def read_jobs(path: Path) -> Iterator[JobEnd]:
    """A file with one JobEnd a line, as JSON. Raises BadJobHistory, naming the line."""
    try:
        with path.open("rb") as file:
            for number, line in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES + 1), b""), start=1):
                yield _job(line, f"{path}:{number}")
    except OSError as error:
        raise BadJobHistory(
            f"{path} cannot be read: {error.strerror}.", hint="Give a file of ended jobs."
        ) from error


def _job(line: bytes, place: str) -> JobEnd:
    hint = 'Each line is such as {"ended_s": 1.0, "nodes": ["n1"], "blamed": [], "excluded": []}.'
    if len(line) > MAX_LINE_BYTES:
        raise BadJobHistory(f"{place} is longer than {MAX_LINE_BYTES} bytes.", hint=hint)
    try:
        found = from_plain(JobEnd, json.loads(line), place)
    except (ValueError, RecursionError, ConfigError, AttributeError) as error:
        raise BadJobHistory(f"{place} is no ended job.", hint=hint) from error
    if not found.nodes:
        raise BadJobHistory(f"{place} names no node on which the job ran.", hint=hint)
    return found


def signals_of(
    records: Sequence[NodeRecord], jobs: Iterable[JobEnd], since_s: float
) -> tuple[NodeSignals, ...]:
    """The seven signals of every node that is named anywhere, by name, counted from `since_s` on.

    From the ledger: out of service is each time a node stopped taking work, a ticket each time a person
    drained it, an Xid each time `gpu_xid` did. From jobs: the rest.
    """
    counts: dict[str, Counter[str]] = {each.name: Counter() for each in records}
    for record in records:
        for entry in record.history:
            if entry.time_s >= since_s:
                counts[record.name].update(_told_by(entry.action, entry.detail))
    for job in jobs:
        if job.ended_s >= since_s:
            _count_job(counts, job)
    return tuple(NodeSignals(name, **counts[name]) for name in sorted(counts))


def _told_by(action: str, detail: Mapping[str, Any]) -> Iterator[str]:
    if detail.get("from") in _TAKES_WORK and detail.get("to") not in _TAKES_WORK:
        yield "out_of_service"
    if action == "node.drain":
        yield "tickets"
    findings = detail.get("event", {}).get("findings", ())
    if action == "node.check" and any(each["check"] == "gpu_xid" and each["severity"] for each in findings):
        yield "xid_errors"


def _count_job(counts: dict[str, Counter[str]], job: JobEnd) -> None:
    alone = len(job.nodes) == 1
    for node in (*job.nodes, *job.excluded):
        counts.setdefault(node, Counter())
    for node in set(job.excluded):
        counts[node]["excluded_by_jobs"] += 1
    if alone:
        counts[job.nodes[0]]["single_node_jobs"] += 1
    for node in set(job.blamed) & set(job.nodes):
        counts[node]["single_node_failures" if alone else "multi_node_failures"] += 1


def judge(ledger: Ledger, jobs: Iterable[JobEnd], *, now_s: float, days: float = WINDOW_DAYS) -> Verdicts:
    """Score every node that the ledger or `jobs` know, over the last `days`. Raises LedgerUnusable."""
    records = node_records(ledger)
    since_s = now_s - days * DAY_S
    scores = sorted(
        score_nodes(signals_of(records, jobs, since_s)), key=lambda each: (-each.score, each.node)
    )
    lemons = [each.node for each in scores if each.lemon]
    return Verdicts(since_s, tuple(scores), _listed(records, lemons))


def record_verdicts(ledger: Ledger, found: Verdicts, *, actor: str) -> None:
    """Let launchers go by these verdicts from now on: an act, with each lemon's score and evidence."""
    lemons: dict[str, JsonValue] = {
        each.node: {"score": round(each.score, 3), "evidence": each.evidence}
        for each in found.scores
        if each.lemon
    }
    with ledger.act(
        actor=actor, action=VERDICT, subject="fleet", detail={"since_s": found.since_s, "lemons": lemons}
    ):
        pass


def exclusion_list(ledger: Ledger) -> tuple[str, ...]:
    """The nodes that launchers leave out: the lemons last recorded, and what people said since or before.

    Drained nodes are not on it: they take no work anyhow, and may be back before a job that waits begins.
    """
    verdicts = ledger.audit.acts({VERDICT}, "fleet")
    lemons = verdicts[-1].detail["lemons"] if verdicts else {}
    return _listed(node_records(ledger), lemons if isinstance(lemons, dict) else {})


def _listed(records: Sequence[NodeRecord], lemons: Iterable[str]) -> tuple[str, ...]:
    said = {each.name: each.listing for each in records}
    always = {name for name, listing in said.items() if listing is Listing.ALWAYS}
    by_score = {name for name in lemons if said.get(name) is not Listing.NEVER}
    return tuple(sorted(always | by_score))
