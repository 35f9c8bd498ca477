"""Opening a ledger: what is made, what is refused, what is imported, and that migrations meet the schema."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.schema import CreateIndex, CreateTable

from stoker.core.clock import ManualClock
from stoker.core.errors import ERROR_CLASSES, ROOM_EXIT_CODES
from stoker.ledger import errors, schema
from stoker.ledger.errors import BadLedgerKey, LedgerUnusable, LedgerVersion
from stoker.ledger.ledger import Ledger
from support import ledger_samples as samples


def open_url(url: str, folder: Path) -> Ledger:
    return Ledger.open(url, folder / "ledger.key", ManualClock())


def test_a_new_ledger_is_private_and_begins_with_a_signed_empty_log(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "home"
    with samples.open_ledger(folder) as ledger:
        assert ledger.audit.size == 0
        assert list(ledger.audit.entries()) == []
        report = ledger.audit.verify()
        assert (report.size, report.checkpoints, report.findings) == (0, 1, ())
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert set(modes) >= {"ledger.db", "ledger.key", "ledger.head", "ledger.lock"}
    assert set(modes.values()) == {0o600}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_the_database_is_in_wal_mode_with_full_sync_and_foreign_keys(tmp_path: Path) -> None:
    with samples.open_ledger(tmp_path) as ledger, ledger._database.read() as connection:
        values = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    assert values == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 30_000}


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o601, 0o620])
def test_a_key_that_others_can_use_is_refused_with_the_remedy(tmp_path: Path, mode: int) -> None:
    samples.open_ledger(tmp_path).close()
    key = tmp_path / "ledger.key"
    key.chmod(mode)
    with pytest.raises(BadLedgerKey, match=f"has mode {mode:04o}") as caught:
        samples.open_ledger(tmp_path)
    assert f"chmod 600 {key}" in caught.value.hint
    key.chmod(0o600)
    samples.open_ledger(tmp_path).close()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"stoker-ledger-key 1 ed25519\n",
        b"stoker-ledger-key 1 ed25519\n" + b"ab" * 31 + b"\n",
        b"stoker-ledger-key 1 ed25519\n" + b"zz" * 32 + b"\n",
        b"stoker-ledger-key 2 ed25519\n" + b"ab" * 32 + b"\n",
        b"stoker-ledger-key 1 ed25519\n" + b"ab" * 32 + b"\nmore\n",
        b"\xff" * 100,
        b"a" * 10_000,
    ],
)
def test_a_malformed_key_is_refused_and_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    samples.open_ledger(tmp_path).close()
    key = tmp_path / "ledger.key"
    key.write_bytes(content)
    with pytest.raises(BadLedgerKey, match="is not a ledger key"):
        samples.open_ledger(tmp_path)
    assert key.read_bytes() == content


def test_a_lost_key_is_not_replaced_in_silence(tmp_path: Path) -> None:
    samples.open_ledger(tmp_path).close()
    key = tmp_path / "ledger.key"
    key.rename(tmp_path / "elsewhere")
    with pytest.raises(BadLedgerKey, match="cannot be read: No such file"):
        samples.open_ledger(tmp_path)
    assert not key.exists()
    key.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BadLedgerKey, match="cannot be read"):
        samples.open_ledger(tmp_path)


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_a_key_that_is_no_file_is_refused(tmp_path: Path, make: object) -> None:
    samples.open_ledger(tmp_path).close()
    key = tmp_path / "ledger.key"
    key.unlink()
    make(key, 0o600)  # type: ignore[operator]
    with pytest.raises(BadLedgerKey, match=r"is not a plain file|cannot be read"):
        samples.open_ledger(tmp_path)


def test_another_ledgers_key_is_refused(tmp_path: Path) -> None:
    for name in ("one", "two"):
        samples.open_ledger(tmp_path / name).close()
    (tmp_path / "two" / "ledger.key").replace(tmp_path / "one" / "ledger.key")
    with pytest.raises(BadLedgerKey, match="is not the one that signed"):
        samples.open_ledger(tmp_path / "one")


@pytest.mark.parametrize("version", ["0004", "9999", "abcd", "1", "0001a", "\u0661\u0661\u0661\u0661"])
def test_a_newer_or_unknown_schema_is_refused_and_not_touched(tmp_path: Path, version: str) -> None:
    with samples.open_ledger(tmp_path) as ledger:
        samples.fill(ledger)
    samples.tamper(tmp_path, ("UPDATE alembic_version SET version_num = ?", (version,)))
    before = (tmp_path / "ledger.db").read_bytes()
    with pytest.raises(LedgerVersion, match="this Stoker knows versions up to 0003"):
        samples.open_ledger(tmp_path)
    assert (tmp_path / "ledger.db").read_bytes() == before
    samples.tamper(tmp_path, "UPDATE alembic_version SET version_num = '0003'")
    with samples.open_ledger(tmp_path) as ledger:
        assert ledger.audit.verify().holds


def test_a_ledger_of_the_first_version_is_brought_up_to_date_with_all_it_holds(tmp_path: Path) -> None:
    with samples.open_ledger(tmp_path) as ledger:
        samples.fill(ledger)
        before = ledger.catalogue.datasets(), ledger.catalogue.runs(), list(ledger.audit.entries())
    samples.tamper(
        tmp_path,
        "DROP TABLE run_part",
        "DROP TABLE review_terms",
        "DROP TABLE access_token",
        "DROP INDEX ix_audit_entry_action",
        "UPDATE alembic_version SET version_num = '0001'",
    )
    with samples.open_ledger(tmp_path) as ledger:
        assert (ledger.catalogue.datasets(), ledger.catalogue.runs(), list(ledger.audit.entries())) == before
        assert ledger.catalogue.run_parts() == ()
        assert ledger.audit.verify().holds


def test_somebody_elses_database_is_refused_and_not_touched(tmp_path: Path) -> None:
    samples.tamper(tmp_path, "CREATE TABLE bookmarks (url TEXT)")
    with pytest.raises(LedgerVersion, match="not a ledger's, such as 'bookmarks'"):
        samples.open_ledger(tmp_path)
    assert not (tmp_path / "ledger.key").exists()


def test_a_file_that_is_no_database_is_refused_and_not_touched(tmp_path: Path) -> None:
    (tmp_path / "ledger.db").write_bytes(b"Dear diary, " * 1000)
    with pytest.raises(LedgerUnusable, match=r"ledger\.db cannot be used: file is not a database"):
        samples.open_ledger(tmp_path)
    assert (tmp_path / "ledger.db").read_bytes() == b"Dear diary, " * 1000


def test_a_folder_in_the_place_of_the_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "ledger.db").mkdir()
    with pytest.raises(LedgerUnusable, match="it is not a file"):
        samples.open_ledger(tmp_path)


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file")
    with pytest.raises(LedgerUnusable, match="cannot be made"):
        samples.open_ledger(tmp_path / "home")


@pytest.mark.parametrize(
    "url", ["", "ledger.db", "sqlite://", "sqlite:///:memory:", "nonsense://x/y", "sqlite:///file:x?uri=true"]
)
def test_a_url_that_is_no_lasting_database_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(LedgerUnusable):
        open_url(url, tmp_path)
    assert not (tmp_path / "ledger.key").exists()


def test_the_password_of_a_url_is_not_shown(tmp_path: Path) -> None:
    with pytest.raises(LedgerUnusable) as caught:
        open_url("sqlite://user:s3cr3t@host", tmp_path)
    assert "s3cr3t" not in caught.value.message + caught.value.hint


def run_python(code: str, *arguments: str) -> None:
    subprocess.run([sys.executable, "-c", code, *arguments], check=True)


def test_records_and_arithmetic_import_without_a_database_library() -> None:
    run_python(
        "import sys, stoker.ledger.records, stoker.ledger.merkle, stoker.ledger.errors, stoker.ledger.notes\n"
        "assert not {'sqlalchemy', 'alembic', 'sqlite3'} & set(sys.modules)"
    )


def test_opening_an_up_to_date_ledger_imports_no_alembic(tmp_path: Path) -> None:
    samples.open_ledger(tmp_path).close()
    run_python(
        "import sys; from pathlib import Path; from stoker.core.clock import SystemClock\n"
        "from stoker.ledger.ledger import Ledger\n"
        "folder = Path(sys.argv[1])\n"
        "with Ledger.open(f'sqlite:///{folder}/ledger.db', folder / 'ledger.key', SystemClock()) as ledger:\n"
        "    assert ledger.audit.verify().holds\n"
        "assert not {'alembic', 'mako', 'numpy', 'torch', 'rich'} & set(sys.modules)",
        str(tmp_path),
    )


def test_the_migrations_build_exactly_the_schema(tmp_path: Path) -> None:
    with samples.open_ledger(tmp_path) as ledger, ledger._database.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert context.get_current_revision() == schema.SCHEMA_VERSION
        assert compare_metadata(context, schema.metadata) == []
        built = dict(
            connection.exec_driver_sql(
                "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL AND name != 'alembic_version'"
            ).all()
        )
    written: dict[str, str] = {}
    for table in schema.metadata.tables.values():
        written[table.name] = str(CreateTable(table).compile(dialect=sqlite.dialect()))
        for index in table.indexes:
            assert index.name is not None
            written[index.name] = str(CreateIndex(index).compile(dialect=sqlite.dialect()))
    assert {name: " ".join(sql.split()) for name, sql in built.items()} == {
        name: " ".join(sql.split()) for name, sql in written.items()
    }


def test_the_schema_and_the_lock_are_sql_that_postgresql_takes() -> None:
    dialect = postgresql.dialect()
    tables = {
        table.name: str(CreateTable(table).compile(dialect=dialect))
        for table in schema.metadata.tables.values()
    }
    assert "root BYTEA NOT NULL" in tables["audit_checkpoint"]
    assert "time_s DOUBLE PRECISION NOT NULL" in tables["audit_entry"]
    assert not any("SERIAL" in sql for sql in tables.values())
    lock = sa.select(schema.ledger_meta.c.id).with_for_update()
    assert str(lock.compile(dialect=dialect)).endswith("FOR UPDATE")


def test_no_module_but_the_database_knows_sqlite() -> None:
    package = Path(schema.__file__).parent
    sources = {path.name: path.read_text() for path in package.rglob("*.py")}
    knowing = {name for name, text in sources.items() if re.search(r"sqlite3|PRAGMA|exec_driver_sql", text)}
    assert knowing == {"database.py"}


def test_the_errors_fill_the_rooms_exit_codes() -> None:
    own = {code: each for code, each in ERROR_CLASSES.items() if code in ROOM_EXIT_CODES["ledger"]}
    assert all(each.__module__ == errors.__name__ for each in own.values())
    assert set(own) == set(ROOM_EXIT_CODES["ledger"])
    assert own[20].id == "unknown-identity"


def test_a_password_in_a_url_is_never_shown(tmp_path: Path) -> None:
    for url in ("nosuch://ada:hunter2@host/db", "postgresql+nosuch://ada:hunter2@host/db", "ada:hunter2@@"):
        with pytest.raises(LedgerUnusable) as refused:
            Ledger.open(url, tmp_path / "ledger.key", ManualClock())
        assert "hunter2" not in refused.value.message + refused.value.hint
