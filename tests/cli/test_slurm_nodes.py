"""Runs over several nodes of a real Slurm: an agent on each, and a spare one in the allocation."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from stoker.core.events import EventKind
from stoker.core.ids import RunId
from stoker.fleet.launchers import JobState
from support.cli_home import copied
from support.cli_levels import Levels
from support.slurm_home import LONG, SHORT, SlurmHome
from support.slurm_testbed import Slurm

K = EventKind
TWO_NODES = ("launch.ranks=2", "launch.nodes=2", "launch.interface=lo")


@pytest.fixture
def there(levels: Levels, tmp_path: Path, slurm: Slurm) -> Iterator[SlurmHome]:
    home = copied(levels.home("prepared"), tmp_path / "there")
    home.environment.update(SLURM_CONF=str(slurm.conf))
    yield SlurmHome(home, slurm)


def placed(there: SlurmHome, run: RunId) -> list[list[str]]:
    return [list(each.fields["placed"]) for each in there.of_kind(run, K.ATTEMPT_STARTED)]


def test_a_run_over_two_nodes_of_a_job_finishes(there: SlurmHome) -> None:
    run, job = there.submit(*SHORT, *TWO_NODES)
    there.until(lambda: there.launcher.job(job).state is JobState.FINISHED)
    assert there.steps(run) == list(range(1, 41))
    (nodes,) = placed(there, run)
    assert len(set(nodes)) == 2
    spawned = {(each.rank, each.node) for each in there.of_kind(run, K.RANK_SPAWNED)}
    assert spawned == {(0, nodes[0]), (1, nodes[1])}


def test_a_node_that_is_lost_is_replaced_within_its_job_by_the_spare_one(there: SlurmHome) -> None:
    run, job = there.submit(*LONG, *TWO_NODES, "launch.spare_nodes=1", "launch.standby_after_s=0")
    there.until(lambda: len(there.of_kind(run, K.CHECKPOINT_COMMITTED)) >= 1)
    there.until(lambda: len(there.of_kind(run, K.STANDBY_LOADED)) >= 1)
    (first,) = placed(there, run)
    assert there.launcher.job(job).node == first[0], "the supervisor is on the first node"
    there.slurm.lose_node(first[1])
    there.until(lambda: there.attempt_of_last_step(run) > 1)
    (lost,) = there.of_kind(run, K.NODE_LOST)
    assert lost.text("name") == first[1]
    second = placed(there, run)[1]
    assert second[0] == first[0] and second[1] not in first
    started = {each.rank: each for each in there.of_kind(run, K.RANK_STARTED) if each.attempt == 2}
    assert started[1].node == second[1]
    view = there.launcher.job(job)
    assert (view.state, view.restarts) == (JobState.RUNNING, 0), "the job goes on, and waits in no queue"
    there.launcher.cancel(job)
    there.until(lambda: there.home.processes() == {})
