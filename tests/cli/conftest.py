"""Homes for tests of the command line: made once for all test processes, copied for each test."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from support.cli_home import CliHome, copied
from support.cli_levels import Levels


@pytest.fixture(scope="session")
def levels(tmp_path_factory: pytest.TempPathFactory) -> Levels:
    """The homes to copy from; processes of one pytest-xdist session share a folder."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    return Levels(shared / "cli-homes")


@pytest.fixture
def home_at(levels: Levels, tmp_path: Path) -> Callable[[str], CliHome]:
    """A copy of the home of one level, to do with as the test likes."""
    return lambda level: copied(levels.home(level), tmp_path / "place")
