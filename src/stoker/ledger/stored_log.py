"""The ledger's stored log as its database holds it, read without believing it. See docs/design/ledger.md.

Whoever could write the database wrote what is read here: any value may be missing, absurd,
or of another type. What is right is decided by `verification.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from stoker.ledger import schema
from stoker.ledger.merkle import HASH_BYTES, NodeName
from stoker.ledger.rows import raw_columns


class StoredLog:
    """Entries, tree and checkpoints in the one state that `connection` sees, as far as they can be read."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def believable_size(self) -> int:
        """How many entries to walk: the largest index decides, but never more than there are rows for.

        Without that limit one edited index could keep the verification busy for ever.
        """
        entry, stored = schema.audit_entry, schema.audit_checkpoint
        entry_rows = self._number(sa.select(sa.func.count()).select_from(entry), 0)
        by_index = self._number(sa.select(sa.func.max(entry.c.idx)), entry_rows - 1) + 1
        checkpoint_rows = self._number(sa.select(sa.func.count()).select_from(stored), 0)
        return max(0, min(by_index, max(entry_rows, checkpoint_rows - 1)))

    def signed_size(self) -> int:
        """The largest size of which a checkpoint is stored; -1 without any."""
        return self._number(sa.select(sa.func.max(schema.audit_checkpoint.c.size)), -1)

    def has_strays(self, size: int) -> bool:
        """Whether there are entries outside the range 0 to `size` - 1."""
        entry = schema.audit_entry
        strays = sa.select(sa.func.count()).where(sa.or_(entry.c.idx < 0, entry.c.idx >= size))
        return self._number(strays, 0) > 0

    def entries(self, start: int, end: int) -> dict[int, Any]:
        """The rows of the entries `start` to `end`, by index."""
        return self._rows(schema.audit_entry, schema.audit_entry.c.idx, start, end)

    def _number(self, query: sa.Select[Any], otherwise: int) -> int:
        value = self._connection.execute(query).scalar_one()
        return value if type(value) is int else otherwise

    def _rows(self, table: sa.Table, column: sa.ColumnElement[Any], start: int, end: int) -> dict[int, Any]:
        query = sa.select(*raw_columns(table)).where(column >= start, column < end)
        return {row[str(column.key)]: row for row in self._connection.execute(query).mappings()}

    def checkpoints(self, start: int, end: int) -> dict[int, Any]:
        """The rows of the checkpoints of the sizes `start` to `end`, by size."""
        return self._rows(schema.audit_checkpoint, schema.audit_checkpoint.c.size, start, end)

    def nodes(self, start: int, end: int) -> dict[NodeName, bytes]:
        """The stored nodes that the leaves `start` to `end` complete."""
        return dict(self._node_rows(start, end))

    def _node_rows(self, start: int, end: int) -> Iterator[tuple[NodeName, bytes]]:
        table = schema.audit_node
        level = 0
        while end >> level:
            query = sa.select(*raw_columns(table)).where(
                table.c.level == level, table.c.idx >= start >> level, table.c.idx < end >> level
            )
            for row in self._connection.execute(query).mappings():
                value = row["hash"]
                if isinstance(value, bytes) and len(value) == HASH_BYTES:
                    yield NodeName(level, row["idx"]), value
            level += 1

    def catalogue_rows(self, table: sa.Table) -> Iterator[dict[str, Any]]:
        """Every row of one table of the catalogue."""
        query = sa.select(*raw_columns(table))
        yield from map(dict, self._connection.execute(query).mappings())
