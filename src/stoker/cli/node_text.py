"""What `stoker node ...` shows to people."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from stoker.cli.table import day, human_seconds, pairs, table
from stoker.fleet.nodes.finding import CheckState, NodeReport
from stoker.fleet.nodes.lemon import LemonScore
from stoker.fleet.nodes.node_acts import NodeRecord
from stoker.fleet.nodes.node_state import Overruled, Reason


@dataclass(frozen=True, slots=True)
class NodeRow:
    """Where one node stands. Times are seconds since the Unix epoch."""

    name: str
    phase: str
    takes_work: bool
    since_s: float
    reasons: tuple[Reason, ...]
    overruled: tuple[Overruled, ...]
    listing: str
    listing_reason: str


@dataclass(frozen=True, slots=True)
class NodeAct:
    """One act of a node's history."""

    time_s: float
    actor: str
    action: str
    became: str
    told: str


@dataclass(frozen=True, slots=True)
class Nodes:
    """Nodes that the ledger knows, by name."""

    kind: ClassVar[str] = "nodes"
    version: ClassVar[int] = 1
    nodes: tuple[NodeRow, ...]


@dataclass(frozen=True, slots=True)
class NodeShown:
    """One node with its history, oldest first."""

    kind: ClassVar[str] = "node"
    version: ClassVar[int] = 1
    node: NodeRow
    history: tuple[NodeAct, ...]


@dataclass(frozen=True, slots=True)
class Lemons:
    """Every node's score since `since_s`, worst first, and the list that launchers leave out."""

    kind: ClassVar[str] = "lemons"
    version: ClassVar[int] = 1
    since_s: float
    nodes: tuple[LemonScore, ...]
    excluded: tuple[str, ...]
    recorded: bool


SHOWN_LEMONS = 20


def lemons_text(result: Lemons) -> str:
    """The worst nodes, and the list as launchers take it."""
    rows = [
        (each.node, f"{each.score:.1f}", "lemon" if each.lemon else "", each.evidence)
        for each in result.nodes[:SHOWN_LEMONS]
    ]
    left_out = ",".join(result.excluded) or "none"
    head = f"{len(result.nodes)} nodes since {day(result.since_s)}; left out: {left_out}"
    return f"{table(('node', 'score', 'judged', 'surprises'), rows)}\n{head}"


def row_of(record: NodeRecord) -> NodeRow:
    """A node for people and scripts."""
    state = record.state
    return NodeRow(
        record.name,
        state.phase.value,
        state.takes_work,
        record.since_s,
        state.reasons,
        state.overruled,
        record.listing.value,
        record.listing_reason,
    )


def shown(record: NodeRecord) -> NodeShown:
    """A node with every act that changed it."""
    acts = []
    for entry in record.history:
        event = entry.detail.get("event")
        said = entry.detail if not isinstance(event, dict) else event
        told = str(said.get("reason") or said.get("evidence") or _found(said))
        became = str(entry.detail.get("to") or entry.detail.get("listing") or "")
        acts.append(NodeAct(entry.time_s, entry.actor, entry.action, became, told))
    return NodeShown(row_of(record), tuple(acts))


def _found(said: object) -> str:
    findings = said.get("findings") if isinstance(said, dict) else None
    if not isinstance(findings, list):
        return ""
    return "; ".join(f"{each['check']}: {each['evidence']}" for each in findings) or "nothing found"


def nodes_text(result: Nodes) -> str:
    """One line a node, with the first reason."""
    rows = [
        (row.name, row.phase, "yes" if row.takes_work else "no", day(row.since_s), row.listing, _why(row))
        for row in result.nodes
    ]
    return table(("node", "state", "takes work", "since", "listed", "reasons"), rows)


def _why(row: NodeRow) -> str:
    return "; ".join(f"{each.source}: {each.evidence}" for each in row.reasons)


def shown_text(result: NodeShown) -> str:
    """Where the node stands, why, and how it came there."""
    row = result.node
    lines = [
        ("node", row.name),
        ("state", f"{row.phase} since {day(row.since_s)}"),
        ("takes work", "yes" if row.takes_work else "no"),
        ("listed", row.listing + (f": {row.listing_reason}" if row.listing_reason else "")),
    ]
    lines += [
        ("reason", f"{each.source}: {each.evidence} ({day(each.since_s)}{', ' + each.by if each.by else ''})")
        for each in row.reasons
    ]
    lines += [("overruled", f"{each.check} until {day(each.until_s)}") for each in row.overruled]
    acts = [(day(each.time_s), each.actor, each.action, each.became, each.told) for each in result.history]
    return f"{pairs(lines)}\n\n{table(('time', 'by', 'act', 'became', 'told'), acts)}"


def report_text(report: NodeReport) -> str:
    """Every check in one line, and one line that says what follows."""
    rows = [
        (each.name, each.state.value, each.severity or "", f"{each.took_s * 1000:.0f} ms", each.evidence)
        for each in report.results
    ]
    counts = ", ".join(f"{len(report.of(state))} {state.value}" for state in CheckState)
    asked = f"; asks for: {report.severity.value}" if report.severity else ""
    became = f"; recorded as {report.recorded_as}" if report.recorded_as else ""
    slurm = f"\nslurm {report.for_slurm}" if report.for_slurm else ""
    head = f"{report.node}: {counts}, in {human_seconds(report.took_s)}{asked}{became}{slurm}"
    return f"{table(('check', 'state', 'severity', 'took', 'evidence'), rows)}\n{head}"
