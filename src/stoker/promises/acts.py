"""What the audit log says was done, as far as promises rest on it: decisions, leases, scans, beginnings.

A row of the catalogue shows the last state only; the log shows what held at each moment. See
docs/design/promises.md, "What the log adds".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from stoker.ledger.ledger import Ledger
from stoker.ledger.records import AuditEntry

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


@dataclass(frozen=True, slots=True)
class Acts:
    """The log by subject, each in order. `prefixes` are those of the store under which an act wrote."""

    began_s: float
    verdicts: Mapping[str, tuple[Verdict, ...]]
    leases: Mapping[str, tuple[Lease, ...]]
    scans: tuple[Scan, ...]
    prefixes: frozenset[str]


def read_acts(ledger: Ledger) -> Acts:
    """Read the whole log once. Raises LedgerUnusable, naming the index, where it is damaged."""
    began_s: float | None = None
    verdicts: dict[str, list[Verdict]] = {}
    leases: dict[str, list[Lease]] = {}
    scans: list[Scan] = []
    prefixes: set[str] = set()
    for entry in ledger.audit.entries():
        began_s = entry.time_s if began_s is None else began_s
        kind, _, name = entry.subject.partition("/")
        if entry.action in ("review.decide", "review.revoke"):
            verdict = Verdict(
                entry.time_s, entry.actor, _text(entry, "verdict"), _text(entry, "request_digest")
            )
            verdicts.setdefault(_text(entry, "review"), []).append(verdict)
        elif entry.action == "run.lease" and kind == "run":
            attempt = entry.detail.get("attempt")
            lease = Lease(entry.time_s, attempt if isinstance(attempt, int) else 0)
            leases.setdefault(name, []).append(lease)
        elif entry.action == "run.start" and kind == "run":
            prefixes.add(f"runs/{name}")
        elif entry.action == "source.scan":
            scans.append(
                Scan(
                    name,
                    _text(entry, "version"),
                    _text(entry, "scan_digest"),
                    _text(entry, "patterns_digest"),
                )
            )
        elif entry.action in _BEGINNINGS:
            prefixes.add(f"{_BEGINNINGS[entry.action]}/{name}/{_text(entry, 'version')}")
    return Acts(
        began_s=0.0 if began_s is None else began_s,
        verdicts={review: tuple(found) for review, found in verdicts.items()},
        leases={run: tuple(found) for run, found in leases.items()},
        scans=tuple(scans),
        prefixes=frozenset(prefixes),
    )


def _text(entry: AuditEntry, name: str) -> str:
    value = entry.detail.get(name)
    return value if isinstance(value, str) else ""
