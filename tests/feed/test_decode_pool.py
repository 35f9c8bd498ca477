"""Workers that hang, die or take too much: what they were at is a fault, and everything else is decoded."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from stoker.feed.decode_pool import Decoded, DecodeJob, DecodePool
from stoker.feed.decode_worker import UNDER_WAY
from stoker.feed.errors import DecodersLost, FeedStopped
from stoker.feed.media import MediaFault
from stoker.feed.record_batch import Fault

OUT_BYTES = 4096
SINCE = ["before"]


class OrderedDecoder:
    """Does what the file says; otherwise copies it behind its length, twice."""

    out_bytes = OUT_BYTES

    def decode(self, data: bytes, out: memoryview) -> int:
        word = data.split(b" ")[0]
        if word == b"hang":
            while True:
                time.sleep(1)
        if word == b"die":
            os.kill(os.getpid(), signal.SIGKILL)
        if word == b"die-once" and not Path(data.split(b" ")[1].decode()).exists():
            time.sleep(600)  # until the test kills it
        if word == b"exit":
            os._exit(3)
        if word == b"eat":
            hoard = [np.ones(1 << 20) for _ in range(1 << 12)]
            return len(hoard)
        if word == b"large":
            raise MediaFault(Fault.TOO_LARGE)
        if word == b"wrong":
            raise ZeroDivisionError(data)
        if word == b"lie":
            return 1 << 40
        if word == b"files":
            return len(list(Path("/proc/self/fd").iterdir()))
        if word == b"since":
            return len(SINCE)
        if word == b"write":
            Path(data.split(b" ")[1].decode()).write_bytes(b"plain")
        out[: 2 * len(data)] = data + data
        return len(data)


def _pool(processes: int = 2, time_limit_s: float = 60.0) -> DecodePool:
    return DecodePool(
        [OrderedDecoder()],
        processes=processes,
        max_encoded_bytes=1000,
        memory_bytes=1 << 27,
        time_limit_s=time_limit_s,
    )


@pytest.fixture
def pool() -> Iterator[DecodePool]:
    with _pool() as opened:
        yield opened


def _run(pool: DecodePool, files: Sequence[bytes]) -> tuple[list[Decoded], np.ndarray]:
    into = np.full((len(files), OUT_BYTES), 7, dtype=np.uint8)
    jobs = [DecodeJob(0, memoryview(data), row) for data, row in zip(files, into, strict=True)]
    return pool.run(jobs), into


def _check(files: Sequence[bytes], outcomes: list[Decoded], into: np.ndarray) -> None:
    """Each file is decoded into its own row, or its row is blank and it says why."""
    for data, outcome, row in zip(files, outcomes, into, strict=True):
        expected = (data + data).ljust(OUT_BYTES, b"\0") if outcome.fault is None else bytes(OUT_BYTES)
        assert row.tobytes() == expected


def test_every_file_comes_back_in_its_own_row(pool: DecodePool) -> None:
    for count in (0, 1, 2, 3, 50, 200):
        files = [f"file {number}".encode() for number in range(count)]
        outcomes, into = _run(pool, files)
        assert outcomes == [Decoded(len(data)) for data in files]
        _check(files, outcomes, into)
    assert len(pool.pids) == 2


@pytest.mark.parametrize(
    ("word", "fault"),
    [
        (b"die", Fault.KILLED),
        (b"exit", Fault.KILLED),
        (b"eat", Fault.MEMORY),
        (b"large", Fault.TOO_LARGE),
        (b"wrong", Fault.UNDECODABLE),
        (b"lie", Fault.UNDECODABLE),
        (b"", Fault.UNDECODABLE),
        (b"x" * 1001, Fault.TOO_LARGE),
    ],
)
def test_what_a_file_does_to_its_worker_is_its_own_fault_alone(
    pool: DecodePool, word: bytes, fault: Fault
) -> None:
    files = [word if number % 13 == 5 else f"file {number}".encode() for number in range(40)]
    outcomes, into = _run(pool, files)
    assert [outcome.fault for outcome in outcomes] == [
        fault if number % 13 == 5 else None for number in range(40)
    ]
    _check(files, outcomes, into)


def test_a_worker_that_hangs_is_killed_and_replaced() -> None:
    with _pool(time_limit_s=3.0) as pool:
        _run(pool, [b"one", b"two"])
        before = set(pool.pids)
        files = [b"hang" if number == 3 else f"file {number}".encode() for number in range(12)]
        outcomes, into = _run(pool, files)
        assert [outcome.fault for outcome in outcomes] == [
            Fault.TOO_SLOW if number == 3 else None for number in range(12)
        ]
        _check(files, outcomes, into)
        _run(pool, [b"three", b"four"])
        gone = before - set(pool.pids)
        assert len(gone) == 1
        assert not Path(f"/proc/{gone.pop()}").exists()


def test_a_worker_that_was_stopped_before_it_began_costs_no_record() -> None:
    with _pool(time_limit_s=3.0) as pool:
        _run(pool, [b"one", b"two"])
        os.kill(pool.pids[0], signal.SIGSTOP)
        files = [f"file {number}".encode() for number in range(12)]
        outcomes, into = _run(pool, files)
        assert [outcome.fault for outcome in outcomes] == [None] * 12
        _check(files, outcomes, into)


def test_a_worker_that_is_killed_in_the_middle_costs_no_record(tmp_path: Path) -> None:
    """kill -9 from outside, while it decodes: another worker decodes the file again."""
    with _pool() as pool:
        _run(pool, [b"one", b"two"])
        there = tmp_path / "there"
        files = [f"die-once {there} {number}".encode() for number in range(2)]
        found: list[tuple[list[Decoded], np.ndarray]] = []
        running = threading.Thread(target=lambda: found.append(_run(pool, files)))
        victims = pool.pids
        running.start()
        while not all(pool._result(worker, 0)[0] == UNDER_WAY for worker in pool._workers):
            time.sleep(0.01)
        there.touch()
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        running.join()
        outcomes, into = found[0]
        assert [outcome.fault for outcome in outcomes] == [None, None]
        _check(files, outcomes, into)
        assert not set(victims) & set(pool.pids)


def test_workers_killed_while_they_are_idle_are_replaced(pool: DecodePool) -> None:
    _run(pool, [b"one", b"two"])
    for pid in pool.pids:
        os.kill(pid, signal.SIGKILL)
    files = [f"file {number}".encode() for number in range(12)]
    outcomes, into = _run(pool, files)
    assert [outcome.fault for outcome in outcomes] == [None] * 12
    _check(files, outcomes, into)


def test_without_the_nursery_the_loss_is_told_and_not_taken_for_a_bad_file(pool: DecodePool) -> None:
    _run(pool, [b"one"])
    status = Path(f"/proc/{pool.pids[0]}/status").read_text()
    nursery = int(status.split("PPid:")[1].split()[0])
    pids = pool.pids
    os.kill(nursery, signal.SIGKILL)
    assert _gone(pids)
    with pytest.raises(DecodersLost, match="Decoding workers end"):
        for _ in range(100):
            _run(pool, [b"die", b"two"])


def test_nothing_is_left_on_a_desk(pool: DecodePool) -> None:
    files = [b"secret text", b"die", b"wrong", b"eat", *[b"more of it"] * 30]
    outcomes, into = _run(pool, files)
    assert into[0].tobytes().startswith(b"secret textsecret text")
    assert all(not np.frombuffer(worker.desk, dtype=np.uint8).any() for worker in pool._workers)
    assert outcomes[0].fault is None


def test_a_worker_holds_no_file_but_its_socket_and_writes_none(pool: DecodePool, tmp_path: Path) -> None:
    with (tmp_path / "open").open("wb"):
        outcomes, _ = _run(pool, [b"files"])
        # Three to /dev/null, the pair, and the folder that is being listed.
        assert outcomes[0].length == 5
    outcomes, _ = _run(pool, [f"write {tmp_path}/plain".encode()])
    assert outcomes[0].fault is Fault.UNDECODABLE
    assert (tmp_path / "plain").read_bytes() == b""


def test_a_new_worker_knows_nothing_that_came_after_the_pool(pool: DecodePool) -> None:
    SINCE.append("after")
    try:
        assert _run(pool, [b"since"])[0] == [Decoded(1)]
        for pid in pool.pids:
            os.kill(pid, signal.SIGKILL)
        assert _run(pool, [b"since"])[0] == [Decoded(1)]
    finally:
        SINCE.pop()


def test_desks_have_no_name_in_the_file_system(pool: DecodePool) -> None:
    """What the kernel calls memory that is shared and anonymous; a file would have its own name."""
    _run(pool, [b"one", b"two"])
    maps = [line.split(maxsplit=5) for line in Path("/proc/self/maps").read_text().splitlines()]
    for worker in pool._workers:
        place = np.frombuffer(worker.desk, dtype=np.uint8).ctypes.data
        names = [
            line[5]
            for line in maps
            if int(line[0].split("-")[0], 16) <= place < int(line[0].split("-")[1], 16)
        ]
        assert names == ["/dev/zero (deleted)"]


def test_another_process_than_the_one_that_made_the_pool_is_refused(pool: DecodePool) -> None:
    _run(pool, [b"one", b"two"])
    child = os.fork()
    if child == 0:
        try:
            _run(pool, [b"three"])
        except DecodersLost as error:
            os._exit(7 if "another one" in error.message else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert _run(pool, [b"four"])[0] == [Decoded(4)]


def test_closing_ends_every_process_and_wipes_the_desks() -> None:
    pool = _pool()
    _run(pool, [b"one", b"two"])
    pids = pool.pids
    pool.close()
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert all(not np.frombuffer(worker.desk, dtype=np.uint8).any() for worker in pool._workers)
    with pytest.raises(FeedStopped, match="closed"):
        _run(pool, [b"one"])
    pool.close()


def test_a_pool_that_nobody_closes_ends_its_processes() -> None:
    pool = _pool()
    _run(pool, [b"one", b"two"])
    pids = pool.pids
    del pool
    gc.collect()
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_workers_end_when_their_parent_is_killed() -> None:
    program = """
        import sys, threading, time
        from test_decode_pool import _pool, _run
        pool = _pool()
        _run(pool, [b"one", b"two"])
        threading.Thread(target=_run, args=(pool, [b"hang", b"hang"]), daemon=True).start()
        time.sleep(0.2)
        print(*pool.pids, flush=True)
        time.sleep(600)
    """
    path = [str(Path(__file__).parent), *sys.path]
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)],
        env={"PYTHONPATH": ":".join(path)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 2
    assert all(Path(f"/proc/{pid}").exists() for pid in pids)
    parent.kill()
    parent.communicate()
    assert _gone(pids)


def _gone(pids: Sequence[int]) -> bool:
    """Whether all of them end within a minute."""
    return any(not any(_lives(pid) for pid in pids) for _ in _turns(6000))


def _turns(count: int) -> Iterator[None]:
    for _ in range(count):
        yield
        time.sleep(0.01)


def _lives(pid: int) -> bool:
    """Whether it runs; one that has ended and that nobody has buried yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
