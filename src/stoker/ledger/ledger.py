"""The ledger: one catalogue, one audit log, one way to change them. See docs/design/ledger.md."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from stoker.core.canonical import JsonValue
from stoker.core.clock import Clock
from stoker.core.signing import Ed25519Signer, Signer
from stoker.ledger import merkle, schema
from stoker.ledger.audit import AuditLog
from stoker.ledger.catalogue import Catalogue
from stoker.ledger.database import Database
from stoker.ledger.entries import draft_of
from stoker.ledger.errors import BadLedgerKey, LedgerUnusable, LedgerVersion
from stoker.ledger.head import HeadFile
from stoker.ledger.keyfile import create_key, read_key
from stoker.ledger.notes import sign_checkpoint
from stoker.ledger.rows import Record
from stoker.ledger.tree import TreeWriter, insert_checkpoint
from stoker.ledger.vouching import Voucher


class Ledger:
    """An open ledger. Any number of processes may have the same one open; acts follow one another."""

    def __init__(self, database: Database, signer: Signer, head: HeadFile, clock: Clock) -> None:
        self._database = database
        self._signer = signer
        self._head = head
        self._clock = clock
        self._turn = threading.Lock()
        self._acting: int | None = None
        self.catalogue = Catalogue(database)
        self.audit = AuditLog(database, signer.public_key, head, clock)
        self._voucher = Voucher(signer.public_key)

    @classmethod
    def open(cls, url: str, key_path: Path, clock: Clock) -> Ledger:
        """Open the ledger at `url` with the key in `key_path`; make both when neither exists.

        An older schema is brought up to date. Raises LedgerVersion for a newer one, BadLedgerKey when the key
        is absent, loose, malformed or another ledger's, LedgerUnusable, DiskFull, Busy.
        """
        database = Database(url)
        head = HeadFile(key_path)
        try:
            with _making_folder(key_path), head.locked():
                database.create_file()
                signer = _open_key(database, key_path)
                _prepare(database, signer, clock)
                _check_belonging(database, signer, key_path)
                if head.text() is None:
                    _write_first_head(database, signer, head)
        except BaseException:
            database.close()
            raise
        return cls(database, signer, head, clock)

    def close(self) -> None:
        """Close the database connections."""
        self._database.close()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextlib.contextmanager
    def act(
        self, *, actor: str, action: str, subject: str, detail: Mapping[str, JsonValue]
    ) -> Iterator[Catalogue]:
        """One act: what the block writes to the catalogue, an audit entry, a signed checkpoint; or nothing.

        Writers wait for each other from the start of the block, so keep long work outside it. Raises
        LedgerRefused, LedgerRolledBack, LedgerUnusable, Busy, DiskFull; whatever the block raises undoes
        the act.
        """
        draft = draft_of(actor, action, subject, detail)
        with self._one_at_a_time():
            with self._database.write() as connection:
                _lock_log(connection)
                tree = TreeWriter(connection, self._signer)
                tree.check_head(self._head)
                with Catalogue.writing(self._database, connection, tree.tip.size) as catalogue:
                    yield catalogue
                checkpoint = tree.append(draft, self._clock.now_s(), catalogue.written())
            self._head.advance(checkpoint, self._signer.public_key)

    def accept_log(self, *, actor: str, reason: str) -> None:
        """Take the log as it now is for the reference, after a restore whose loss is known.

        The head that was kept until now goes into the audit entry, so that the break stays visible for good.
        """
        with self._one_at_a_time(), self._head.locked():
            before = self._head.text()
            shown = None if before is None else before.encode("utf-8", "backslashreplace").decode()
            draft = draft_of(actor, "ledger.accept", "ledger", {"reason": reason, "head_before": shown})
            with self._database.write() as connection:
                _lock_log(connection)
                tree = TreeWriter(connection, self._signer)
                checkpoint = tree.append(draft, self._clock.now_s(), ())
            self._head.replace(checkpoint)

    def require_writable(self) -> None:
        """Raise unless an act could be recorded now; nothing is left behind.

        For whatever must not happen unrecorded, before it happens. Inside an act it holds already. Raises
        LedgerUnusable, LedgerRolledBack, Busy, DiskFull.
        """
        if self._acting == threading.get_ident():
            return
        with self._one_at_a_time(), contextlib.suppress(_TriedOnly), self._database.write() as connection:
            self._database.require_space()
            _lock_log(connection)
            TreeWriter(connection, self._signer).check_head(self._head)
            meta = schema.ledger_meta
            connection.execute(sa.update(meta).values(created_s=meta.c.created_s))
            raise _TriedOnly

    def vouch(self, *records: Record) -> None:
        """Raise LedgerUnusable unless the audit log says of each record's row exactly what the record says.

        For rows that give power: a reader of the catalogue alone believes whoever can write the database.
        """
        with self._database.read() as connection:
            for record in records:
                self._voucher.vouch(connection, record)

    @contextlib.contextmanager
    def _one_at_a_time(self) -> Iterator[None]:
        """Threads of this process take turns; an act inside an act would wait for itself and is refused."""
        if self._acting == threading.get_ident():
            raise RuntimeError("Ledger.act() inside Ledger.act(): end the first act before the next")
        with self._turn:
            self._acting = threading.get_ident()
            try:
                yield
            finally:
                self._acting = None


class _TriedOnly(Exception):
    """Undoes a transaction that was only tried."""


def _lock_log(connection: Connection) -> None:
    """Wait for other writers. SQLite has done so at BEGIN IMMEDIATE; PostgreSQL does so on this row."""
    connection.execute(sa.select(schema.ledger_meta.c.id).with_for_update())


@contextlib.contextmanager
def _making_folder(key_path: Path) -> Iterator[None]:
    try:
        key_path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise LedgerUnusable(
            f"The ledger's folder {key_path.parent} cannot be made: {error.strerror}.",
            hint="Choose a folder that you own.",
        ) from error
    yield


def _version(connection: Connection) -> str | None:
    """The schema version of the database; None for an empty one. Raises LedgerVersion for a newer one."""
    tables = set(sa.inspect(connection).get_table_names())
    if schema.schema_version.name not in tables:
        if tables:
            raise LedgerVersion(
                f"The database holds tables that are not a ledger's, such as {sorted(tables)[0]!a}.",
                hint="Give the ledger a database of its own.",
            )
        return None
    found = connection.execute(sa.select(schema.schema_version.c.version_num)).scalar_one_or_none()
    if found is None:
        return None
    if not (len(found) == 4 and found.isascii() and found.isdigit()) or found > schema.SCHEMA_VERSION:
        raise LedgerVersion(
            f"The ledger has schema version {found!a}; this Stoker knows versions up to "
            f"{schema.SCHEMA_VERSION}.",
            hint="Use the newer Stoker that made it, or restore the copy from before the upgrade.",
        )
    return str(found)


def _open_key(database: Database, key_path: Path) -> Ed25519Signer:
    with database.read() as connection:
        is_new = _version(connection) is None
    if is_new and not key_path.exists():
        return create_key(key_path)
    return read_key(key_path)


def _prepare(database: Database, signer: Signer, clock: Clock) -> None:
    """Bring the schema up to date and write the first checkpoint, in one transaction."""
    with database.read() as connection:
        if _version(connection) == schema.SCHEMA_VERSION:
            return
    from stoker.ledger.migrations import upgrade  # alembic is heavy, and seldom needed

    with database.write() as connection:
        upgrade(connection, schema.SCHEMA_VERSION)
        meta = schema.ledger_meta
        if connection.execute(sa.select(meta.c.id)).first() is None:
            values = {"id": 1, "public_key": signer.public_key, "created_s": clock.now_s()}
            connection.execute(sa.insert(meta), values)
            insert_checkpoint(connection, sign_checkpoint(0, merkle.EMPTY_ROOT, signer))


def _check_belonging(database: Database, signer: Signer, key_path: Path) -> None:
    with database.read() as connection:
        found = connection.execute(sa.select(schema.ledger_meta.c.public_key)).scalar_one_or_none()
    if found != signer.public_key:
        raise BadLedgerKey(
            f"The key in {key_path} is not the one that signed {database.place}.",
            hint="Restore the ledger and its key together.",
        )


def _write_first_head(database: Database, signer: Signer, head: HeadFile) -> None:
    """Keep the head of a log that is still empty. A longer log without a head is for the audit to judge."""
    with database.read() as connection:
        last = connection.execute(sa.select(sa.func.max(schema.audit_checkpoint.c.size))).scalar_one()
    if last == 0:
        head.replace(sign_checkpoint(0, merkle.EMPTY_ROOT, signer))
