"""Clearing away what nobody can open any more, and never what a live run reads.

Collecting a dataset is two steps: an act of the ledger that marks it as collected, in whose transaction it is
judged that nobody reads it; and then the removal of its objects. A run begins and goes on in a transaction
that takes live datasets only. So of the two one comes wholly first. See docs/design/intake.md, "What gc
removes".
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final

from stoker.core.atomic import exclusive
from stoker.core.canonical import JsonValue
from stoker.core.clock import Clock, iso_utc
from stoker.core.errors import Busy
from stoker.core.ids import VersionId
from stoker.core.progress import SILENT, Progress
from stoker.intake.dataset_writer import dataset_prefix
from stoker.intake.life import (
    COLLECT_ACT,
    PREPARE_ACTS,
    RunStanding,
    RunWatch,
    Standing,
    standing_of,
)
from stoker.intake.permission import MAY_COLLECT, require_role
from stoker.keys.backend import KeyBackend
from stoker.keys.errors import KeyUnknown
from stoker.keys.moves import keeper, moves
from stoker.keys.refs import KekRef
from stoker.keys.states import KekState
from stoker.ledger.catalogue import Catalogue
from stoker.ledger.ledger import Ledger
from stoker.ledger.records import DatasetRecord, DatasetState, RunRecord
from stoker.store.cache import NodeCache
from stoker.store.objects import ObjectStore

GRACE_DAYS: Final = 7.0
_DAY_S: Final = 86_400.0


class Because(enum.StrEnum):
    """Why something is cleared away."""

    DESTROYED = "its key is destroyed"
    EXPIRED = "it expired"
    UNFINISHED = "it was never finished"
    INTERRUPTED = "an earlier gc did not finish"


@dataclass(frozen=True, slots=True)
class Collected:
    """One version whose objects were, or with a dry run would be, removed."""

    name: str
    version: str
    because: Because
    objects: int
    object_bytes: int


@dataclass(frozen=True, slots=True)
class Kept:
    """One version that is over and was kept all the same."""

    name: str
    version: str
    why: str


@dataclass(frozen=True, slots=True)
class GarbageReport:
    """What was cleared away, what was kept, and why."""

    kind: ClassVar[str] = "dataset-gc"
    version: ClassVar[int] = 1

    collected: tuple[Collected, ...]
    kept: tuple[Kept, ...]
    objects: int
    object_bytes: int
    dry_run: bool


class _Read(Exception):
    """Somebody reads it: the act that would have collected it is undone."""


@dataclass(frozen=True, slots=True)
class GarbageCollector:
    """Clears the datasets of one store. `locks` is the folder of the locks of names."""

    actor: str
    ledger: Ledger
    backend: KeyBackend
    store: ObjectStore
    cache: NodeCache
    watch: RunWatch
    clock: Clock
    locks: Path
    grace_s: float = GRACE_DAYS * _DAY_S
    dry_run: bool = False

    def run(self, progress: Progress = SILENT) -> GarbageReport:
        """Look at every dataset that is over and every preparation that was begun, and clear what may go.

        Interrupted at any moment, the next one goes on. Raises NotAllowed for an auditor, LedgerUnusable when
        the audit log does not vouch for a record, and what store and ledger raise.
        """
        require_role(self.ledger, self.actor, MAY_COLLECT, "clear away datasets")
        collected: list[Collected] = []
        kept: list[Kept] = []
        steps = [*self._ended(), *self._unfinished()]
        with progress.task("gc", float(len(steps)), "versions") as task:
            for step in steps:
                found = step()
                if isinstance(found, Collected):
                    collected.append(found)
                elif found is not None:
                    kept.append(found)
                task.advance()
        return GarbageReport(
            tuple(collected),
            tuple(kept),
            sum(each.objects for each in collected),
            sum(each.object_bytes for each in collected),
            self.dry_run,
        )

    # -- datasets on record

    def _ended(self) -> Iterator[Callable[[], Collected | Kept | None]]:
        for record in self.ledger.catalogue.datasets():
            if standing_of(record, self.clock.now_s()) is not Standing.LIVE:
                yield lambda record=record: self._dataset(record)  # type: ignore[misc]

    def _dataset(self, record: DatasetRecord) -> Collected | Kept | None:
        prefix = dataset_prefix(record.name, record.version)
        if record.state is DatasetState.COLLECTED:
            if next(iter(self.store.list(prefix)), None) is None:
                return None  # all of it has gone before
            return self._clear(record.name, record.version, Because.INTERRUPTED)
        because = self._because(record)
        if because is None:
            return _kept(record, f"it expired at {iso_utc(record.expires_s)}, less than the grace ago")
        self.ledger.vouch(record)
        if reader := self._reader(self.ledger.catalogue, record):
            return _kept(record, reader)
        if not self.dry_run:
            try:
                self._mark(record, because)
            except _Read as read:
                return _kept(record, str(read))
        return self._clear(record.name, record.version, because)

    def _because(self, record: DatasetRecord) -> Because | None:
        """Why it may go: its key is destroyed, or its time and the grace after it are over."""
        try:
            holders = {record.kek, keeper(record.kek, moves(self.ledger))}  # what survived may have moved
            states = {self.backend.info(KekRef.parse(each)).state for each in holders}
            destroyed = states == {KekState.DESTROYED}
        except KeyUnknown:
            destroyed = False  # another key store's: then only time counts
        if destroyed:
            return Because.DESTROYED
        return Because.EXPIRED if self.clock.now_s() >= record.expires_s + self.grace_s else None

    def _reader(self, catalogue: Catalogue, record: DatasetRecord) -> str | None:
        """Who may be reading it now, in words; None when nobody is."""
        for run in catalogue.runs_of_dataset(record.root):
            if why := self._why_live(run):
                return why
        return None

    def _why_live(self, run: RunRecord) -> str | None:
        match self.watch.standing(run):
            case RunStanding.LIVE:
                return f"run {run.id} reads it"
            case RunStanding.ELSEWHERE:
                return f"run {run.id} was started in another home and is recorded as running"
        return None

    def _mark(self, record: DatasetRecord, because: Because) -> None:
        """The act after which no run begins with it; undone when one has begun meanwhile. Raises _Read."""
        detail: Mapping[str, JsonValue] = {
            "version": record.version,
            "root": record.root,
            "kek": record.kek,
            "because": because.value,
        }
        with self.ledger.act(
            actor=self.actor, action=COLLECT_ACT, subject=f"dataset/{record.name}", detail=detail
        ) as catalogue:
            if catalogue.dataset_of_root(record.root).state is DatasetState.COLLECTED:
                raise _Read("another gc is clearing it away")
            if reader := self._reader(catalogue, record):
                raise _Read(reader)
            catalogue.set_dataset_state(record.root, DatasetState.COLLECTED)

    # -- preparations that were begun

    def _unfinished(self) -> Iterator[Callable[[], Collected | Kept | None]]:
        """What was begun, has no record, and has left objects. What this ledger never began is not ours."""
        recorded = {(record.name, record.version) for record in self.ledger.catalogue.datasets()}
        touched: dict[tuple[str, str], float] = {}
        for entry in self.ledger.audit.acts(PREPARE_ACTS):
            name, version = entry.subject.removeprefix("dataset/"), entry.detail.get("version")
            if isinstance(version, str) and (name, version) not in recorded:
                touched[name, version] = entry.time_s  # begun, or gone on with since
        for (name, version), at_s in touched.items():
            yield lambda name=name, version=version, at_s=at_s: self._leftover(  # type: ignore[misc]
                name, VersionId(version), at_s
            )

    def _leftover(self, name: str, version: VersionId, touched_s: float) -> Collected | Kept | None:
        if next(iter(self.store.list(dataset_prefix(name, version))), None) is None:
            return None
        if self.clock.now_s() < touched_s + self.grace_s:
            return Kept(name, version, f"it was worked on at {iso_utc(touched_s)} and may be gone on with")
        try:
            with exclusive(self.locks / f"dataset-{name}.lock", f"dataset {name}"):
                if any(record.version == version for record in self.ledger.catalogue.datasets(name)):
                    return None  # finished meanwhile
                if not self.dry_run:
                    self._retire(f"dataset/{name}/{version}")
                return self._clear(name, version, Because.UNFINISHED)
        except Busy:
            return Kept(name, version, "a preparation of this name is at work")

    def _retire(self, scope: str) -> None:
        for info in self.backend.list_keks():
            if info.ref.scope == scope and info.state is KekState.ACTIVE:
                self.backend.deactivate(info.ref)

    # -- removing

    def _clear(self, name: str, version: str, because: Because) -> Collected:
        """Remove the objects: the manifest first, so that what is half gone is no dataset any more."""
        prefix = dataset_prefix(name, version)
        objects, total = 0, 0
        for key in self.store.list(prefix):
            objects, total = objects + 1, total + self.store.size(key)
        if not self.dry_run:
            self.store.delete_prefix(f"{prefix}/manifest")
            self.store.delete_prefix(prefix)
            self.cache.drop(prefix)
        return Collected(name, version, because, objects, total)


def _kept(record: DatasetRecord, why: str) -> Kept:
    return Kept(record.name, record.version, why)
