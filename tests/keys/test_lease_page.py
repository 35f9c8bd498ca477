"""The page that shows a lease: ranks read it and cannot change it, and looking is no call of the kernel."""

from __future__ import annotations

import ctypes
import mmap
import os
import tempfile
from pathlib import Path

import pytest

from stoker.keys.caller import Caller, take_secret
from stoker.keys.errors import AgentLost, LeaseExpired, LeaseRefused
from stoker.keys.lease_page import PAGE_BYTES, LeaseEnd, LeasePage, LeaseView


def view_of(page: LeasePage) -> LeaseView:
    return LeaseView(os.dup(page.descriptor))


def test_a_fresh_page_is_not_good_and_a_shown_one_is() -> None:
    page = LeasePage()
    view = view_of(page)
    with pytest.raises(LeaseExpired):
        view.require()
    page.show(100.0)
    view.require()
    assert view.good
    page.show(-1.0)
    with pytest.raises(LeaseExpired):
        view.require()
    page.close()
    page.close()


@pytest.mark.parametrize(
    ("why", "says"), [(LeaseEnd.REVOKED, "was revoked"), (LeaseEnd.ISOLATION, "way out")]
)
def test_an_ended_page_says_why_and_stays_ended(why: LeaseEnd, says: str) -> None:
    page = LeasePage()
    view = view_of(page)
    page.show(100.0)
    page.end(why)
    page.end(LeaseEnd.REVOKED)
    page.show(100.0)
    with pytest.raises(LeaseRefused, match=says):
        view.require()
    page.close()
    with pytest.raises(LeaseRefused, match=says):
        view.require()  # whoever inherited the page goes on reading what was last written


def test_nobody_but_its_maker_can_write_to_a_page() -> None:
    page = LeasePage()
    with pytest.raises(PermissionError):
        os.pwrite(page.descriptor, b"x", 8)
    with pytest.raises(PermissionError):
        mmap.mmap(page.descriptor, PAGE_BYTES, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    with pytest.raises(PermissionError):
        os.ftruncate(page.descriptor, 0)
    # A mapping for reading cannot be made writable afterwards either.
    mapped = ctypes.CDLL(None, use_errno=True)
    mapped.mmap.restype = ctypes.c_void_p
    mapped.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    address = mapped.mmap(None, PAGE_BYTES, mmap.PROT_READ, mmap.MAP_SHARED, page.descriptor, 0)
    assert mapped.mprotect(ctypes.c_void_p(address), PAGE_BYTES, mmap.PROT_READ | mmap.PROT_WRITE) == -1
    page.close()


def test_what_is_no_sealed_page_is_refused(tmp_path: Path) -> None:
    (tmp_path / "page").write_bytes(bytes(PAGE_BYTES))
    with pytest.raises(AgentLost):
        LeaseView(os.open(tmp_path / "page", os.O_RDWR))
    unsealed = os.memfd_create("page", os.MFD_ALLOW_SEALING)
    os.ftruncate(unsealed, PAGE_BYTES)
    with pytest.raises(AgentLost):
        LeaseView(unsealed)
    reading, writing = os.pipe()
    with pytest.raises(AgentLost):
        LeaseView(reading)
    os.close(writing)


def test_a_secret_is_handed_over_once() -> None:
    caller = Caller.this_process()
    reading = caller.hand_over()
    again = os.dup(reading)
    with take_secret(reading) as secret, caller.copy_secret() as own:
        assert secret.view() == own.view()
    with pytest.raises(AgentLost, match="taken already"):
        take_secret(again)


def test_a_page_lies_in_no_file() -> None:
    page = LeasePage()
    assert str(Path(f"/proc/self/fd/{page.descriptor}").readlink()).startswith("/memfd:")
    assert not list(Path(tempfile.gettempdir()).glob("stoker-lease*"))
    page.close()
