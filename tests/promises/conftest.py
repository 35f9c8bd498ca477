"""One small home on which every promise is kept: made once for each worker, copied for each test."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.promise_home import PromiseHome, build_promise_home, open_promise_home


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """To be copied, never opened."""
    place = tmp_path_factory.mktemp("kept")
    build_promise_home(place)
    return place


@pytest.fixture
def place(built: Path, tmp_path: Path) -> Path:
    """A closed copy, to be broken."""
    return shutil.copytree(built, tmp_path / "place", symlinks=True)


@pytest.fixture
def house(place: Path) -> Iterator[PromiseHome]:
    """An open copy."""
    with open_promise_home(place) as house:
        yield house
