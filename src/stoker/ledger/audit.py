"""The audit log as its readers see it: entries, checkpoints, proofs, and the judgement of the whole.

See docs/design/ledger.md, "The audit log".
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any, Final, TypeVar

import sqlalchemy as sa

from stoker.core.clock import Clock
from stoker.core.progress import SILENT, Progress
from stoker.ledger import entries, merkle, notes, schema, verification
from stoker.ledger.cosignatures import WitnessKey
from stoker.ledger.database import Database
from stoker.ledger.errors import LedgerRefused, LedgerUnusable
from stoker.ledger.findings import AuditReport
from stoker.ledger.head import HeadFile
from stoker.ledger.notes import MalformedNote, SignedCheckpoint, parse_checkpoint
from stoker.ledger.records import AuditEntry
from stoker.ledger.rows import raw_columns
from stoker.ledger.tree import MissingNode, newest_checkpoint, node_lookup
from stoker.ledger.witness import Submission

T = TypeVar("T")

PAGE_ROWS: Final = 1024


class AuditLog:
    """Who did what, in order, in a tree whose every state was signed."""

    def __init__(self, database: Database, public_key: bytes, head: HeadFile, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._head = head
        self.public_key = public_key

    @property
    def verifier_key(self) -> str:
        """The public key as witnesses and other signed-note programs take it."""
        return notes.verifier_key(self.public_key)

    @property
    def size(self) -> int:
        """How many entries the newest checkpoint covers."""
        return self.checkpoint().size

    def entries(self, start: int = 0, end: int | None = None) -> Iterator[AuditEntry]:
        """The entries from index `start` up to, and without, `end`; read page by page.

        Raises LedgerUnusable, naming the index, for an entry that is damaged or missing.
        """
        stop = self.size if end is None else min(end, self.size)
        table = schema.audit_entry
        for first in range(max(start, 0), stop, PAGE_ROWS):
            wanted = range(first, min(first + PAGE_ROWS, stop))
            query = (
                sa.select(*raw_columns(table))
                .where(table.c.idx >= wanted.start, table.c.idx < wanted.stop)
                .order_by(table.c.idx)
            )
            with self._database.read() as connection:
                found = connection.execute(query).mappings().all()
            by_index = {row["idx"]: row for row in found}
            for index in wanted:
                yield _entry(index, by_index.get(index))

    def acts(self, actions: Collection[str], subject: str | None = None) -> tuple[AuditEntry, ...]:
        """The entries of these actions, about one subject or any, in order; found by an index.

        Raises LedgerUnusable for an entry that is damaged. As with `entries`, `verify` is what judges them.
        """
        table = schema.audit_entry
        where = [table.c.action.in_(sorted(actions)), table.c.idx < self.size]
        if subject is not None:
            where.append(table.c.subject == subject)
        query = sa.select(*raw_columns(table)).where(*where).order_by(table.c.idx)
        with self._database.read() as connection:
            return tuple(_entry(row["idx"], row) for row in connection.execute(query).mappings().all())

    def checkpoint(self) -> SignedCheckpoint:
        """The newest signed checkpoint. Raises LedgerUnusable when it does not hold."""
        with self._database.read() as connection:
            return newest_checkpoint(connection, self.public_key)

    def checkpoints(self, start: int = 0, end: int | None = None) -> Iterator[SignedCheckpoint]:
        """The stored checkpoints of sizes `start` up to, and without, `end`. Signatures are for `verify`.

        Raises LedgerUnusable for one that cannot be read.
        """
        table = schema.audit_checkpoint
        position = max(start, 0)
        while end is None or position < end:
            query = sa.select(table.c.size, table.c.note).where(table.c.size >= position)
            if end is not None:
                query = query.where(table.c.size < end)
            with self._database.read() as connection:
                found = connection.execute(query.order_by(table.c.size).limit(PAGE_ROWS)).all()
            for row in found:
                try:
                    yield parse_checkpoint(row.note)
                except MalformedNote as error:
                    raise LedgerUnusable(
                        f"The checkpoint of size {row.size} is damaged: {error}.",
                        hint="Run: stoker audit verify",
                    ) from error
            if len(found) < PAGE_ROWS:
                return
            position = found[-1].size + 1

    def inclusion_proof(self, index: int, size: int) -> tuple[bytes, ...]:
        """The hashes that lead from the leaf at `index` to the root of the checkpoint of `size`.

        Check it with `merkle.inclusion_holds`. Raises LedgerRefused unless 0 <= index < size <= the log's.
        """
        return self._proof(size, lambda lookup: merkle.inclusion_proof(index, size, lookup))

    def consistency_proof(self, old: int, new: int) -> tuple[bytes, ...]:
        """The hashes that show that the log of `new` entries only appended to the log of `old` entries.

        Check it with `merkle.consistency_holds`. Raises LedgerRefused unless 0 <= old <= new <= the log's
        size; the proof from the empty log is empty.
        """
        if old == 0 <= new:
            return self._proof(new, lambda _lookup: ())
        return self._proof(new, lambda lookup: merkle.consistency_proof(old, new, lookup))

    def growth(self, old: int) -> Submission:
        """What a witness that saw `old` entries is handed: a proof of growth, and the newest checkpoint.

        Raises LedgerRefused when the log never had so many entries.
        """
        head = self.checkpoint()
        return Submission(old, self.consistency_proof(old, head.size), head.text)

    def verify(
        self,
        *,
        witnessed: tuple[str, ...] = (),
        witnesses: tuple[WitnessKey, ...] = (),
        progress: Progress = SILENT,
    ) -> AuditReport:
        """Recompute every hash, signature and catalogue digest, and say what does not hold.

        `witnessed` are texts of checkpoints that were kept elsewhere; each must fit the log. What `witnesses`
        cosigned in them also bounds the times of entries. Never raises for what it finds in the log;
        LedgerUnusable only when the database cannot be read at all.
        """
        head = self._head.text()  # before the database: a head that is ahead of it then is a cut, not a race
        with self._database.read() as connection:
            return verification.verify(
                connection,
                self.public_key,
                {"ledger.head": head, **{f"witness {n}": text for n, text in enumerate(witnessed, 1)}},
                progress,
                witnesses=witnesses,
                now_s=self._clock.now_s(),
            )

    def _proof(self, size: int, make: Callable[[merkle.NodeLookup], T]) -> T:
        with self._database.read() as connection:
            log_size = newest_checkpoint(connection, self.public_key).size
            try:
                if size > log_size:
                    raise ValueError(f"the log has {log_size} entries, not {size}")
                return make(node_lookup(connection))
            except ValueError as error:
                raise LedgerRefused(
                    f"There is no such proof: {error}.", hint="See the size with: stoker audit log"
                ) from error
            except MissingNode as error:
                raise LedgerUnusable(
                    f"The audit log's tree lacks {error}.", hint="Run: stoker audit verify"
                ) from error


def _entry(index: int, row: Any) -> AuditEntry:
    hint = "Run: stoker audit verify"
    if row is None:
        raise LedgerUnusable(f"Entry {index} of the audit log is missing.", hint=hint)
    try:
        return entries.entry_of_row(row)
    except entries.DamagedEntry as error:
        raise LedgerUnusable(f"Entry {index} of the audit log is damaged: {error}.", hint=hint) from error
