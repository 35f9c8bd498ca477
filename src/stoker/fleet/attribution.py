"""What an attempt died of, and who is to be looked at: pure, from its events and what others saw meanwhile.

Every sign is looked up in taxonomy.py; the likeliest meaning is told, with the lines that speak for it. The
method, its window and its limits are in docs/design/attribution.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from stoker.core.canonical import JsonValue
from stoker.core.events import Event, EventKind, Section
from stoker.core.isolation import NO_LOOPBACK
from stoker.fleet.failure_texts import text_meaning
from stoker.fleet.stacks import waits_for_others
from stoker.fleet.taxonomy import (
    AGENT_GONE,
    ALL_WAIT,
    BY_ID,
    CODES,
    HANG,
    LOOPBACK_GONE,
    SIGNALS,
    STOPPED,
    SYMPTOM_CODES,
    SYMPTOMS,
    UNEXPLAINED,
    Component,
    FailureKind,
    Meaning,
    Source,
)

BEFORE_S: Final = 600.0
AFTER_S: Final = 300.0
"""RSC's window: what was seen this long before a failure, or after it, may have to do with it."""

MAX_EVIDENCE: Final = 8
MAX_LINE_CHARACTERS: Final = 240

_MOST: Final = 0.99
_OTHER_NODE: Final = 0.5
"""How much less a line counts that is about a node of the run on which no rank failed."""

_SIGKILL: Final = 9
_ENDED_PID: Final = re.compile(r"[Kk]illed process (\d+)|\[(\d+)\]: segfault")
_NAMED_PID: Final = re.compile(r"\bpid=(\d+)")
_STRANGER: Final = 0.2
"""How much is believed at most of a line about the program of a process that is no rank."""


@dataclass(frozen=True, slots=True)
class Witness:
    """A line that somebody else wrote: the kernel, a check, the scheduler, a rank's kept output.

    `at_s` in seconds since the Unix epoch by the node's clock; `node` empty where it is about all of them;
    a check's line begins with the check's name.
    """

    at_s: float
    node: str
    source: Source
    text: str
    rank: int = -1


@dataclass(frozen=True, slots=True)
class Attribution:
    """What an attempt died of. `rank` -1 and `node` empty where no one is named; `confidence` is 0 to 1."""

    kind: FailureKind
    component: Component
    rank: int
    node: str
    evidence: tuple[str, ...]
    confidence: float

    def sentence(self) -> str:
        """All of it but the evidence in a few words."""
        what = self.kind.value.replace("_", " ")
        if self.component:
            what += f", {self.component.value.replace('_', ' ')}"
        where = f" on {self.node}" if self.node else ""
        return f"{what}{where} (confidence {self.confidence:.2f})"

    def fields(self) -> Mapping[str, JsonValue]:
        """As fields of `attempt_ended`."""
        return {
            "failure_kind": self.kind.value,
            "component": self.component.value,
            "culprit_rank": self.rank,
            "culprit_node": self.node,
            "confidence": round(self.confidence, 3),
            "evidence": list(self.evidence),
        }

    @classmethod
    def told_in(cls, event: Event) -> Attribution | None:
        """What `attempt_ended` says; None where it says nothing, as events of before do."""
        told = event.fields
        kinds = {kind.value: kind for kind in FailureKind}
        parts = {part.value: part for part in Component}
        kind = kinds.get(str(told.get("failure_kind")))
        if kind is None:
            return None
        rank, confidence, evidence = (told.get(name) for name in ("culprit_rank", "confidence", "evidence"))
        lines = evidence if isinstance(evidence, list) else []
        return cls(
            kind,
            parts.get(str(told.get("component")), Component.NONE),
            rank if isinstance(rank, int) else -1,
            str(told.get("culprit_node", "")),
            tuple(str(line) for line in lines),
            float(confidence) if isinstance(confidence, int | float) else 0.0,
        )


@dataclass(frozen=True, slots=True)
class _Sign:
    meaning: Meaning
    rank: int
    node: str
    line: str
    source: Source


def attribute(
    events: Sequence[Event],
    witnesses: Iterable[Witness] = (),
    *,
    refused: str = "",
    ended_s: float | None = None,
) -> Attribution:
    """What the attempt whose events these are died of.

    `events` are those of one attempt in the order of its file, up to its end; `refused` is the id of the
    error for which the supervisor did not let it go on; `ended_s` is when it ended, on the wall clock, which
    dates a failure that nobody told of. Lines of other nodes, and from outside of the window
    around the first sign of the failure, are not looked at.
    """
    own = list(_own_signs(events, refused))
    at_s = _failed_at_s(events, ended_s)
    nodes = {event.node for event in events}
    spawned = {
        int(event.number("pid")): event.rank for event in events if event.kind is EventKind.RANK_SPAWNED
    }
    failing_nodes = {sign.node for sign in own if sign.rank >= 0} or nodes
    others = [
        sign
        for witness in witnesses
        if _concerns(witness, at_s, nodes)
        for sign in _signs_of(witness, spawned, failing_nodes)
    ]
    return _judged(own, others)


def judge_open_end(
    meaning: Meaning, line: str, last_s: float, nodes: set[str], witnesses: Iterable[Witness]
) -> Attribution:
    """Of an attempt whose end nobody told: `line` means `meaning`, unless a witness of then knows better.

    `last_s` is when it was last heard of, on the wall clock, on `nodes`.
    """
    own = [_Sign(meaning, -1, "", line, Source.EVENT)]
    others = [
        sign
        for witness in witnesses
        if _concerns(witness, last_s, nodes)
        for sign in _signs_of(witness, {}, nodes)
    ]
    return _judged(own, others)


def _failed_at_s(events: Sequence[Event], ended_s: float | None) -> float:
    """When the first sign of a failure came, on the wall clock; the end of the attempt without one."""
    for event in events:
        if event.kind is EventKind.RANK_HUNG:
            return event.ts - max(event.number("silent_s"), 0.0)
        if event.kind is EventKind.RANK_ERROR or (event.kind is EventKind.RANK_EXITED and not _well(event)):
            return event.ts
    last_s = events[-1].ts if events else 0.0
    return last_s if ended_s is None else ended_s


def _own_signs(events: Sequence[Event], refused: str) -> Iterator[_Sign]:
    """What the run itself told, the first rank's word first; ranks that were killed for it say nothing."""
    if refused:
        rule = BY_ID.get(refused)
        meaning = UNEXPLAINED if rule is None else rule.meaning
        yield _Sign(meaning, -1, "", f"refused: {refused}", Source.EVENT)
        return
    first, silent = True, True
    for event in events:
        sign = _sign_of(event)
        if sign is None:
            continue
        symptom = event.fields.get("error_id") in SYMPTOMS or _code(event) in SYMPTOM_CODES
        killed = event.kind is EventKind.RANK_EXITED and event.number("signal") == _SIGKILL
        if killed and (not first or event.fields.get("ordered") is True):
            continue  # the agent kills all other ranks when the first has ended
        yield sign
        yield from _last_words(event, sign)
        first, silent = first and symptom, False
    yield from _stood(events)
    for event in filter(loopback_broke, events):
        yield _Sign(LOOPBACK_GONE, -1, event.node, NO_LOOPBACK, Source.EVENT)
    if silent and any(event.kind is EventKind.ATTEMPT_STARTED for event in events):
        yield _Sign(AGENT_GONE, -1, events[-1].node, "nobody told of the ranks any more", Source.EVENT)


def loopback_broke(event: Event) -> bool:
    """Whether a probe of the ranks' network found that they do not reach one another any more."""
    return event.kind is EventKind.ISOLATION_PROBED and event.fields.get("reason") == NO_LOOPBACK


def _sign_of(event: Event) -> _Sign | None:
    """What one event says of a failure; None when nothing."""
    if event.kind is EventKind.RANK_HUNG:
        section, silent_s = event.text("section"), event.number("silent_s")
        line = f"rank {event.rank} made no progress in {section} for {silent_s:.1f} s"
        return _Sign(_HANGS.get(section, HANG), event.rank, event.node, line, Source.EVENT)
    if event.kind is EventKind.RANK_ERROR:
        rule = BY_ID.get(event.text("error_id"))
        line = f"rank {event.rank} said {event.text('error_id')}"
        meaning = UNEXPLAINED if rule is None else rule.meaning
        if meaning.component is Component.DATASET and event.fields.get("section") == Section.CHECKPOINT:
            meaning = replace(meaning, component=Component.CHECKPOINT)
        return _Sign(meaning, event.rank, event.node, line, Source.EVENT)
    if event.kind is EventKind.RANK_EXITED and not _well(event):
        number, code = int(event.number("signal")), int(event.number("exit_code"))
        rule = CODES.get(code)
        if number:
            meaning = SIGNALS.get(number, UNEXPLAINED)
            line = f"rank {event.rank} was ended by signal {number}"
        else:
            meaning = UNEXPLAINED if rule is None else rule.meaning
            line = f"rank {event.rank} ended with exit code {code}"
        return _Sign(meaning, event.rank, event.node, line, Source.EVENT)
    return None


def _stood(events: Sequence[Event]) -> Iterator[_Sign]:
    """What the ranks of an attempt that hung were doing, beyond which of them the others waited for."""
    stacks = {event.rank: event for event in events if event.kind is EventKind.RANK_STACK}
    for rank, event in stacks.items():
        if event.fields.get("process_state") in ("T", "t"):
            yield _Sign(STOPPED, rank, event.node, f"rank {rank} was stopped by a signal", Source.EVENT)
    ranks = {event.rank for event in events if event.kind is EventKind.RANK_SPAWNED}
    frames = {rank: tuple(map(str, _lines(event.fields.get("frames")))) for rank, event in stacks.items()}
    if len(ranks) > 1 and ranks <= frames.keys() and all(map(waits_for_others, frames.values())):
        yield _Sign(ALL_WAIT, -1, "", "every rank was inside a collective, and none came out", Source.EVENT)


def _lines(told: JsonValue) -> Sequence[JsonValue]:
    return told if isinstance(told, list) else ()


def _last_words(event: Event, sign: _Sign) -> Iterator[_Sign]:
    """What the message of a rank's error says beyond its id."""
    if event.kind is not EventKind.RANK_ERROR:
        return
    text = f"{event.text('message')} {event.text('hint')}"
    meaning = text_meaning(Source.OUTPUT, text)
    if meaning is not None:
        yield _Sign(meaning, sign.rank, sign.node, event.text("message"), Source.OUTPUT)


_HANGS: Final[Mapping[str, Meaning]] = {
    Section.CHECKPOINT.value: Meaning(FailureKind.UNKNOWN, Component.STORE, 0.3),
    Section.DATA.value: Meaning(FailureKind.UNKNOWN, Component.DATASET, 0.3),
}
"""Where a hang points by the section that the rank was in; elsewhere to the process alone."""


def _code(event: Event) -> int:
    return int(event.number("exit_code")) if event.kind is EventKind.RANK_EXITED else 0


def _well(event: Event) -> bool:
    return event.number("exit_code") == 0 and event.number("signal") == 0


def _concerns(witness: Witness, at_s: float, nodes: set[str]) -> bool:
    near = at_s - BEFORE_S <= witness.at_s <= at_s + AFTER_S
    return near and (not witness.node or witness.node in nodes)


def _signs_of(witness: Witness, spawned: Mapping[int, int], failing_nodes: set[str]) -> Iterator[_Sign]:
    meaning = text_meaning(witness.source, witness.text)
    if meaning is None:
        return
    confidence, rank = meaning.confidence, witness.rank
    kernel = witness.source is Source.KERNEL
    ended = _ENDED_PID.search(witness.text) if kernel else None
    named = _NAMED_PID.search(witness.text) if kernel else None
    if ended is not None:
        rank = spawned.get(int(ended[1] or ended[2]), -1)
        # The kernel names whom it ended: a rank of ours for certain, or somebody else, who explains little.
        confidence = 0.98 if rank >= 0 else _STRANGER
    elif named is not None:
        rank = spawned.get(int(named[1]), -1)
        if rank < 0 and meaning.kind is not FailureKind.HARDWARE:
            confidence = min(confidence, _STRANGER)
    elif witness.node and witness.node not in failing_nodes:
        confidence *= _OTHER_NODE
    line = f"{witness.source}: {witness.text}"
    yield _Sign(
        Meaning(meaning.kind, meaning.component, confidence), rank, witness.node, line, witness.source
    )


def _judged(own: Sequence[_Sign], others: Sequence[_Sign]) -> Attribution:
    """The meaning that its signs speak for most; signs of one source count once, by their strongest.

    Of two that are as likely, the one that was told first; no prior of kinds is applied.
    """
    strongest: dict[tuple[FailureKind, Component], dict[Source, float]] = {}
    for sign in (*own, *others):
        by_source = strongest.setdefault((sign.meaning.kind, sign.meaning.component), {})
        by_source[sign.source] = max(by_source.get(sign.source, 0.0), sign.meaning.confidence)
    if not strongest:
        return Attribution(UNEXPLAINED.kind, UNEXPLAINED.component, -1, "", (), 0.0)

    def together(what: tuple[FailureKind, Component]) -> float:
        doubt = 1.0
        for confidence in strongest[what].values():
            doubt *= 1.0 - confidence
        return 1.0 - doubt

    kind, component = max(strongest, key=together)
    speaking = [
        sign for sign in (*own, *others) if (sign.meaning.kind, sign.meaning.component) == (kind, component)
    ]
    named = next((sign for sign in (*speaking, *own) if sign.rank >= 0), None)
    node = next((sign.node for sign in speaking if sign.node), "")
    rank = named.rank if named is not None and (not node or named.node in ("", node)) else -1
    lines = dict.fromkeys(sign.line[:MAX_LINE_CHARACTERS] for sign in (*speaking, *own))
    likely = min(together((kind, component)), _MOST)
    return Attribution(kind, component, rank, node, tuple(lines)[:MAX_EVIDENCE], likely)
