"""What exists: identities, sources, reviews, datasets, runs, checkpoints, tombstones.

Reading needs nothing; writing is possible only on the catalogue that `Ledger.act` hands out, so that no row
changes without an entry in the audit log. See docs/design/ledger.md, "The catalogue".
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from stoker.core.ids import RunId
from stoker.ledger import rows, schema
from stoker.ledger.database import Database
from stoker.ledger.errors import (
    LedgerRefused,
    UnknownDataset,
    UnknownIdentity,
    UnknownRun,
    UnknownSource,
    nearest_hint,
)
from stoker.ledger.records import (
    CheckpointRecord,
    DatasetRecord,
    DatasetState,
    IdentityRecord,
    RunOutcome,
    RunPartRecord,
    RunRecord,
    SourceRecord,
    TombstoneRecord,
)
from stoker.ledger.review_rows import REVIEW_STEPS as REVIEW_STEPS
from stoker.ledger.review_rows import ReviewRows
from stoker.ledger.row_access import Act

DATASET_STEPS: Final[Mapping[DatasetState, frozenset[DatasetState]]] = {
    DatasetState.LIVE: frozenset({DatasetState.DESTROYED, DatasetState.COLLECTED}),
    DatasetState.DESTROYED: frozenset({DatasetState.COLLECTED}),
    DatasetState.COLLECTED: frozenset(),
}
"""Which state of a dataset may follow which: nothing becomes live again."""


class Catalogue(ReviewRows):
    """The rows of the ledger as records. Every list is in the order in which the rows were recorded."""

    @classmethod
    @contextlib.contextmanager
    def writing(cls, database: Database, connection: Connection, entry: int) -> Iterator[Catalogue]:
        """The catalogue for one act, whose audit entry will be `entry`. Only `Ledger.act` calls this.

        A database error inside the block fails the act even when the block swallows it.
        """
        act = Act(connection, entry)
        try:
            yield cls(database, act)
        finally:
            act.open = False
        if act.failure is not None:
            raise act.failure

    # -- identities

    def add_identity(self, record: IdentityRecord) -> None:
        """Record a person or service. Raises LedgerRefused when the name is taken."""
        values = rows.to_row(record)
        if self._one(schema.identity, schema.identity.c.name == record.name) is not None:
            raise LedgerRefused(f"Identity {record.name[:80]!a} exists already.", hint="Use another name.")
        self._insert(schema.identity, values)

    def identity(self, name: str) -> IdentityRecord:
        """The identity of that name. Raises UnknownIdentity."""
        row = self._one(schema.identity, schema.identity.c.name == name)
        if row is None:
            raise UnknownIdentity(
                f"There is no identity {name[:80]!a}.",
                hint=nearest_hint(name, self._column(schema.identity.c.name), "stoker identity ls"),
            )
        return self._record(rows.identity_of, row)

    def identities(self) -> tuple[IdentityRecord, ...]:
        return self._many(schema.identity, rows.identity_of)

    # -- sources

    def add_source(self, record: SourceRecord) -> None:
        """Record an import. Raises LedgerRefused when that version is there already."""
        values = rows.to_row(record)
        table = schema.source
        if self._one(table, table.c.name == record.name, table.c.version == record.version) is not None:
            raise LedgerRefused(f"Source {_shown(record.name, record.version)} is recorded already.")
        self._insert(table, values)

    def sources(self, name: str | None = None) -> tuple[SourceRecord, ...]:
        """Every import, or those of one source; newest last."""
        return self._many(schema.source, rows.source_of, *_named(schema.source.c.name, name))

    def latest_source(self, name: str) -> SourceRecord:
        """The newest import of that source. Raises UnknownSource."""
        found = self.sources(name)
        if not found:
            raise UnknownSource(
                f"There is no source {name[:80]!a}.",
                hint=nearest_hint(name, self._column(schema.source.c.name), "stoker source ls"),
            )
        return found[-1]

    # -- datasets

    def add_dataset(self, record: DatasetRecord) -> None:
        """Record a preparation. Raises LedgerRefused when it is there, or its source or review is not."""
        values = rows.to_row(record)
        table = schema.dataset
        if self._one(table, table.c.name == record.name, table.c.version == record.version) is not None:
            raise LedgerRefused(f"Dataset {_shown(record.name, record.version)} is recorded already.")
        if self._one(table, table.c.root == record.root) is not None:
            raise LedgerRefused(f"A dataset with root {record.root[:80]!a} is recorded already.")
        self._need(schema.source, "source", name=record.source, version=record.source_version)
        self._need(schema.review, "review", id=record.review)
        self._insert(table, values)

    def set_dataset_state(self, root: str, state: DatasetState) -> None:
        """Set the state of the dataset with that root; none becomes live again.

        Raises UnknownDataset, LedgerRefused.
        """
        before = self.dataset_of_root(root)
        if state not in DATASET_STEPS[before.state]:
            raise LedgerRefused(
                f"Dataset {_shown(before.name, before.version)} is {before.state}; it cannot become {state}."
            )
        self._update(schema.dataset, _key_of(before), {"state": state.value})

    def expire_dataset(self, root: str, expires_s: float) -> None:
        """Bring the expiry of a live dataset forward. Raises UnknownDataset, and LedgerRefused otherwise."""
        before = self.dataset_of_root(root)
        if before.state is not DatasetState.LIVE or not expires_s < before.expires_s:
            raise LedgerRefused(
                f"Dataset {_shown(before.name, before.version)} is {before.state} and expires at "
                f"{before.expires_s} s; it cannot expire at {expires_s} s instead.",
                hint="Only a live dataset expires, and its expiry only moves forward.",
            )
        self._update(schema.dataset, _key_of(before), {"expires_s": expires_s})

    def datasets(self, name: str | None = None) -> tuple[DatasetRecord, ...]:
        """Every dataset version, or those of one name; newest last."""
        return self._many(schema.dataset, rows.dataset_of, *_named(schema.dataset.c.name, name))

    def latest_dataset(self, name: str) -> DatasetRecord:
        """The newest version of that dataset, live or not. Raises UnknownDataset."""
        found = self.datasets(name)
        if not found:
            raise UnknownDataset(
                f"There is no dataset {name[:80]!a}.",
                hint=nearest_hint(name, self._column(schema.dataset.c.name), "stoker dataset ls"),
            )
        return found[-1]

    def dataset_of_root(self, root: str) -> DatasetRecord:
        """The dataset with that manifest root. Raises UnknownDataset."""
        row = self._one(schema.dataset, schema.dataset.c.root == root)
        if row is None:
            raise UnknownDataset(
                f"There is no dataset with root {root[:80]!a}.",
                hint=nearest_hint(root, self._column(schema.dataset.c.root), "stoker dataset ls"),
            )
        return self._record(rows.dataset_of, row)

    def find_dataset(self, source_root: str, recipe_digest: str) -> DatasetRecord | None:
        """The newest live dataset that this recipe made of these bytes, or None."""
        found = self.datasets_made(source_root, recipe_digest)
        return found[-1] if found else None

    def datasets_made(
        self, source_root: str, recipe_digest: str, name: str | None = None
    ) -> tuple[DatasetRecord, ...]:
        """The live datasets that this recipe made of these bytes, or those of one name; newest last.

        By an index: it takes no longer in a ledger of many datasets.
        """
        table = schema.dataset
        return self._many(
            table,
            rows.dataset_of,
            table.c.source_root == source_root,
            table.c.recipe_digest == recipe_digest,
            table.c.state == DatasetState.LIVE.value,
            *_named(table.c.name, name),
        )

    def datasets_of_source(self, name: str, version: str) -> tuple[DatasetRecord, ...]:
        """Every dataset that was prepared from that version of a source; newest last."""
        table = schema.dataset
        return self._many(table, rows.dataset_of, table.c.source == name, table.c.source_version == version)

    # -- runs and their checkpoints

    def add_run(self, record: RunRecord, parts: Sequence[str] = ()) -> None:
        """Record a run that starts, and the roots of what else it reads: the `parts` of its mixture.

        Raises LedgerRefused when it is there, when a dataset or the review is not, and when a dataset is not
        live. This is the same transaction in which another process would have it collected, so that a run
        begins before that and is seen, or after it and is refused.
        """
        values = rows.to_row(record)
        if self._one(schema.run, schema.run.c.id == record.id) is not None:
            raise LedgerRefused(f"Run {record.id[:80]!a} is recorded already.")
        self._need(schema.review, "review", id=record.review)
        others = [root for root in dict.fromkeys(parts) if root != record.dataset_root]
        for root in (record.dataset_root, *others):
            self._need_live(root)
        self._insert(schema.run, values)
        for root in others:
            self._insert(schema.run_part, rows.to_row(RunPartRecord(record.id, root)))

    def end_run(self, id: RunId, outcome: RunOutcome, ended_s: float) -> None:
        """Record how a run ended. Raises UnknownRun, and LedgerRefused when it has ended before."""
        before = self.run(id)
        if before.outcome is not RunOutcome.RUNNING or outcome is RunOutcome.RUNNING:
            raise LedgerRefused(f"Run {id[:80]!a} is {before.outcome}; it cannot become {outcome}.")
        self._update(schema.run, {"id": id}, {"outcome": outcome.value, "ended_s": ended_s})

    def reopen_run(self, id: RunId) -> None:
        """Record that a run which failed or was cancelled goes on; a running one stays as it is.

        Raises UnknownRun, and LedgerRefused when it is finished, or what it reads is not live any more.
        """
        before = self.run(id)
        if before.outcome is RunOutcome.FINISHED:
            raise LedgerRefused(f"Run {id[:80]!a} is finished; it cannot go on.")
        for root in self.roots_of_run(before):
            self._need_live(root)
        self._update(schema.run, {"id": id}, {"outcome": RunOutcome.RUNNING.value, "ended_s": None})

    def run(self, id: RunId) -> RunRecord:
        """The run of that id. Raises UnknownRun."""
        row = self._one(schema.run, schema.run.c.id == id)
        if row is None:
            raise UnknownRun(
                f"There is no run {id[:80]!a}.",
                hint=nearest_hint(id, self._column(schema.run.c.id), "stoker run ls"),
            )
        return self._record(rows.run_of, row)

    def runs(self) -> tuple[RunRecord, ...]:
        return self._many(schema.run, rows.run_of)

    def runs_of_dataset(self, root: str) -> tuple[RunRecord, ...]:
        """The runs that read the dataset with that root, alone or as a part of a mixture."""
        part = schema.run_part
        mixed = sa.select(part.c.run).where(part.c.dataset_root == root)
        return self._many(
            schema.run, rows.run_of, sa.or_(schema.run.c.dataset_root == root, schema.run.c.id.in_(mixed))
        )

    def roots_of_run(self, run: RunRecord) -> tuple[str, ...]:
        """Every dataset that the run reads, its own first."""
        parts = self._many(schema.run_part, rows.run_part_of, schema.run_part.c.run == run.id)
        return (run.dataset_root, *(part.dataset_root for part in parts))

    def run_parts(self) -> tuple[RunPartRecord, ...]:
        """What every run reads beside its own dataset."""
        return self._many(schema.run_part, rows.run_part_of)

    def add_checkpoint(self, record: CheckpointRecord) -> None:
        """Record a committed checkpoint.

        Raises LedgerRefused when the run is not there or the sequence number is taken.
        """
        values = rows.to_row(record)
        self._need(schema.run, "run", id=record.run)
        table = schema.checkpoint
        if self._one(table, table.c.run == record.run, table.c.sequence == record.sequence) is not None:
            raise LedgerRefused(f"Checkpoint {record.sequence} of run {record.run} is recorded already.")
        self._insert(table, values)

    def checkpoints(self, run: RunId) -> tuple[CheckpointRecord, ...]:
        """The checkpoints of a run, in order of their sequence."""
        found = self._many(schema.checkpoint, rows.checkpoint_of, schema.checkpoint.c.run == run)
        return tuple(sorted(found, key=lambda record: record.sequence))

    # -- tombstones

    def add_tombstone(self, record: TombstoneRecord) -> None:
        """Record that a key is gone for good. Raises LedgerRefused when it is recorded already."""
        values = rows.to_row(record)
        if self.is_tombstoned(record.kek):
            raise LedgerRefused(f"The tombstone of key {record.kek[:200]!a} is recorded already.")
        self._insert(schema.tombstone, values)

    def tombstones(self) -> tuple[TombstoneRecord, ...]:
        return self._many(schema.tombstone, rows.tombstone_of)

    def is_tombstoned(self, kek: str) -> bool:
        return self._one(schema.tombstone, schema.tombstone.c.kek == kek) is not None

    # -- inside

    def _need_live(self, root: str) -> None:
        """Raise LedgerRefused unless the dataset with that root is there and live."""
        self._need(schema.dataset, "dataset", root=root)
        found = self.dataset_of_root(root)
        if found.state is not DatasetState.LIVE:
            raise LedgerRefused(
                f"Dataset {_shown(found.name, found.version)} is {found.state}; no run may read it.",
                hint="Prepare it again from its source.",
            )


def _named(column: sa.ColumnElement[str], name: str | None) -> tuple[sa.ColumnElement[bool], ...]:
    return () if name is None else (column == name,)


def _key_of(record: DatasetRecord) -> dict[str, str]:
    return {"name": record.name, "version": record.version}


def _shown(name: str, version: str) -> str:
    return f"{name[:80]!a} version {version[:80]!a}"
