"""What tests of several rooms share: one real Slurm for a whole session, and interpreters of their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.fresh_process import report_of, wants_one
from support.slurm_testbed import Slurm, slurm_testbed


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> bool | None:
    """A test that asks for an interpreter of its own gets one."""
    if not wants_one(item):
        return None
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    item.ihook.pytest_runtest_logreport(report=report_of(item))
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


@pytest.fixture(scope="session")
def testbed() -> Iterator[Slurm]:
    """A Slurm of four nodes; started by the first test that asks for it."""
    with slurm_testbed() as slurm:
        yield slurm


@pytest.fixture
def slurm(testbed: Slurm, monkeypatch: pytest.MonkeyPatch) -> Iterator[Slurm]:
    """The session's Slurm with every node up and no job, before and after the test."""
    monkeypatch.setenv("SLURM_CONF", str(testbed.conf))
    yield testbed
    testbed.tidy()
