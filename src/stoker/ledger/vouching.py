"""Whether a row of the catalogue is the one that the audit log last wrote.

Reading the catalogue believes the database. Where a row gives power (a decision in force, a role, a
tombstone) the log is asked as well, so that an edit of the database alone gives none. See
docs/design/ledger.md, "Vouching".
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from stoker.ledger import entries, merkle, rows, schema
from stoker.ledger.errors import LedgerUnusable
from stoker.ledger.notes import SignedCheckpoint
from stoker.ledger.records import (
    AccessTokenRecord,
    AuditEntry,
    CheckpointRecord,
    DatasetRecord,
    IdentityRecord,
    ReviewRecord,
    ReviewTermsRecord,
    RunPartRecord,
    RunRecord,
    SourceRecord,
    TombstoneRecord,
)
from stoker.ledger.rows import Record
from stoker.ledger.tree import MissingNode, newest_checkpoint, node_lookup

_TABLES: Final[Mapping[type[Record], sa.Table]] = {
    IdentityRecord: schema.identity,
    SourceRecord: schema.source,
    ReviewRecord: schema.review,
    ReviewTermsRecord: schema.review_terms,
    AccessTokenRecord: schema.access_token,
    DatasetRecord: schema.dataset,
    RunRecord: schema.run,
    RunPartRecord: schema.run_part,
    CheckpointRecord: schema.checkpoint,
    TombstoneRecord: schema.tombstone,
}

_WRITTEN_ONCE: Final = frozenset(
    {"identity", "source", "review_terms", "run_part", "checkpoint", "tombstone"}
)
"""Tables whose rows never change, so that the entry that made a row is the last word on it."""

_PAGE_ROWS: Final = 1024
_ASK_AUDIT: Final = "Nothing may rest on it. Run: stoker audit verify — it names what was changed."

RowName = tuple[str, tuple[str, ...]]


@dataclasses.dataclass(slots=True)
class _Followed:
    """The log as far as it was read for one row: the tree up to there, and the row's last digest in it."""

    frontier: merkle.Frontier
    digest: str | None = None


class Voucher:
    """Asks the log about rows; remembers how far it has read for each, so that asking again is cheap."""

    def __init__(self, public_key: bytes) -> None:
        self._public_key = public_key
        self._followed: dict[RowName, _Followed] = {}

    def vouch(self, connection: Connection, record: Record) -> None:
        """Raise LedgerUnusable unless the log says of the row exactly what `record` says."""
        table = _TABLES[type(record)]
        row = _row(connection, table, record)
        name = (table.name, rows.key_of(table, row))
        tip = newest_checkpoint(connection, self._public_key)
        try:
            if any(row[column] != value for column, value in rows.to_row(record).items()):
                raise _NotVouched("it is not what was read a moment ago")
            written = _made_at(row, tip)
            if table.name in _WRITTEN_ONCE:
                digest = _digest_at(connection, written, tip, name)
            else:
                digest = self._last_digest(connection, written, tip, name)
            if digest != rows.row_digest(table, row):
                raise _NotVouched("it is not what the audit log says was written")
        except (_NotVouched, MissingNode, entries.DamagedEntry, TypeError, ValueError) as error:
            shown = "/".join(name[1])
            raise LedgerUnusable(
                f"The {table.name} {shown[:200]!a} in the ledger was changed outside Stoker: {error}.",
                hint=_ASK_AUDIT,
            ) from error

    def _last_digest(
        self, connection: Connection, written: int, tip: SignedCheckpoint, name: RowName
    ) -> str | None:
        """Read every entry since the row was made, or since the last time; they must give the signed root."""
        known = self._followed.get(name)
        if known is None or known.frontier.size > tip.size:
            lookup = node_lookup(connection)
            known = _Followed(
                merkle.Frontier(written, [lookup(node) for node in merkle.covering(0, written)])
            )
        frontier = merkle.Frontier(known.frontier.size, list(known.frontier.hashes))
        followed = _Followed(frontier, known.digest)
        for entry in _entries(connection, frontier.size, tip.size):
            frontier.append(entry.leaf_hash)
            followed.digest = _digest_in(entry, name) or followed.digest
        if frontier.root() != tip.root:
            raise _NotVouched("the audit log since then does not lead to its signed root")
        self._followed[name] = followed
        return followed.digest


class _NotVouched(Exception):
    """Why a row is not vouched for."""


def _row(connection: Connection, table: sa.Table, record: Record) -> Mapping[str, Any]:
    where = [column == getattr(record, column.name) for column in table.primary_key.columns]
    found = connection.execute(sa.select(*rows.raw_columns(table)).where(*where)).mappings().one_or_none()
    if found is None:
        raise LedgerUnusable(f"A row of the table {table.name} is gone from the ledger.", hint=_ASK_AUDIT)
    return dict(found)


def _made_at(row: Mapping[str, Any], tip: SignedCheckpoint) -> int:
    written = row["entry"]
    if type(written) is not int or not 0 <= written < tip.size:
        raise _NotVouched(f"it names entry {written!a} of {tip.size}")
    return written


def _digest_at(connection: Connection, index: int, tip: SignedCheckpoint, name: RowName) -> str | None:
    """What the entry at `index` says of the row, when the entry is under the signed root."""
    (entry,) = _entries(connection, index, index + 1)
    proof = merkle.inclusion_proof(index, tip.size, node_lookup(connection))
    if not merkle.inclusion_holds(entry.leaf_hash, index, tip.size, proof, tip.root):
        raise _NotVouched(f"entry {index} of the audit log is not under its signed root")
    return _digest_in(entry, name)


def _digest_in(entry: AuditEntry, name: RowName) -> str | None:
    return next((each.digest for each in entry.rows if (each.table, each.key) == name), None)


def _entries(connection: Connection, start: int, end: int) -> Iterator[AuditEntry]:
    table = schema.audit_entry
    for first in range(start, end, _PAGE_ROWS):
        wanted = range(first, min(first + _PAGE_ROWS, end))
        query = (
            sa.select(*rows.raw_columns(table))
            .where(table.c.idx >= wanted.start, table.c.idx < wanted.stop)
            .order_by(table.c.idx)
        )
        found = connection.execute(query).mappings().all()
        if [row["idx"] for row in found] != list(wanted):
            raise _NotVouched("an entry of the audit log is missing")
        yield from (entries.entry_of_row(dict(row)) for row in found)
