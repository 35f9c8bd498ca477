"""The agent: what a rank is given, and that nothing stays behind whoever dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stoker.core.config import from_plain
from stoker.core.events import EventKind
from stoker.core.isolation import Outside
from stoker.core.result import plain
from stoker.fleet.agent_plan import (
    AgentPlan,
    IsolationMeans,
    IsolationPolicy,
    Kill,
    Lose,
    Save,
    Spawn,
    Stop,
    Wake,
    Warm,
    decode_order,
    decode_plan,
    encode_order,
    encode_plan,
)
from stoker.fleet.attempt import ENVIRONMENT_KEPT, rank_environment
from stoker.fleet.attempt_lock import held_lock
from stoker.fleet.run_folder import RunFolder
from stoker.fleet.run_state import Phase
from stoker.spec.run import RankOutput
from support import fake_house
from support.fake_house import FakeErrands, is_alive, make_folder, supervise, told, wait_until

K = EventKind


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return make_folder(tmp_path / "run")


@pytest.fixture
def supervised(folder: RunFolder) -> Iterator[subprocess.Popen[bytes]]:
    """A supervisor in a process of its own, with ranks that make steps for as long as they live."""
    process = start_supervisor(folder, steps=100_000)
    wait_until(lambda: ranks_make_steps(folder), "the ranks make steps")
    yield process
    if process.poll() is None:
        process.kill()
    process.wait()
    wait_until(lambda: held_lock(folder) is None, "all processes are gone")


def start_supervisor(folder: RunFolder, **settings: Any) -> subprocess.Popen[bytes]:
    command = [sys.executable, fake_house.__file__, str(folder.path), json.dumps(settings)]
    tests = str(Path(fake_house.__file__).parent.parent)
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": tests}, start_new_session=True)


def ranks_make_steps(folder: RunFolder) -> bool:
    if not folder.events.exists():
        return False
    return len(told(folder, K.STEP)) >= 3 and len(told(folder, K.RANK_READY)) == 2


def rank_pids(folder: RunFolder) -> list[int]:
    return [int(event.number("pid")) for event in told(folder, K.RANK_SPAWNED)]


def agent_pid(folder: RunFolder) -> int:
    stat = Path(f"/proc/{rank_pids(folder)[0]}/stat").read_text()
    return int(stat.rpartition(")")[2].split()[1])


def small_plan(**changes: Any) -> AgentPlan:
    """A plan of no ranks that asks for no isolation."""
    values: dict[str, Any] = {
        "run": "r",
        "attempt": 3,
        "nodes": ("n",),
        "commands": (),
        "environment": {},
        "key_fds": (),
        "secret_fds": (),
        "lease_fd": -1,
        "store_fds": (),
        "lock_fd": 0,
        "events_path": "/e",
        "log_folder": "/l",
        "isolation": IsolationPolicy.OFF,
        "isolate_by": IsolationMeans.AUTO,
        "probe_every_s": 5.0,
        "outside": Outside(9, "o", "/p"),
        "writable": ("/w",),
        "rank_output": RankOutput.SIEVED,
        "open_because": "nobody asked",
    }
    return AgentPlan(**(values | changes))


def test_a_plan_and_orders_survive_the_wire() -> None:
    plan = small_plan(commands=(("a", "b"),), environment={"X": "y"}, key_fds=(5, 6), secret_fds=(7, 8))
    assert decode_plan(encode_plan(plan)) == plan
    assert from_plain(AgentPlan, plain(plan), "here") == plan
    stops = (Stop(0.5), Stop(1.5, quiet=True), Stop(1.0, stacks=True))
    for order in (Spawn(), Warm(), Wake(2, ("a", "b")), Kill(2), Kill(1, 19), Lose("n"), Save(), *stops):
        assert decode_order(encode_order(order)) == order


def test_a_rank_is_given_little(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not for ranks")
    monkeypatch.setenv("STOKER_PASSPHRASE", "not for ranks")
    errands = FakeErrands(folder, deeds=[{"do": "show", "rank": 1, "at_step": "start", "attempt": 1}])
    supervise(errands)
    shown = json.loads(folder.rank_log(1, 1).read_text().splitlines()[0])
    environment = shown["environment"]
    given = {
        *rank_environment({}, 1),
        "STOKER_EVENT_FD",
        "STOKER_KEY_FD",
        "STOKER_SECRET_FD",
        "STOKER_LEASE_FD",
        "STOKER_STACK_FD",
        "LOCAL_RANK",
    }
    assert set(environment) <= {*ENVIRONMENT_KEPT, *given}
    assert given <= set(environment)
    lock_and_listing = 2
    assert len(shown["descriptors"]) == 3 + lock_and_listing + 5
    assert {0, 1, 2, int(environment["STOKER_EVENT_FD"])} < set(shown["descriptors"])
    assert shown["group"] == shown["pid"]
    assert shown["core"] == ["0", "0"]
    assert "to standard error" in folder.rank_log(1, 1).read_text()


def test_children_of_a_rank_end_with_it(folder: RunFolder) -> None:
    """One in the rank's group and one that left it for a session of its own, holding the event pipe."""
    deeds = [
        {"do": "leave_children", "rank": 1, "at_step": 3, "attempt": 1},
        {"do": "signal", "rank": 1, "at_step": 4, "attempt": 1, "signal": 9},
    ]
    verdict = supervise(FakeErrands(folder, deeds=deeds))
    assert verdict.outcome is Phase.FINISHED
    children = [int(pid) for pid in (folder.path / "children").read_text().split()]
    assert len(children) == 2
    assert not [pid for pid in children if is_alive(pid)]


def test_ranks_end_when_the_supervisor_is_killed(
    folder: RunFolder, supervised: subprocess.Popen[bytes]
) -> None:
    pids = [*rank_pids(folder), agent_pid(folder)]
    supervised.kill()
    wait_until(lambda: held_lock(folder) is None, "the attempt's lock is free")
    wait_until(lambda: not any(is_alive(pid) for pid in pids), "agent and ranks are gone")
    assert {event.number("signal") for event in told(folder, K.RANK_EXITED)} == {9.0}


def test_ranks_end_when_the_agent_is_killed_and_the_run_goes_on(
    folder: RunFolder, supervised: subprocess.Popen[bytes]
) -> None:
    pids = rank_pids(folder)
    os.kill(agent_pid(folder), signal.SIGKILL)
    wait_until(lambda: len(rank_pids(folder)) == 4, "the next attempt has ranks")
    assert not [pid for pid in pids if is_alive(pid)]
    (restart,) = told(folder, K.RESTART_SCHEDULED)
    assert restart.text("reason") == "the agent was lost"


def test_ranks_end_when_supervisor_and_agent_are_killed_together(folder: RunFolder) -> None:
    """Rank 1 cannot notice by itself that nobody listens any more; the kernel ends it."""
    deeds = [{"do": "fall_silent", "rank": 1, "at_step": 3, "attempt": 1}]
    process = start_supervisor(folder, steps=100_000, deeds=deeds)
    wait_until(lambda: ranks_make_steps(folder), "the ranks make steps")
    agent, pids = agent_pid(folder), rank_pids(folder)
    wait_until(lambda: "silent" in folder.rank_log(1, 1).read_text(), "rank 1 is silent")
    os.kill(agent, signal.SIGSTOP)
    process.kill()
    process.wait()
    os.kill(agent, signal.SIGKILL)
    wait_until(lambda: not any(is_alive(pid) for pid in [agent, *pids]), "agent and ranks are gone")
    assert held_lock(folder) is None


def test_no_attempt_starts_while_a_process_of_the_last_one_lives(folder: RunFolder) -> None:
    """A child that left its rank's group survives the agent; only the lock tells that it is there."""
    deeds = [{"do": "leave_children", "rank": 1, "at_step": 3, "attempt": 1}]
    process = start_supervisor(folder, steps=100_000, deeds=deeds)
    wait_until(lambda: (folder.path / "children").exists(), "the children are there")
    wait_until(lambda: ranks_make_steps(folder), "the ranks make steps")
    pids = rank_pids(folder)
    _, escaped = (int(pid) for pid in (folder.path / "children").read_text().split())
    os.kill(agent_pid(folder), signal.SIGKILL)
    wait_until(lambda: not any(is_alive(pid) for pid in pids), "the ranks are gone")
    time.sleep(0.3)
    assert is_alive(escaped)
    assert [event.attempt for event in told(folder, K.ATTEMPT_STARTED)] == [1]
    os.kill(escaped, signal.SIGKILL)
    wait_until(lambda: len(told(folder, K.ATTEMPT_STARTED)) == 2, "the next attempt starts")
    process.kill()
    process.wait()
    wait_until(lambda: held_lock(folder) is None, "all processes are gone")


def test_the_agent_takes_its_ranks_along_when_it_is_told_to_end(
    folder: RunFolder, supervised: subprocess.Popen[bytes]
) -> None:
    pids = rank_pids(folder)
    os.kill(agent_pid(folder), signal.SIGTERM)
    wait_until(lambda: len(rank_pids(folder)) == 4, "the next attempt has ranks")
    assert not [pid for pid in pids if is_alive(pid)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_supervisor_cancels_the_run(
    folder: RunFolder, supervised: subprocess.Popen[bytes], number: int
) -> None:
    supervised.send_signal(number)
    assert supervised.wait() == 3
    assert held_lock(folder) is None
    assert len(told(folder, K.CANCEL_REQUESTED)) == 1
    (ended,) = told(folder, K.RUN_ENDED)
    assert ended.text("outcome") == "cancelled"
    assert {event.number("exit_code") for event in told(folder, K.RANK_EXITED)} == {3.0}


def test_a_second_signal_does_not_wait_for_ranks_that_ignore_the_first(folder: RunFolder) -> None:
    deeds = [{"do": "ignore_requests", "rank": 1, "at_step": "start", "attempt": 1}]
    process = start_supervisor(folder, steps=100_000, deeds=deeds)
    wait_until(lambda: ranks_make_steps(folder), "the ranks make steps")
    process.send_signal(signal.SIGINT)
    wait_until(lambda: bool(told(folder, K.RANK_EXITED)), "the polite rank is gone")
    process.send_signal(signal.SIGINT)
    assert process.wait() == 3
    ends = {
        event.rank: (event.number("exit_code"), event.number("signal"))
        for event in told(folder, K.RANK_EXITED)
    }
    assert ends == {0: (3.0, 0.0), 1: (0.0, 9.0)}


def test_a_cancelled_run_goes_on_with_the_next_attempt_number(folder: RunFolder) -> None:
    process = start_supervisor(folder, steps=100_000, commit_when_asked=True)
    wait_until(lambda: ranks_make_steps(folder), "the ranks make steps")
    process.send_signal(signal.SIGINT)
    assert process.wait() == 3
    commits = told(folder, K.CHECKPOINT_COMMITTED)
    last = int(commits[-1].number("step"))
    errands = FakeErrands(folder, steps=last + 3, recorded=commits)
    assert supervise(errands).outcome is Phase.FINISHED
    started = told(folder, K.ATTEMPT_STARTED)
    assert [(event.attempt, event.number("resume_step")) for event in started] == [(1, 0.0), (2, float(last))]


def test_no_other_process_takes_a_key_socket_out_of_the_agents_hands() -> None:
    """The agent cannot be looked into when it tells that the probe is done; keys are served after that."""
    program = """
import socket, sys
from stoker.fleet import agent
from stoker.fleet.agent_plan import decode_plan
from stoker.keys.memory import memory_protection
plan = decode_plan(sys.argv[1].encode())
class Watching(agent.Agent):
    def _tell(self, kind, **fields):
        print(kind.value, memory_protection().undumpable)
Watching(socket.socketpair()[0], plan, None, None)._probe_isolation()
"""
    done = subprocess.run(
        [sys.executable, "-c", program, encode_plan(small_plan()).decode()],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "isolation_probed True\n"
