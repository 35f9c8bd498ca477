"""What tests of several rooms share: one real Slurm for a whole session."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.slurm_testbed import Slurm, slurm_testbed


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
