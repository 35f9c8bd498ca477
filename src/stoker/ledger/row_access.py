"""Reading and writing the rows of the catalogue, and binding what an act writes to the audit log.

What the rows mean is in `catalogue`. See docs/design/ledger.md, "Rows and their digests".
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection, RowMapping
from sqlalchemy.exc import DBAPIError

from stoker.core.errors import StokerError
from stoker.ledger import rows
from stoker.ledger.database import Database
from stoker.ledger.errors import LedgerRefused, LedgerUnusable
from stoker.ledger.records import RowDigest

T = TypeVar("T")


class Act:
    """The transaction under way: its connection, and the rows written so far."""

    def __init__(self, connection: Connection, entry: int) -> None:
        self.connection = connection
        self.entry = entry
        self.places = 0
        self.digests: dict[tuple[str, tuple[str, ...]], RowDigest] = {}
        self.open = True
        self.failure: StokerError | None = None


class RowAccess:
    """Rows as records, read from the database or, inside an act, through its transaction."""

    def __init__(self, database: Database, act: Act | None = None) -> None:
        self._database = database
        self._act = act

    def written(self) -> tuple[RowDigest, ...]:
        """The rows that this act wrote, with their digests, in the order of their first writing."""
        return () if self._act is None else tuple(self._act.digests.values())

    @contextlib.contextmanager
    def _connected(self) -> Iterator[Connection]:
        act = self._act
        if act is None or not act.open:
            with self._database.read() as connection:
                yield connection
            return
        try:
            yield act.connection
        except DBAPIError as error:
            act.failure = self._database.named(error)
            raise act.failure from error

    def _writable(self) -> Act:
        if self._act is None or not self._act.open:
            raise RuntimeError("this catalogue is for reading; write inside a block of Ledger.act()")
        return self._act

    def _one(self, table: sa.Table, *where: sa.ColumnElement[bool]) -> RowMapping | None:
        found = self._all(sa.select(table).where(*where))
        return found[0] if found else None

    def _many(
        self, table: sa.Table, make: Callable[[RowMapping], T], *where: sa.ColumnElement[bool]
    ) -> tuple[T, ...]:
        query = sa.select(table).where(*where).order_by(table.c.entry, table.c.place)
        return tuple(self._record(make, row) for row in self._all(query))

    def _all(self, query: sa.Select[Any]) -> Sequence[RowMapping]:
        try:
            with self._connected() as connection:
                return connection.execute(query).mappings().all()
        except UnicodeEncodeError:
            return ()  # a name that is no Unicode text is nowhere in the ledger

    def _record(self, make: Callable[[RowMapping], T], row: RowMapping) -> T:
        try:
            record = make(row)
            rows.check_types(record)
            return record
        except (TypeError, ValueError) as error:
            raise LedgerUnusable(
                f"A row of the catalogue in {self._database.place} is damaged: {error}.",
                hint="Run: stoker audit verify — it names every row that was changed outside Stoker.",
            ) from error

    def _column(self, column: sa.ColumnElement[str]) -> list[str]:
        with self._connected() as connection:
            return list(connection.execute(sa.select(column).distinct()).scalars())

    def _need(self, table: sa.Table, what: str, **key: str) -> None:
        """Raise LedgerRefused unless a row with these columns is there."""
        if self._one(table, *(table.c[name] == value for name, value in key.items())) is None:
            shown = "/".join(ascii(value[:80]) for value in key.values())
            raise LedgerRefused(f"The {what} {shown} is not in the ledger.", hint=f"Record the {what} first.")

    def _insert(self, table: sa.Table, values: dict[str, Any]) -> None:
        act = self._writable()
        values |= {"entry": act.entry, "place": act.places}
        act.places += 1
        with self._connected() as connection:
            connection.execute(sa.insert(table), values)
        self._bind(act, table, values, None)

    def _update(self, table: sa.Table, key: Mapping[str, Any], values: Mapping[str, Any]) -> None:
        act = self._writable()
        checked = {name: rows.storable(value, f"{table.name}.{name}") for name, value in values.items()}
        where = [table.c[name] == value for name, value in key.items()]
        _, before = self._digest(table, key)
        with self._connected() as connection:
            connection.execute(sa.update(table).where(*where).values(checked))
        self._bind(act, table, key, before)

    def _bind(self, act: Act, table: sa.Table, key: Mapping[str, Any], before: str | None) -> None:
        """Note the digest of the row as the database now holds it, and the one that this act found."""
        key_text, digest = self._digest(table, key)
        first = act.digests.get((table.name, key_text))
        before = before if first is None else first.before
        act.digests[table.name, key_text] = RowDigest(table.name, key_text, digest, before)

    def _digest(self, table: sa.Table, key: Mapping[str, Any]) -> tuple[tuple[str, ...], str]:
        where = [column == key[column.name] for column in table.primary_key.columns]
        with self._connected() as connection:
            query = sa.select(*rows.raw_columns(table)).where(*where)
            row = dict(connection.execute(query).mappings().one())
        return rows.key_of(table, row), rows.row_digest(table, row)
