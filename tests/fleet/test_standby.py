"""The next attempt's processes, started ahead: used when one ends, and gone when none is needed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from stoker.core.events import Event, EventKind
from stoker.core.isolation import IsolationState
from stoker.fleet.attempt_lock import held_lock
from stoker.fleet.faults import KillRank, LoseNode
from stoker.fleet.goodput import account
from stoker.fleet.places import Room
from stoker.fleet.run_state import Phase
from stoker.spec.run import IsolationPolicy
from support.fake_house import FakeErrands, a_policy, make_folder, supervise, told

K = EventKind
KILL = KillRank(rank=1, at_step=3, when_loaded=True)


@pytest.fixture
def errands(tmp_path: Path) -> FakeErrands:
    house = FakeErrands(make_folder(tmp_path / "run"), steps=12, step_s=0.02)
    house.deeds = [{"do": "stand_still", "rank": rank, "at_step": 6, "attempt": 1} for rank in (0, 1)]
    return house


def waited(errands: FakeErrands) -> dict[tuple[int, int], object]:
    """Of each rank of each attempt whether it had been started ahead."""
    return {(one.attempt, one.rank): one.fields["waited"] for one in told(errands.folder, K.RANK_STARTED)}


def order_of(errands: FakeErrands, *kinds: EventKind) -> list[tuple[int, str]]:
    return [(one.attempt, one.kind.value) for one in told(errands.folder, *kinds)]


def nothing_is_left(errands: FakeErrands) -> bool:
    return held_lock(errands.folder) is None


def test_a_restart_takes_the_processes_that_wait(errands: FakeErrands) -> None:
    verdict = supervise(errands, faults=[KILL], standby_after_s=0.0)
    assert verdict.outcome is Phase.FINISHED
    assert waited(errands) == {(1, 0): False, (1, 1): False, (2, 0): True, (2, 1): True}
    kinds = (K.STANDBY_LOADED, K.FAULT_INJECTED, K.ATTEMPT_STARTED, K.RANK_SPAWNED)
    assert order_of(errands, *kinds)[:8] == [
        (1, "attempt_started"),
        (1, "rank_spawned"),
        (1, "rank_spawned"),
        (1, "standby_loaded"),
        (1, "fault_injected"),
        (2, "attempt_started"),
        (2, "rank_spawned"),
        (2, "rank_spawned"),
    ]
    goodput = account(told(errands.folder, *EventKind))
    assert (goodput.attempts, goodput.failures) == (2, 1)
    assert sum(goodput.seconds.values()) == pytest.approx(goodput.wall_s)
    assert nothing_is_left(errands)


def test_what_waits_is_used_on_a_spare_node_too(errands: FakeErrands) -> None:
    loaded = {"do": "await_told", "rank": 0, "at_step": 3, "attempt": 1, "kind": "standby_loaded"}
    errands.deeds = [loaded, *errands.deeds]
    policy = a_policy(nodes=Room(("a", "b", "c"), 1, (2,)))
    verdict = supervise(errands, policy=policy, faults=[LoseNode("a", at_step=4)], standby_after_s=0.0)
    assert verdict.outcome is Phase.FINISHED
    assert waited(errands) == {(1, 0): False, (1, 1): False, (2, 0): True, (2, 1): True}
    started = {(one.attempt, one.rank): one.node for one in told(errands.folder, K.RANK_STARTED)}
    assert (started[2, 0], started[2, 1]) == ("c", "b")
    assert sorted(path.name for path in errands.folder.attempt(2).glob("*.log")) == [
        "agent.log",
        "rank-0.log",
        "rank-1.log",
    ]


def test_what_was_never_needed_leaves_no_trace(errands: FakeErrands) -> None:
    errands.deeds = [{"do": "await_told", "rank": 0, "at_step": 6, "attempt": 1, "kind": "standby_loaded"}]
    verdict = supervise(errands, standby_after_s=0.0)
    assert verdict.outcome is Phase.FINISHED
    assert order_of(errands, K.STANDBY_LOADED, K.ATTEMPT_STARTED) == [
        (1, "attempt_started"),
        (1, "standby_loaded"),
    ]
    assert errands.folder.attempts_so_far() == 1
    assert [each.name for each in errands.folder.attempt_locks()] == ["attempt-1.lock"]
    assert nothing_is_left(errands)


@pytest.mark.parametrize("changes", [{"standby_after_s": None}, {"standby_after_s": 600.0}])
def test_nothing_is_started_ahead_unasked_or_too_early(errands: FakeErrands, changes: dict[str, Any]) -> None:
    supervise(errands, faults=[KillRank(rank=1, at_step=3)], **changes)
    assert waited(errands) == {(1, 0): False, (1, 1): False, (2, 0): False, (2, 1): False}
    assert not told(errands.folder, K.STANDBY_LOADED, K.STANDBY_LOST)


def test_nothing_is_started_ahead_of_a_restart_that_is_not_allowed(errands: FakeErrands) -> None:
    errands.deeds = []
    verdict = supervise(errands, policy=a_policy(restarts=0), standby_after_s=0.0)
    assert verdict.outcome is Phase.FINISHED
    assert not told(errands.folder, K.STANDBY_LOADED)


def test_a_rank_that_dies_while_it_waits_costs_the_run_nothing(errands: FakeErrands) -> None:
    errands.deeds = [
        {"do": "kill_waiting", "rank": 0, "at_step": 3, "attempt": 1},
        {"do": "await_told", "rank": 0, "at_step": 4, "attempt": 1, "kind": "standby_lost"},
        *errands.deeds,
    ]
    verdict = supervise(errands, faults=[KillRank(rank=1, at_step=5)], standby_after_s=0.0)
    assert verdict.outcome is Phase.FINISHED
    (lost,) = told(errands.folder, K.STANDBY_LOST)
    assert lost.text("reason").endswith("has ended")
    assert waited(errands)[2, 0] is False
    assert nothing_is_left(errands)


def test_those_that_wait_are_isolated_and_hold_no_lease(errands: FakeErrands) -> None:
    leases: list[int] = []

    def lease(attempt: int) -> None:
        if attempt not in leases:
            spawned = [one.attempt for one in told(errands.folder, K.RANK_SPAWNED)]
            assert attempt not in spawned
            assert told(errands.folder, K.ISOLATION_PROBED)[-1].attempt == attempt
            leases.append(attempt)

    errands.keys = lease
    verdict = supervise(
        errands, faults=[KILL], standby_after_s=0.0, isolation=IsolationPolicy.REQUIRED, probe_every_s=0.2
    )
    assert verdict.outcome is Phase.FINISHED
    assert waited(errands)[2, 0] is True
    assert leases == [1, 2]
    assert {one.text("state") for one in told(errands.folder, K.ISOLATION_PROBED)} == {
        IsolationState.ISOLATED.value
    }


def test_a_supervisor_that_is_killed_takes_those_that_wait_with_it(errands: FakeErrands) -> None:
    program = Path(__file__).parents[1] / "support" / "fake_house.py"
    settings = '{"steps": 4000, "step_s": 0.02, "standby_after_s": 0.0}'
    child = subprocess.Popen([sys.executable, str(program), str(errands.folder.path), settings])
    try:
        wait_for(errands, K.STANDBY_LOADED)
        assert not errands.folder.job(2).exists()
        os.kill(child.pid, signal.SIGKILL)
    finally:
        child.kill()
        child.wait()
    deadline_s = time.monotonic() + 20
    while not nothing_is_left(errands) and time.monotonic() < deadline_s:
        time.sleep(0.05)
    assert nothing_is_left(errands)


def wait_for(errands: FakeErrands, kind: EventKind) -> Event:
    deadline_s = time.monotonic() + 30
    while time.monotonic() < deadline_s:
        if errands.folder.events.exists() and (found := told(errands.folder, kind)):
            return found[0]
        time.sleep(0.05)
    raise AssertionError(f"{kind} was not told")
