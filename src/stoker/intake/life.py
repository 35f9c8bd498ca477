"""Where a dataset stands: its state, who uses it and used it last, and bringing its expiry forward.

Nothing is written while a dataset is read: its last use follows from what the ledger and the runs' own events
say. See docs/design/intake.md, "Life of a dataset".
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Final, Protocol

from stoker.core.canonical import JsonValue
from stoker.core.clock import Clock, iso_utc
from stoker.intake.errors import NotAllowed
from stoker.intake.permission import MAY_EXPIRE, require_role, require_usable
from stoker.keys.backend import KeyBackend
from stoker.keys.refs import KekRef
from stoker.keys.rotation import epochs_of
from stoker.ledger.catalogue import Catalogue
from stoker.ledger.errors import LedgerRefused, UnknownDataset, UnknownSource
from stoker.ledger.ledger import Ledger
from stoker.ledger.records import AuditEntry, DatasetRecord, DatasetState, RunOutcome, RunRecord, SourceRecord

SAMPLE_ACT: Final = "dataset.sample"
OPEN_ACT: Final = "dataset.open"
EXPORT_BEGIN_ACT: Final = "dataset.export.begin"
EXPORT_ACT: Final = "dataset.export"
EXPIRE_ACT: Final = "dataset.expire"
COLLECT_ACT: Final = "dataset.collect"
PREPARE_ACTS: Final = ("dataset.prepare.begin", "dataset.prepare.resume")

_USE_ACTS: Final = {SAMPLE_ACT: "sample", OPEN_ACT: "open", EXPORT_BEGIN_ACT: "export", EXPORT_ACT: "export"}


class Standing(enum.StrEnum):
    """What a dataset is worth now. `expired` is live by record and over by the clock."""

    LIVE = "live"
    EXPIRED = "expired"
    DESTROYED = "destroyed"
    COLLECTED = "collected"


class RunStanding(enum.StrEnum):
    """What is known of a run's processes."""

    ENDED = "ended"
    """No process of it exists in this home, and the ledger says how it ended."""

    LIVE = "live"
    """A process of it exists on this machine: its supervisor, or a rank that outlived it."""

    ELSEWHERE = "elsewhere"
    """It is recorded as running, and was started in another home: nothing is known of its processes."""

    ABANDONED = "abandoned"
    """It is recorded as running, and no process of it exists any more."""


class RunWatch(Protocol):
    """What the floor above knows of a run beside its record; `stoker.fleet.liveness` implements it."""

    def standing(self, run: RunRecord) -> RunStanding:
        """Whether processes of the run exist now."""
        ...

    def last_sign_s(self, run: RunRecord) -> float | None:
        """When the run last told anything, in seconds since the Unix epoch; None when that is not known."""
        ...


@dataclass(frozen=True, slots=True)
class DatasetUse:
    """One use of a dataset. `what` is `run`, `sample` or `export`; `name` the run's id or the actor's name.

    Times are seconds since the Unix epoch; `last_s` is the newest sign of the use.
    """

    what: str
    name: str
    by: str
    began_s: float
    last_s: float
    outcome: str


def standing_of(record: DatasetRecord, now_s: float) -> Standing:
    """Where the dataset stands at `now_s`."""
    if record.state is DatasetState.LIVE:
        return Standing.EXPIRED if now_s >= record.expires_s else Standing.LIVE
    return Standing(record.state.value)


def find_dataset(catalogue: Catalogue, text: str) -> DatasetRecord:
    """The dataset that `text` names: `NAME` (the newest version), `NAME@PREFIX`, or a whole root.

    PREFIX is the beginning of a version or of a root. Raises UnknownDataset, also when several begin so.
    """
    name, at, prefix = text.partition("@")
    if not at:
        if len(name) == 64 and not set(name) - set("0123456789abcdef"):
            return catalogue.dataset_of_root(name)
        return catalogue.latest_dataset(name)
    catalogue.latest_dataset(name)  # raises with the nearest name
    known = catalogue.datasets(name)
    found = [each for each in known if prefix and each.version.startswith(prefix)]
    found += [each for each in known if prefix and each.root.startswith(prefix) and each not in found]
    if len(found) == 1:
        return found[0]
    shown = ", ".join(f"{each.version[:8]} (root {each.root[:8]})" for each in (found or known)[-5:])
    if found:
        raise UnknownDataset(
            f"{len(found)} versions of dataset {name} begin with {prefix[:80]!a}.",
            hint=f"Give more digits. They are: {shown}",
        )
    raise UnknownDataset(
        f"Dataset {name[:80]} has no version or root that begins with {prefix[:80]!a}.",
        hint=f"Its newest versions: {shown}. List them with: stoker dataset ls --all",
    )


def find_source(catalogue: Catalogue, text: str) -> SourceRecord:
    """The source that `text` names: `NAME` (the newest version) or `NAME@PREFIX` of a version or root.

    Raises UnknownSource, also when several begin so.
    """
    name, at, prefix = text.partition("@")
    newest = catalogue.latest_source(name)  # raises with the nearest name
    if not at:
        return newest
    known = catalogue.sources(name)
    found = [each for each in known if prefix and each.version.startswith(prefix)]
    found += [
        each for each in known if prefix and each.manifest_root.startswith(prefix) and each not in found
    ]
    if len(found) == 1:
        return found[0]
    shown = ", ".join(each.version[:8] for each in (found or known)[-5:])
    raise UnknownSource(
        f"{len(found) or 'No'} versions of source {name[:80]} begin with {prefix[:80]!a}.",
        hint=f"They are: {shown}. List them with: stoker source ls",
    )


class Uses:
    """Who used which dataset, for any number of them: two queries in all."""

    def __init__(self, ledger: Ledger, watch: RunWatch) -> None:
        self._by_root: dict[str, list[DatasetUse]] = {}
        runs = {run.id: run for run in ledger.catalogue.runs()}
        roots = [(run.dataset_root, run) for run in runs.values()]
        roots += [(part.dataset_root, runs[part.run]) for part in ledger.catalogue.run_parts()]
        told = {run.id: _use_of_run(run, watch) for run in runs.values()}
        for read, run in roots:
            self._by_root.setdefault(read, []).append(told[run.id])
        for root, use in _told_in_acts(ledger.audit.acts(_USE_ACTS)):
            self._by_root.setdefault(root, []).append(use)

    def of(self, record: DatasetRecord) -> tuple[DatasetUse, ...]:
        """Every use of the dataset, in the order in which they began."""
        return tuple(sorted(self._by_root.get(record.root, ()), key=lambda use: use.began_s))

    def last_s(self, record: DatasetRecord) -> float | None:
        """The newest sign of any use; None when there was none."""
        return max((use.last_s for use in self._by_root.get(record.root, ())), default=None)


def _use_of_run(run: RunRecord, watch: RunWatch) -> DatasetUse:
    signs: Iterable[float | None] = (run.started_s, run.ended_s)
    outcome = run.outcome.value
    if run.outcome is RunOutcome.RUNNING:
        signs = (run.started_s, watch.last_sign_s(run))
        standing = watch.standing(run)
        outcome = outcome if standing is RunStanding.LIVE else f"{outcome}, {standing}"
    last_s = max(sign for sign in signs if sign is not None)
    return DatasetUse("run", run.id, run.started_by, run.started_s, last_s, outcome)


def _told_in_acts(entries: Iterable[AuditEntry]) -> list[tuple[str, DatasetUse]]:
    """Samples and exports with the dataset's root; an export that ended is one use, not two."""
    found: list[tuple[str, DatasetUse]] = []
    begun: dict[tuple[JsonValue, ...], int] = {}
    for entry in entries:
        root = entry.detail.get("root")
        if not isinstance(root, str):
            continue
        export = (entry.actor, root, entry.detail.get("folder"))
        if entry.action == EXPORT_ACT and export in begun:
            place = begun.pop(export)
            found[place] = (root, replace(found[place][1], last_s=entry.time_s, outcome="done"))
            continue
        outcome = "done"
        if entry.action == EXPORT_BEGIN_ACT:
            outcome, begun[export] = "begun", len(found)
        what = _USE_ACTS[entry.action]
        found.append((root, DatasetUse(what, entry.actor, entry.actor, entry.time_s, entry.time_s, outcome)))
    return found


@dataclass(frozen=True, slots=True)
class ExpireReport:
    """A dataset whose expiry was, or with a dry run would be, brought forward."""

    kind: ClassVar[str] = "dataset-expire"
    version: ClassVar[int] = 1

    record: DatasetRecord
    before_s: float
    expires_s: float
    dry_run: bool


def expire_dataset(
    record: DatasetRecord,
    expires_s: float,
    *,
    actor: str,
    ledger: Ledger,
    backend: KeyBackend,
    clock: Clock,
    dry_run: bool = False,
) -> ExpireReport:
    """Let the dataset and its KEK expire at `expires_s`; a time that is over means now.

    Who prepared it, a reviewer or an admin may. From then on no lease is given or renewed and the KEK opens
    nothing, so runs end and feeds stop. Nothing is destroyed by this: that takes two identities, with
    `stoker key destroy`. Raises NotAllowed, DatasetEnded, LedgerRefused for a later time, and what key back
    end and ledger raise; the dataset is then as it was.
    """
    if record.prepared_by == actor:
        ledger.catalogue.identity(actor)
    else:
        try:
            require_role(ledger, actor, MAY_EXPIRE, f"end dataset {record.name}")
        except NotAllowed as error:
            error.hint = f"{record.prepared_by}, who prepared it, a reviewer or an admin may."
            raise
    ledger.vouch(record)
    require_usable(record, clock)
    wanted_s = max(expires_s, clock.now_s())
    if not wanted_s < record.expires_s:
        raise LedgerRefused(
            f"Dataset {record.name} ({record.version[:12]}) expires at {iso_utc(record.expires_s)} already.",
            hint="An expiry is brought forward, never put back. Prepare it anew to have it for longer.",
        )
    report = ExpireReport(record, record.expires_s, wanted_s, dry_run)
    if dry_run:
        return report
    kek = KekRef.parse(record.kek)
    detail: Mapping[str, JsonValue] = {
        "version": record.version,
        "root": record.root,
        "kek": record.kek,
        "before_s": record.expires_s,
        "expires_s": wanted_s,
    }
    with ledger.act(
        actor=actor, action=EXPIRE_ACT, subject=f"dataset/{record.name}", detail=detail
    ) as catalogue:
        catalogue.expire_dataset(record.root, wanted_s)
        # The KEKs first: after a crash here they end before the record says, which harms nobody, and
        # expiring once more brings the record to them. What was rotated or moved has several epochs.
        for each in epochs_of(backend, kek):
            backend.expire_earlier(each, wanted_s)
    return ExpireReport(ledger.catalogue.dataset_of_root(record.root), record.expires_s, wanted_s, dry_run)
