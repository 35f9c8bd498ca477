"""Workers that may be killed: a task that crashes, hangs, fails or eats memory is lost, and only that one."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from stoker.intake.bounded import Bounded, Lost, Why
from stoker.intake.errors import WorkerLost


def start(_: object) -> Callable[[str], str]:
    def work(task: str) -> str:
        if task == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if task == "hang":
            time.sleep(600)
        if task == "fail":
            raise ValueError("a personal text")
        if task == "memory":
            return str(len(bytearray(8 << 30)))
        return task.upper()

    return work


def limit_s(task: str) -> float:
    return 0.3 if task == "hang" else 120.0


@pytest.mark.parametrize("processes", [1, 3])
def test_what_cannot_be_worked_on_is_lost_and_the_rest_is_done(processes: int) -> None:
    tasks = ["a", "crash", "b", "hang", "c", "fail", "d", "memory", "e"]
    with Bounded(processes, start, None, limit_s=limit_s) as workers:
        results = dict(workers.as_done(tasks))
    assert {task: result for task, result in results.items() if isinstance(result, str)} == {
        task: task.upper() for task in "abcde"
    }
    assert results["crash"] == Lost(Why.DIED)
    assert results["hang"] == Lost(Why.TIMED_OUT)
    assert results["fail"] == results["memory"] == Lost(Why.FAILED)


def test_a_worker_that_died_between_two_tasks_is_replaced() -> None:
    with Bounded(1, lambda _: lambda __: os.getpid(), None, limit_s=lambda _: 120.0) as workers:
        first = workers.call("one")
        assert isinstance(first, int)
        os.kill(first, signal.SIGKILL)
        for _ in range(3):  # the pipe may still take a task for the dead; that one is lost
            again = workers.call("two")
        assert isinstance(again, int)
        assert again != first


def test_no_worker_outlives_the_pool() -> None:
    with Bounded(2, lambda _: lambda __: os.getpid(), None, limit_s=lambda _: 120.0) as workers:
        pid = workers.call("one")
    assert not Path(f"/proc/{pid}").exists()


def test_workers_that_cannot_start_are_an_error() -> None:
    def never(_: object) -> Callable[[str], str]:
        raise ValueError("no model here")

    with (
        Bounded(1, never, None, limit_s=limit_s) as workers,
        pytest.raises(WorkerLost, match="could not make itself ready"),
    ):
        workers.call("a")
