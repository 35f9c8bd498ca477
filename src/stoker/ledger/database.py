"""One database behind the ledger: how it is opened, how a transaction begins, what its errors mean.

The only module that knows SQLite by name. Everything else is SQL that PostgreSQL takes as well.
See docs/design/ledger.md, "The database".
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, NoSuchModuleError

from stoker.core.atomic import naming_full_disk
from stoker.core.errors import Busy, DiskFull, StokerError
from stoker.ledger.errors import LedgerRefused, LedgerUnusable

BUSY_TIMEOUT_S: Final = 30.0
_WRITES: Final = "stoker_writes"
_SPACE_FOR_ONE_WRITE_BYTES: Final = 64 * 1024


class Database:
    """Connections to one ledger database, each block one transaction."""

    def __init__(self, url: str) -> None:
        """Parse `url` and make the engine; nothing is opened yet. Raises LedgerUnusable on a bad URL."""
        try:
            parsed = make_url(url)
            self.place = parsed.render_as_string(hide_password=True)
            self._file = _sqlite_file(parsed, self.place)
            self._engine = sa.create_engine(parsed, **_engine_arguments(parsed))
        except (ArgumentError, NoSuchModuleError, ModuleNotFoundError, ValueError) as error:
            raise LedgerUnusable(
                f"{_without_password(url)[:200]!a} is not a ledger URL that this installation can open.",
                hint="Use sqlite:///FOLDER/ledger.db, or postgresql+psycopg://... with the postgres extra.",
            ) from error
        if self._file is not None:
            self.place = str(self._file)
            _set_up_sqlite(self._engine)

    def create_file(self) -> None:
        """Make an absent SQLite file (mode 0600) and its folder, and switch it to WAL. Nothing elsewhere.

        Raises LedgerUnusable, DiskFull.
        """
        if self._file is None:
            return
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            with naming_full_disk(self._file):
                self._file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                descriptor = os.open(self._file, flags, 0o600)
        except FileExistsError:
            if not self._file.is_file():
                raise self._unusable("it is not a file") from None
        except OSError as error:
            raise self._unusable(str(error.strerror)) from error
        else:
            os.close(descriptor)
        with self._naming_errors(), self._engine.connect() as connection:
            raw: Any = connection.connection.driver_connection
            found = raw.execute("PRAGMA journal_mode").fetchone()[0]
            if found != "wal":
                found = raw.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        if found != "wal":
            raise self._unusable(f"its file system allows journal mode {found!r} only, not WAL")

    @contextlib.contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that reads one consistent state."""
        with self._naming_errors(), self._engine.connect() as connection:
            if self._file is None:
                connection.execution_options(isolation_level="REPEATABLE READ")
            with connection.begin():
                yield connection

    @contextlib.contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that excludes other writers from its start; committed at the end of the block."""
        with self._naming_errors(), self._engine.connect() as connection:
            connection.execution_options(**{_WRITES: True})
            with connection.begin():
                yield connection

    def require_space(self) -> None:
        """Raise DiskFull when the file system would not take another act."""
        if self._without_space():
            raise self._full()

    def close(self) -> None:
        """Close every connection. The object can be used again afterwards."""
        self._engine.dispose()

    @contextlib.contextmanager
    def _naming_errors(self) -> Iterator[None]:
        try:
            yield
        except (DBAPIError, sqlite3.Error) as error:
            raise self.named(error) from error

    def named(self, error: DBAPIError | sqlite3.Error) -> StokerError:
        """What a database error means to the person who meets it."""
        cause = error.orig if isinstance(error, DBAPIError) else error
        if isinstance(error, IntegrityError):
            return LedgerRefused(
                f"The ledger refused a row that contradicts what it holds: {cause}.",
                hint="Nothing was recorded. Look at what is there already and try again.",
            )
        if not isinstance(cause, sqlite3.Error):
            return self._unusable(str(cause).strip().split("\n")[0])
        code = (getattr(cause, "sqlite_errorcode", None) or 0) & 0xFF
        if code == sqlite3.SQLITE_FULL or (
            code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN) and self._without_space()
        ):
            return self._full()
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return Busy(
                f"Another process has been writing to {self.place} for too long.",
                hint="Nothing was recorded. Wait for it to end, or stop it, then run it again.",
            )
        return self._unusable(str(cause))

    def _full(self) -> DiskFull:
        return DiskFull(
            f"No space is left on the file system that holds {self.place}.",
            hint="Nothing was recorded. Free some space, then run it again.",
        )

    def _unusable(self, reason: str) -> LedgerUnusable:
        return LedgerUnusable(
            f"The ledger {self.place} cannot be used: {reason}.",
            hint="Check the path, its owner and its disk; if the file is damaged, restore it from a copy.",
        )

    def _without_space(self) -> bool:
        if self._file is None:
            return False
        try:
            facts = os.statvfs(self._file.parent)
        except OSError:
            return False
        no_inodes = facts.f_files > 0 and facts.f_favail == 0
        return facts.f_bavail * facts.f_frsize < _SPACE_FOR_ONE_WRITE_BYTES or no_inodes


def _without_password(url: str) -> str:
    """The URL as it may be shown, also where it cannot be parsed: without what stands before the last @."""
    before, at, place = url.rpartition("@")
    scheme, separator, _ = before.partition("://")
    return f"{scheme + separator if separator else ''}***@{place}" if at else url


def _sqlite_file(url: URL, place: str) -> Path | None:
    if url.get_backend_name() != "sqlite":
        return None
    if not url.database or url.database == ":memory:" or url.database.startswith("file:"):
        raise LedgerUnusable(
            f"{place} names no file; a ledger that is gone with the process proves nothing.",
            hint="Use sqlite:///FOLDER/ledger.db.",
        )
    return Path(url.database).absolute()


def _engine_arguments(url: URL) -> dict[str, Any]:
    if url.get_backend_name() != "sqlite":
        return {}
    return {} if "timeout" in url.query else {"connect_args": {"timeout": BUSY_TIMEOUT_S}}


def _set_up_sqlite(engine: Engine) -> None:
    """Take transactions into our own hands, and ask for durability and foreign keys on each connection."""

    @sa.event.listens_for(engine, "connect")
    def _on_connect(raw: Any, _record: Any) -> None:
        raw.isolation_level = None
        raw.text_factory = _text_or_damage
        raw.execute("PRAGMA synchronous = FULL")
        raw.execute("PRAGMA foreign_keys = ON")

    @sa.event.listens_for(engine, "begin")
    def _on_begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get(_WRITES, False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _text_or_damage(data: bytes) -> str:
    """Text as it is; bytes that are no UTF-8 (someone edited the file) survive as lone surrogates."""
    return data.decode("utf-8", "surrogateescape")
