"""Ledgers for the tests of this room: made once, copied for each test."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from stoker.ledger.ledger import Ledger
from support import ledger_samples as samples


@pytest.fixture(scope="session")
def empty_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a ledger without entries; to be copied, never opened."""
    folder = tmp_path_factory.mktemp("empty")
    samples.open_ledger(folder).close()
    return folder


@pytest.fixture(scope="session")
def filled_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a ledger with `samples.fill` in it; to be copied, never opened."""
    folder = tmp_path_factory.mktemp("filled")
    with samples.open_ledger(folder) as ledger:
        samples.fill(ledger)
    return folder


@pytest.fixture
def ledger(empty_home: Path, tmp_path: Path) -> Iterator[Ledger]:
    """A ledger without entries in `tmp_path`."""
    shutil.copytree(empty_home, tmp_path, dirs_exist_ok=True)
    with samples.open_ledger(tmp_path) as ledger:
        yield ledger


@pytest.fixture
def filled(filled_home: Path, tmp_path: Path) -> Iterator[Ledger]:
    """A ledger with one record of every table, in `tmp_path`."""
    shutil.copytree(filled_home, tmp_path, dirs_exist_ok=True)
    with samples.open_ledger(tmp_path) as ledger:
        yield ledger
