"""A secret is wiped, locked, and never shown; the process around it leaves no core file."""

from __future__ import annotations

import copy
import ctypes
import gc
import json
import os
import pickle
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from stoker.keys.errors import SecretWiped
from stoker.keys.memory import LOCKED_PAGES, LockedPages
from stoker.keys.secret import KEY_BYTES, SecretKey


@pytest.fixture
def no_garbage() -> Iterator[None]:
    """What other tests left to the garbage collector goes before pages are counted, not during."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize(
    "show",
    [
        repr,
        str,
        bytes,
        format,
        "{}".format,
        copy.copy,
        copy.deepcopy,
        pickle.dumps,
        json.dumps,
        lambda key: pickle.dumps(key, protocol=0),
        lambda key: f"{key!r}",
    ],
)
def test_a_secret_is_never_shown_or_copied(show: Callable[[Any], object]) -> None:
    with SecretKey.generate() as key, pytest.raises(TypeError):
        show(key)


def test_two_generated_secrets_differ() -> None:
    with SecretKey.generate() as one, SecretKey.generate() as other:
        assert one.view() != other.view()
        assert bytes(one.view()) != bytes(KEY_BYTES)


def test_wiping_overwrites_every_view() -> None:
    key = SecretKey.adopt(bytearray(b"s" * KEY_BYTES))
    view, part = key.view(), key.view()[4:8]
    key.wipe()
    key.wipe()
    assert bytes(view) == bytes(KEY_BYTES)
    assert bytes(part) == bytes(4)
    assert key.wiped
    with pytest.raises(SecretWiped):
        key.view()


def test_the_end_of_a_block_wipes_also_after_an_error() -> None:
    key = SecretKey.generate()
    with pytest.raises(ZeroDivisionError), key:
        _ = 1 // 0
    assert key.wiped


def test_adopting_leaves_no_second_copy() -> None:
    given = bytearray(b"s" * KEY_BYTES)
    with SecretKey.adopt(given) as key:
        assert given == bytes(KEY_BYTES)
        assert bytes(key.view()) == b"s" * KEY_BYTES


def test_a_view_of_a_secret_that_nobody_holds_any_more_does_not_read_zeros() -> None:
    view = SecretKey.adopt(bytearray(b"s" * KEY_BYTES)).view()[:8]
    assert bytes(view) == b"s" * 8


def test_views_cannot_change_a_secret() -> None:
    with SecretKey.generate() as key, pytest.raises(TypeError):
        key.view()[0] = 1


@pytest.mark.parametrize("wrong", [bytearray(31), bytearray(33), bytes(32), memoryview(bytearray(32))])
def test_only_a_bytearray_of_32_bytes_is_taken_over(wrong: Any) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        SecretKey.adopt(wrong)


def test_pages_are_unlocked_with_the_last_secret_in_them(no_garbage: None) -> None:
    before = LOCKED_PAGES.count
    keys = [SecretKey.generate() for _ in range(300)]
    assert all(key.locked for key in keys)
    for key in keys[:-1]:
        key.wipe()
    assert keys[-1].locked
    del key, keys
    assert LOCKED_PAGES.count == before


LOCKED_IN_A_FRESH_PROCESS = """
from pathlib import Path
from stoker.keys.secret import SecretKey

def locked_kib():
    with Path("/proc/self/status").open() as file:
        return int(next(line for line in file if line.startswith("VmLck")).split()[1])

before = locked_kib()
keys = [SecretKey.generate() for _ in range(1000)]
held = locked_kib()
for key in keys:
    key.wipe()
print(before, held, locked_kib())
"""


def test_the_kernel_agrees_that_pages_are_locked() -> None:
    """In a process of its own: here, other tests' secrets may be collected at any moment."""
    command = [sys.executable, "-c", LOCKED_IN_A_FRESH_PROCESS]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    before, held, after = map(int, shown.split())
    assert held > before
    assert after == before


def test_one_page_with_two_secrets_stays_locked_until_both_are_gone() -> None:
    pages = LockedPages()
    memory = ctypes.create_string_buffer(4 * resource.getpagesize())
    address = (ctypes.addressof(memory) // resource.getpagesize() + 1) * resource.getpagesize()
    assert pages.lock(address, 32)
    assert pages.lock(address + 64, 32)
    pages.unlock(address, 32)
    assert pages.count == 1
    pages.unlock(address + 64, 32)
    assert pages.count == 0


def test_a_hardened_process_can_be_neither_dumped_nor_read() -> None:
    script = (
        "import os\n"
        "from stoker.keys.memory import harden_process, memory_protection\n"
        "harden_process()\n"
        "found = memory_protection()\n"
        "assert found.no_core_files and found.undumpable, found\n"
        "print(os.stat('/proc/self/mem').st_uid, flush=True)\n"
        "os.abort()\n"
    )
    child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert child.stdout is not None
    with child.stdout:
        assert child.stdout.read().strip() == b"0"  # an undumpable process belongs to root under /proc
    _, status = os.waitpid(child.pid, 0)
    child.returncode = status
    assert os.WIFSIGNALED(status)
    assert not os.WCOREDUMP(status)
