"""What the audit log says was done, as far as promises rest on it: decisions, leases, scans, beginnings.

A row of the catalogue shows the last state only; the log shows what held at each moment. See
docs/design/promises.md, "What the log adds".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from stoker.core.errors import StokerError
from stoker.ledger.ledger import Ledger
from stoker.ledger.records import AuditEntry
from stoker.promises.promise import Check

_BEGINNINGS = {
    "source.import.begin": "sources",
    "source.import": "sources",
    "dataset.prepare.begin": "datasets",
    "dataset.prepare": "datasets",
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """One decision about a review, when it was made and on which request; `word` is the state it led to."""

    time_s: float
    by: str
    word: str
    request_digest: str


@dataclass(frozen=True, slots=True)
class Lease:
    """Keys given to one attempt of a run."""

    time_s: float
    attempt: int


@dataclass(frozen=True, slots=True)
class Scan:
    """A scan whose report was sealed beside its source version."""

    source: str
    version: str
    digest: str
    patterns_digest: str
    measures: str = ""


@dataclass(frozen=True, slots=True)
class Room:
    """A node that did tasks of a preparation, and what was found of its processes' network."""

    dataset: str
    version: str
    node: str
    state: str
    reason: str


@dataclass(frozen=True, slots=True)
class Acts:
    """The log by subject, each in order. `prefixes` are those of the store under which an act wrote.

    `rooms` are those of preparations that have told of theirs.
    `events` is, by run, the SHA-256 of what it had told when it last ended; a run that goes on has none.
    `damage` says where reading had to stop, if it had to; what stands behind that is not known.
    """

    began_s: float
    verdicts: Mapping[str, tuple[Verdict, ...]]
    leases: Mapping[str, tuple[Lease, ...]]
    scans: tuple[Scan, ...]
    prefixes: frozenset[str]
    damage: str = ""
    events: Mapping[str, str] = field(default_factory=dict)
    rooms: tuple[Room, ...] = ()

    def readable(self) -> list[Check]:
        """A check that fails when the log could not be read to its end, for whoever rests on it."""
        return [Check("reading the audit log", False, self.damage)] if self.damage else []


def read_acts(ledger: Ledger) -> Acts:
    """Read the whole log once, as far as it can be read."""
    reading = _Reading()
    damage = ""
    try:
        for entry in ledger.audit.entries():
            reading.take(entry)
    except StokerError as error:
        damage = error.message
    return Acts(
        began_s=reading.began_s or 0.0,
        verdicts={review: tuple(found) for review, found in reading.verdicts.items()},
        leases={run: tuple(found) for run, found in reading.leases.items()},
        scans=tuple(reading.scans),
        prefixes=frozenset(reading.prefixes),
        events=reading.events,
        rooms=tuple(reading.rooms),
        damage=damage,
    )


@dataclass(slots=True)
class _Reading:
    """What was read so far."""

    began_s: float | None = None
    verdicts: dict[str, list[Verdict]] = field(default_factory=dict)
    leases: dict[str, list[Lease]] = field(default_factory=dict)
    scans: list[Scan] = field(default_factory=list)
    prefixes: set[str] = field(default_factory=set)
    events: dict[str, str] = field(default_factory=dict)
    rooms: list[Room] = field(default_factory=list)

    def take(self, entry: AuditEntry) -> None:
        if self.began_s is None:
            self.began_s = entry.time_s
        kind, _, name = entry.subject.partition("/")
        if entry.action in ("review.decide", "review.revoke"):
            verdict = Verdict(
                entry.time_s, entry.actor, _text(entry, "verdict"), _text(entry, "request_digest")
            )
            self.verdicts.setdefault(_text(entry, "review"), []).append(verdict)
        elif entry.action == "run.lease" and kind == "run":
            attempt = entry.detail.get("attempt")
            lease = Lease(entry.time_s, attempt if isinstance(attempt, int) else 0)
            self.leases.setdefault(name, []).append(lease)
            self.events.pop(name, None)
        elif entry.action == "run.resume" and kind == "run":
            self.events.pop(name, None)
        elif entry.action == "run.end" and kind == "run":
            self.events[name] = _text(entry, "events_sha256")
        elif entry.action == "run.start" and kind == "run":
            self.prefixes.add(f"runs/{name}")
        elif entry.action == "source.scan":
            digests = _text(entry, "scan_digest"), _text(entry, "patterns_digest")
            measures = _text(entry, "measures")
            self.scans.append(Scan(name, _text(entry, "version"), *digests, measures))
        elif entry.action in _BEGINNINGS:
            self.prefixes.add(f"{_BEGINNINGS[entry.action]}/{name}/{_text(entry, 'version')}")
            self.rooms += _rooms(entry, name)


def _text(entry: AuditEntry, name: str) -> str:
    value = entry.detail.get(name)
    return value if isinstance(value, str) else ""


def _rooms(entry: AuditEntry, dataset: str) -> Iterator[Room]:
    told = entry.detail.get("rooms")
    for room in told if isinstance(told, list) else ():
        if isinstance(room, list) and len(room) == 3:
            yield Room(dataset, _text(entry, "version"), *map(str, room))
