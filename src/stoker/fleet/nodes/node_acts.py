"""Nodes in the ledger: each event that changed a node is an act, with the state after it.

The newest act of a node says where it stands; nothing else is kept. See docs/design/nodes.md, "The ledger".
"""

from __future__ import annotations

import dataclasses
import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from stoker.core.canonical import JsonValue
from stoker.core.config import from_plain
from stoker.core.errors import BadName, ConfigError
from stoker.core.result import plain
from stoker.fleet.nodes.errors import NodeActRefused, NodeNeverSeen
from stoker.fleet.nodes.finding import CheckState, NodeReport, one_line
from stoker.fleet.nodes.node_machine import TABLE, transition, validate
from stoker.fleet.nodes.node_state import (
    Blamed,
    Checked,
    Drain,
    Event,
    Instruction,
    JobsGone,
    NodeLost,
    NodePolicy,
    NodeState,
    Overrule,
    Resume,
    SeenFinding,
)
from stoker.ledger.errors import LedgerUnusable
from stoker.ledger.ledger import Ledger
from stoker.ledger.records import AuditEntry

ACTIONS: Final[Mapping[type[Event], str]] = {
    Checked: "node.check",
    Blamed: "node.blame",
    NodeLost: "node.lost",
    JobsGone: "node.empty",
    Drain: "node.drain",
    Resume: "node.resume",
    Overrule: "node.overrule",
}
"""The action under which each kind of event is recorded."""

EXCLUDE: Final = "node.exclude"
_TRIES: Final = 8
_NODE: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9])?")


class Listing(enum.StrEnum):
    """What people say of a node on the list that launchers leave out."""

    BY_SCORE = "by-score"
    """Nobody says anything: the lemon score decides."""

    ALWAYS = "always"
    """Left out whatever its score."""

    NEVER = "never"
    """Never left out for its score."""


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """One node as the ledger knows it. `history` are its acts, oldest first."""

    name: str
    state: NodeState
    listing: Listing
    listing_reason: str
    since_s: float
    history: tuple[AuditEntry, ...] = ()


@dataclass(frozen=True, slots=True)
class Change:
    """What an event did. Nothing was recorded when `before` and `after` are the same."""

    node: str
    before: NodeState
    after: NodeState
    instructions: tuple[Instruction, ...]

    @property
    def recorded(self) -> bool:
        """Whether the event changed anything."""
        return self.before != self.after


def check_node(name: str) -> str:
    """`name` when it can name a node: 1 to 100 letters, digits, '.', '_' and '-'. Raises BadName."""
    if _NODE.fullmatch(name) is None:
        raise BadName(
            f"{name[:80]!a} is no name of a node.", hint="Give it as `stoker node ls` or `sinfo` shows it."
        )
    return name


def seen_in(report: NodeReport) -> Checked:
    """A report as an event of the node it is about."""
    findings = tuple(
        SeenFinding(each.name, each.severity, each.evidence, each.answered) for each in report.findings
    )
    return Checked(report.checked_s, findings, frozenset(each.name for each in report.of(CheckState.OK)))


def record_event(
    ledger: Ledger, node: str, given: Event, *, actor: str, policy: NodePolicy | None = None
) -> Change:
    """Let `given` happen to `node`: the state machine decides, and what changed is one act.

    Whoever acts on the same node meanwhile comes wholly before or wholly after. Raises BadName, and what an
    act raises; LedgerUnusable for a state on record that is none.
    """
    policy = policy or NodePolicy()
    for _ in range(_TRIES):
        before, place = _state_of(ledger, check_node(node))
        after, instructions = transition(policy, before, given)
        validate(policy, after)
        change = Change(node, before, after, tuple(instructions))
        if not change.recorded:
            return change
        detail = _detail(given, before, after, change.instructions)
        try:
            with ledger.act(actor=actor, action=ACTIONS[type(given)], subject=f"node/{node}", detail=detail):
                if _state_of(ledger, node)[1] != place:
                    raise _Overtaken
        except _Overtaken:
            continue
        return change
    raise NodeActRefused(
        f"Others changed node {node} {_TRIES} times while this was tried.", hint="Try again."
    )


def require_possible(ledger: Ledger, node: str, kind: type[Event], hint: str) -> None:
    """Raise NodeActRefused unless such an event means something where `node` stands; NodeNeverSeen."""
    phase = node_record(ledger, node).state.phase
    if (phase, kind) not in TABLE:
        raise NodeActRefused(f"Node {node} is {phase.value}; this cannot be done to it now.", hint=hint)


def exclude(ledger: Ledger, node: str, listing: Listing, reason: str, *, actor: str) -> None:
    """Record what a person says of `node` on the launchers' list. Raises BadName, NodeActRefused."""
    if not reason.strip():
        raise NodeActRefused("A node is not listed without a reason.", hint="Add --reason.")
    detail: Mapping[str, JsonValue] = {"listing": listing.value, "reason": one_line(reason)}
    with ledger.act(actor=actor, action=EXCLUDE, subject=f"node/{check_node(node)}", detail=detail):
        pass


def node_records(ledger: Ledger) -> tuple[NodeRecord, ...]:
    """Every node that was ever recorded, by name. Raises LedgerUnusable."""
    by_node: dict[str, list[AuditEntry]] = {}
    for entry in ledger.audit.acts({*ACTIONS.values(), EXCLUDE}):
        by_node.setdefault(entry.subject.removeprefix("node/"), []).append(entry)
    return tuple(_record(name, by_node[name]) for name in sorted(by_node))


def node_record(ledger: Ledger, node: str) -> NodeRecord:
    """One node with its history. Raises BadName, NodeNeverSeen, LedgerUnusable."""
    entries = ledger.audit.acts({*ACTIONS.values(), EXCLUDE}, f"node/{check_node(node)}")
    if not entries:
        raise NodeNeverSeen(f"Nothing was ever recorded of a node {node}.", hint="See: stoker node ls")
    return _record(node, entries)


def _record(name: str, entries: list[AuditEntry] | tuple[AuditEntry, ...]) -> NodeRecord:
    lived = [each for each in entries if each.action != EXCLUDE]
    said = [each for each in entries if each.action == EXCLUDE]
    listing, reason = Listing.BY_SCORE, ""
    if said:
        listing, reason = Listing(str(said[-1].detail["listing"])), str(said[-1].detail["reason"])
    state = _after(lived[-1]) if lived else NodeState()
    since_s = next((each.time_s for each in reversed(lived) if _entered(each)), entries[0].time_s)
    return NodeRecord(name, state, listing, reason, since_s, tuple(entries))


def _entered(entry: AuditEntry) -> bool:
    return entry.detail["from"] != entry.detail["to"]


def _state_of(ledger: Ledger, node: str) -> tuple[NodeState, int]:
    """Where `node` stands, and the index of the act that says so; -1 where there is none."""
    entries = ledger.audit.acts(set(ACTIONS.values()), f"node/{node}")
    return (_after(entries[-1]), entries[-1].index) if entries else (NodeState(), -1)


def _after(entry: AuditEntry) -> NodeState:
    try:
        return from_plain(NodeState, entry.detail["after"], f"entry {entry.index}")
    except (ConfigError, KeyError) as error:
        raise LedgerUnusable(
            f"Entry {entry.index} of the log cannot be understood as a state of {entry.subject}: {error}.",
            hint="A newer Stoker may have written it; use that one.",
        ) from error


def _detail(
    given: Event, before: NodeState, after: NodeState, instructions: tuple[Instruction, ...]
) -> dict[str, JsonValue]:
    event: dict[str, Any] = {
        field.name: plain(getattr(given, field.name)) for field in dataclasses.fields(given)
    }
    event.pop("ok", None)  # what was sound is for the report; the log keeps what changed something
    return {
        "event": event,
        "from": before.phase.value,
        "to": after.phase.value,
        "after": plain(after),
        "instructions": [type(each).__name__ for each in instructions],
    }


class _Overtaken(Exception):
    """Somebody else changed the node between reading and acting."""
