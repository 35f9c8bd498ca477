"""The audit log's tree in the database: where nodes lie, how one leaf is appended with its checkpoint.

See docs/design/ledger.md, "The tree" and "An act".
"""

from __future__ import annotations

from collections.abc import Callable

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from stoker.core.errors import BadSignature
from stoker.core.signing import Signer
from stoker.ledger import entries, merkle, schema
from stoker.ledger.errors import LedgerRolledBack, LedgerUnusable
from stoker.ledger.head import HeadFile
from stoker.ledger.merkle import NodeName
from stoker.ledger.notes import MalformedNote, SignedCheckpoint, sign_checkpoint, verify_checkpoint
from stoker.ledger.records import RowDigest

_ASK_AUDIT = "Run: stoker audit verify — it names what was changed. Then restore the ledger from a copy."


class MissingNode(LookupError):
    """A node of the tree that should be stored is not."""


def node_lookup(connection: Connection) -> Callable[[NodeName], bytes]:
    """Looks nodes up in the database, each once."""
    seen: dict[NodeName, bytes] = {}
    table = schema.audit_node

    def lookup(name: NodeName) -> bytes:
        if name not in seen:
            query = sa.select(table.c.hash).where(table.c.level == name.level, table.c.idx == name.offset)
            found = connection.execute(query).scalar_one_or_none()
            if not isinstance(found, bytes) or len(found) != merkle.HASH_BYTES:
                raise MissingNode(f"node {name.offset} of level {name.level}")
            seen[name] = found
        return seen[name]

    return lookup


def newest_checkpoint(connection: Connection, public_key: bytes) -> SignedCheckpoint:
    """The checkpoint of the largest size, its signature verified. Raises LedgerUnusable."""
    table = schema.audit_checkpoint
    query = sa.select(table.c.size, table.c.root, table.c.note).order_by(table.c.size.desc()).limit(1)
    row = connection.execute(query).one_or_none()
    if row is None:
        raise LedgerUnusable("The audit log has no checkpoint.", hint=_ASK_AUDIT)
    try:
        checkpoint = verify_checkpoint(row.note, public_key)
    except (BadSignature, MalformedNote) as error:
        raise LedgerUnusable(
            f"The audit log's newest checkpoint (size {row.size}) does not hold: {error}.", hint=_ASK_AUDIT
        ) from error
    if (checkpoint.size, checkpoint.root) != (row.size, row.root):
        raise LedgerUnusable(
            f"The audit log's newest checkpoint (size {row.size}) is not the one that was signed.",
            hint=_ASK_AUDIT,
        )
    return checkpoint


class TreeWriter:
    """One append, inside the transaction of one act."""

    def __init__(self, connection: Connection, signer: Signer) -> None:
        """Check that the log is what its newest checkpoint says. Raises LedgerUnusable.

        Reads O(log size) rows.
        """
        self._connection = connection
        self._signer = signer
        self.tip = newest_checkpoint(connection, signer.public_key)
        entry = schema.audit_entry
        last = connection.execute(sa.select(sa.func.max(entry.c.idx))).scalar_one()
        if (-1 if last is None else last) != self.tip.size - 1:
            raise LedgerUnusable(
                f"The audit log's checkpoint speaks of {self.tip.size} entries; the last entry is {last}.",
                hint=_ASK_AUDIT,
            )
        lookup = node_lookup(connection)
        try:
            hashes = [lookup(name) for name in merkle.covering(0, self.tip.size)]
        except MissingNode as error:
            raise LedgerUnusable(f"The audit log's tree lacks {error}.", hint=_ASK_AUDIT) from error
        self._frontier = merkle.Frontier(self.tip.size, hashes)
        if self._frontier.root() != self.tip.root:
            raise LedgerUnusable(
                f"The audit log's tree does not lead to the signed root of {self.tip.size} entries.",
                hint=_ASK_AUDIT,
            )

    def check_head(self, head: HeadFile) -> None:
        """Raise LedgerRolledBack unless the log still contains what the head file says was signed."""
        hint = (
            "Restore the newer ledger with its key and head. If the loss is known, take the log as it is "
            "with Ledger.accept_log: the break is then recorded."
        )
        try:
            seen = head.read(self._signer.public_key)
        except (BadSignature, MalformedNote) as error:
            raise LedgerRolledBack(f"{head.path} does not hold: {error}", hint=hint) from error
        if seen is None:
            if self.tip.size == 0:
                return
            raise LedgerRolledBack(f"{head.path} is missing.", hint=hint)
        if seen.size > self.tip.size:
            raise LedgerRolledBack(
                f"The ledger has {self.tip.size} audit entries, but had {seen.size} before.", hint=hint
            )
        table = schema.audit_checkpoint
        query = sa.select(table.c.root).where(table.c.size == seen.size)
        if self._connection.execute(query).scalar_one_or_none() != seen.root:
            raise LedgerRolledBack(
                f"The ledger's first {seen.size} audit entries are not those that were signed before.",
                hint=hint,
            )

    def append(self, draft: entries.Draft, time_s: float, rows: tuple[RowDigest, ...]) -> SignedCheckpoint:
        """Write the entry, the nodes it completes and the new signed checkpoint."""
        index = self.tip.size
        row = entries.entry_row(index, time_s, draft, rows)
        leaf = entries.entry_of_row(row).leaf_hash
        made = self._frontier.append(leaf)
        checkpoint = sign_checkpoint(self._frontier.size, self._frontier.root(), self._signer)
        self._connection.execute(sa.insert(schema.audit_entry), row)
        self._connection.execute(
            sa.insert(schema.audit_node),
            [{"level": name.level, "idx": name.offset, "hash": value} for name, value in made],
        )
        insert_checkpoint(self._connection, checkpoint)
        return checkpoint


def insert_checkpoint(connection: Connection, checkpoint: SignedCheckpoint) -> None:
    """Store a checkpoint that has just been signed."""
    values = {"size": checkpoint.size, "root": checkpoint.root, "note": checkpoint.text}
    connection.execute(sa.insert(schema.audit_checkpoint), values)
