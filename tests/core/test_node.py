"""What a node is called: made once, kept in its home, and refused when it is no name."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from stoker.core.errors import BadHome
from stoker.core.home import Home
from stoker.core.node import is_node, node_name


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home").prepare()


def test_a_node_keeps_its_name_and_two_homes_are_two_nodes(home: Home, tmp_path: Path) -> None:
    name = node_name(home)
    assert node_name(home) == name
    assert (home.root / "node").stat().st_mode & 0o777 == 0o600
    assert node_name(Home(tmp_path / "other").prepare()) != name


def test_all_who_ask_at_once_are_told_the_same(home: Home) -> None:
    told: list[str] = []
    threads = [threading.Thread(target=lambda: told.append(node_name(home))) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(told), len(set(told))) == (16, 1)
    assert list(home.root.glob(".node.*")) == []


@pytest.mark.parametrize("content", ["", "gpu-01", "../gpu-01-0a1b2c", "GPU-0a1b2c", "x" * 200 + "-0a1b2c"])
def test_a_file_that_holds_no_name_is_refused(home: Home, content: str) -> None:
    (home.root / "node").write_text(content)
    with pytest.raises(BadHome, match="no name of a node"):
        node_name(home)


def test_a_node_is_meant_by_its_own_name_or_by_its_machines() -> None:
    assert is_node("gpu-01-0a1b2c", "gpu-01-0a1b2c")
    assert is_node("gpu-01-0a1b2c", "gpu-01")
    assert not is_node("gpu-01-0a1b2c", "gpu")
    assert not is_node("gpu-01-0a1b2c", "gpu-02")
