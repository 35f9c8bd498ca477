"""Key operations stop where the audit log cannot be written: a full or read-only disk, a damaged log."""

from __future__ import annotations

import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from stoker.core.clock import ManualClock
from stoker.core.errors import DiskFull, StokerError
from stoker.keys.audited import ASKED_EVERY_S, audited
from stoker.keys.backend import KeyBackend
from stoker.keys.open import open_backend
from stoker.keys.partition import BackendKeySource
from stoker.keys.refs import KekRef, Purpose
from stoker.ledger.errors import LedgerUnusable
from stoker.ledger.ledger import Ledger
from support.intake_home import small_file_system


@contextmanager
def desk(keys: Path, ledger_folder: Path) -> Iterator[tuple[Ledger, KeyBackend, ManualClock]]:
    """A ledger and the keys that depend on it, each in a folder of its own."""
    clock = ManualClock()
    raw = open_backend(keys.as_uri(), clock=clock, passphrase=None)
    with Ledger.open(f"sqlite:///{ledger_folder}/ledger.db", ledger_folder / "ledger.key", clock) as ledger:
        yield ledger, audited(raw, ledger.require_writable, monotonic_s=clock.monotonic_s), clock


def wrapped_key(backend: KeyBackend) -> tuple[KekRef, bytes]:
    kek = backend.create_kek("source/text/v1", Purpose.SOURCE, expires_s=None)
    key, wrapped = BackendKeySource(backend).new_partition_key(kek, Purpose.SOURCE)
    key.wipe()
    return kek, wrapped


def opens(backend: KeyBackend, kek: KekRef, wrapped: bytes) -> bool:
    with BackendKeySource(backend).open_partition_key(kek, wrapped, Purpose.SOURCE) as key:
        return key is not None


def test_trying_leaves_nothing_in_the_log_and_keys_work(tmp_path: Path) -> None:
    with desk(tmp_path / "keys", tmp_path) as (ledger, backend, _):
        kek, wrapped = wrapped_key(backend)
        assert opens(backend, kek, wrapped)
        assert ledger.audit.size == 0
        with ledger.act(actor="a", action="b", subject="c", detail={}):
            assert opens(backend, kek, wrapped), "inside an act the log is being written"
        assert ledger.audit.verify().holds


def test_no_key_is_unwrapped_or_made_on_a_log_that_was_damaged(tmp_path: Path) -> None:
    with desk(tmp_path / "keys", tmp_path) as (ledger, backend, clock):
        kek, wrapped = wrapped_key(backend)
        with ledger.act(actor="a", action="b", subject="c", detail={}):
            pass
        with sqlite3.connect(tmp_path / "ledger.db") as database:
            database.execute("DELETE FROM audit_entry")
        clock.advance(ASKED_EVERY_S)
        before = len(backend.list_keks())
        for deed in (lambda: opens(backend, kek, wrapped), lambda: wrapped_key(backend)):
            with pytest.raises(LedgerUnusable):
                deed()
        assert len(backend.list_keks()) == before, "reading goes on, and nothing was made"


def test_no_key_is_unwrapped_while_the_disk_of_the_log_is_full(tmp_path: Path) -> None:
    with (
        small_file_system(tmp_path / "disk", "2m") as disk,
        desk(tmp_path / "keys", disk) as (_, backend, clock),
    ):
        kek, wrapped = wrapped_key(backend)
        filler = disk / "filler"
        with filler.open("wb", buffering=0) as file, pytest.raises(OSError):
            while True:
                file.write(bytes(4096))
        clock.advance(ASKED_EVERY_S)
        with pytest.raises(DiskFull):
            opens(backend, kek, wrapped)
        filler.unlink()
        assert opens(backend, kek, wrapped), "and it goes on once there is space"


def test_no_key_is_unwrapped_while_the_log_is_read_only(tmp_path: Path) -> None:
    with (
        small_file_system(tmp_path / "disk", "4m") as disk,
        desk(tmp_path / "keys", disk) as (ledger, backend, clock),
    ):
        kek, wrapped = wrapped_key(backend)
        ledger.close()
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        try:
            clock.advance(ASKED_EVERY_S)
            with pytest.raises(StokerError) as refusal:
                opens(backend, kek, wrapped)
            assert isinstance(refusal.value, LedgerUnusable)
        finally:
            ledger.close()
            subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
        assert opens(backend, kek, wrapped)
