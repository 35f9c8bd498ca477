"""Worker processes: results in order, a lost worker is an error, and none outlives its parent."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stoker.intake.errors import WorkerLost
from stoker.intake.workers import Workers, batches


def start_doubling(factor: int) -> Callable[[int], int]:
    return lambda value: value * factor


def start_failing(_: object) -> Callable[[int], int]:
    return lambda value: 1 // value


def start_dying(_: object) -> Callable[[int], int]:
    def die(value: int) -> int:
        os.kill(os.getpid(), signal.SIGKILL)
        return value

    return die


def start_echo(_: object) -> Callable[[bytes], bytes]:
    return lambda value: value


def start_telling_signals(_: object) -> Callable[[int], tuple[bool, bool]]:
    def tell(_: int) -> tuple[bool, bool]:
        blocked = signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())
        return blocked, signal.getsignal(signal.SIGINT) is signal.SIG_IGN

    return tell


def test_ctrl_c_is_held_back_from_workers_from_their_first_moment_and_not_from_the_parent() -> None:
    with Workers(2, start_telling_signals, None) as workers:
        assert list(workers.map([1, 2])) == [(True, True)] * 2
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def start_waiting_for(file: Path) -> Callable[[int], int]:
    def wait_first(value: int) -> int:
        while value == 0 and not file.exists():
            time.sleep(0.01)
        return value

    return wait_first


def test_results_as_they_are_done_do_not_wait_for_a_slow_one_before_them(tmp_path: Path) -> None:
    with Workers(2, start_waiting_for, tmp_path / "go") as workers:
        results = workers.as_done([0, 1, 2, 3])
        assert [next(results) for _ in range(3)] == [(1, 1), (2, 2), (3, 3)]
        (tmp_path / "go").touch()
        assert list(results) == [(0, 0)]


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_results_come_in_the_order_of_the_tasks(processes: int) -> None:
    with Workers(processes, start_doubling, 3) as workers:
        assert list(workers.map(range(50))) == [3 * value for value in range(50)]
        assert list(workers.map([])) == []
        assert list(workers.map([7])) == [21]
    assert multiprocessing.active_children() == []


def test_large_tasks_and_results_do_not_block_each_other() -> None:
    tasks = [bytes([value]) * (3 << 20) for value in range(6)]
    with Workers(2, start_echo, None) as workers:
        assert list(workers.map(tasks)) == tasks


def test_a_function_that_fails_names_the_error_without_its_text() -> None:
    with Workers(2, start_failing, None) as workers, pytest.raises(WorkerLost, match="ZeroDivisionError"):
        list(workers.map([1, 0, 1]))


def test_a_worker_that_is_killed_is_an_error_that_says_how() -> None:
    with Workers(2, start_dying, None) as workers, pytest.raises(WorkerLost, match="signal 9"):
        list(workers.map([1, 2, 3]))
    assert multiprocessing.active_children() == []


def test_no_worker_outlives_a_parent_that_was_killed(tmp_path: Path) -> None:
    told = tmp_path / "pids"
    parent = os.fork()
    if parent == 0:
        workers = Workers(2, start_doubling, 1)
        list(workers.map([1, 2]))
        told.write_text(" ".join(str(process.pid) for process in multiprocessing.active_children()))
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(parent, 0)
    pids = [int(pid) for pid in told.read_text().split()]
    assert len(pids) == 2
    for _ in range(500):
        if not any(is_running(pid) for pid in pids):
            break
        time.sleep(0.02)
    assert [pid for pid in pids if is_running(pid)] == []


def is_running(pid: int) -> bool:
    """Not counting a process that has ended and waits for whoever adopted it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_batches_keep_the_order_and_hold_what_fits() -> None:
    def sizes() -> Iterator[int]:
        yield from [5, 5, 5, 20, 1, 1]

    assert list(batches(sizes(), lambda size: size, 10)) == [[5, 5], [5], [20], [1, 1]]
    assert list(batches([], lambda size: size, 10)) == []
