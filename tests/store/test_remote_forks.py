"""A forked child never touches the parent's object store, and the parent never notices that it was tried."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from stoker.store.errors import StoreUnreachable
from stoker.store.objects import ObjectStore
from stoker.store.resilient import ResilientStore
from support.slow_store import SlowStore, pointed_at


@pytest.fixture
def server() -> Iterator[SlowStore]:
    with SlowStore() as running, pointed_at(running):
        yield running


def _refused_in_child(use: Callable[[], object]) -> bool:
    child = os.fork()
    if child == 0:
        code = 9
        try:
            use()
        except StoreUnreachable as error:
            code = 7 if "forked" in error.message and "spawn" in error.hint else 8
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_a_child_may_use_neither_an_old_store_nor_a_new_one(server: SlowStore) -> None:
    store = ObjectStore.open(server.url)
    store.create("x", b"before")
    for use in (
        lambda: store.get("x"),
        lambda: store.create("y", b""),
        lambda: list(store.list()),
        lambda: ObjectStore.open(server.url),
        lambda: ObjectStore.open("memory://"),
        lambda: ResilientStore.connect("gs://bucket"),
    ):
        assert _refused_in_child(use)
        assert store.get("x") == b"before", "the parent goes on"
    assert list(server.objects) == ["x"]


_CHILDREN_FIRST = """
import os, sys
from stoker.store.objects import ObjectStore
import stoker.store.resilient

def read():
    return ObjectStore.open(sys.argv[1]).get("x")

for number in range(2):
    child = os.fork()
    if child == 0:
        os._exit(7 if read() == b"kept" else 8)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
assert read() == b"kept"
"""


def test_a_process_that_has_not_used_a_store_may_fork_children_that_do(server: SlowStore) -> None:
    server.objects["x"] = b"kept"
    done = subprocess.run(
        [sys.executable, "-c", _CHILDREN_FIRST, server.url], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
