"""Workers that decode and may be killed: files in, arrays out. See docs/design/feed.md, "Decoding".

Each worker has a desk: memory that it shares with this process and with nobody else, without a name and
without a file, made before the fork. Files are put on the desk, arrays are taken from it, and it is wiped
after each task. What a worker leaves on its desk is checked like any input.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import select
import signal
import socket
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, NoReturn

import numpy as np
import numpy.typing as npt

from stoker.core.clock import Clock, SystemClock
from stoker.feed.decode_worker import (
    ANSWER,
    DONE,
    FAULTS,
    FORK,
    ITEM,
    MAX_ITEMS,
    NUMBER,
    ORDER,
    REAP,
    RESULT,
    TASK,
    UNDER_WAY,
    DeskPlan,
    run_nursery,
)
from stoker.feed.errors import DecodersLost, FeedStopped
from stoker.feed.media import Decoder
from stoker.feed.record_batch import Fault

_DESK_ARRAYS_BYTES: Final = 1 << 23
"""About how much a task's arrays may take together."""
_TRIES: Final = 2
"""How many workers a file may cost before it is given up: one that was killed may not have been its fault."""
_MOST_IDLE_ENDS: Final = 8
"""How many workers may end in one call before they have begun anything: then it is not the files' fault."""
_END_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class DecodeJob:
    """One file for the decoder `decoder`; `into` takes its result, uint8 [its `out_bytes`]."""

    decoder: int
    data: memoryview
    into: npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Decoded:
    """What came of a job: how many values are meant; or a fault, and `into` is zeros."""

    length: int
    fault: Fault | None = None


@dataclass(slots=True)
class _Worker:
    """One desk and the process that sits at it now."""

    place: int
    desk: memoryview
    connection: socket.socket | None = None
    pid: int = 0
    jobs: list[int] = field(default_factory=list)
    used_bytes: int = 0
    done: int = 0
    since_s: float = 0.0


class DecodePool:
    """`processes` workers; `run` may be called from any thread, one call at a time. Close it, or leave it."""

    def __init__(
        self,
        decoders: Sequence[Decoder],
        *,
        processes: int,
        max_encoded_bytes: int,
        memory_bytes: int,
        time_limit_s: float,
        clock: Clock | None = None,
    ) -> None:
        """Forks the nursery now: make the pool before keys are opened. Raises DecodersLost."""
        self._decoders = tuple(decoders)
        self._max_encoded_bytes = max_encoded_bytes
        self._time_limit_s = time_limit_s
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._number = 0
        self._owner = os.getpid()
        out = max(decoder.out_bytes for decoder in self._decoders)
        self._plan = DeskPlan(max_encoded_bytes, out, max(1, min(MAX_ITEMS, _DESK_ARRAYS_BYTES // out)))
        desks = [mmap.mmap(-1, self._plan.size) for _ in range(processes)]
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.settimeout(None)
        nursery = os.fork()
        if nursery == 0:
            run_nursery(theirs, desks, self._plan, self._decoders, memory_bytes)
        theirs.close()
        self._workers = [_Worker(place, memoryview(desk)) for place, desk in enumerate(desks)]
        self._end = weakref.finalize(self, _end_processes, self._owner, nursery, self._control, self._workers)

    @property
    def pids(self) -> tuple[int, ...]:
        """The process ids of the workers that live now."""
        return tuple(worker.pid for worker in self._workers if worker.connection is not None)

    def run(self, jobs: Sequence[DecodeJob]) -> list[Decoded]:
        """Decode all jobs, each into its `into`. What cannot be decoded is a fault, never an exception.

        Raises DecodersLost when workers cannot be had, FeedStopped after `close`.
        """
        with self._lock:
            if not self._end.alive:
                raise FeedStopped("The decoders are closed.", hint="Keep them open as long as their feed.")
            if os.getpid() != self._owner:
                raise DecodersLost(
                    "Decoding workers belong to the process that made them, and this is another one.",
                    hint="Make the decoded dataset in the process that feeds it.",
                )
            round_ = _Round(jobs)
            try:
                for number, job in enumerate(jobs):
                    if not 0 < len(job.data) <= self._max_encoded_bytes:
                        fault = Fault.TOO_LARGE if len(job.data) else Fault.UNDECODABLE
                        self._give_up(round_, number, fault)
                    else:
                        round_.waiting.append(number)
                while round_.left:
                    self._hand_out(round_)
                    self._take_in(round_)
            except BaseException:
                for worker in self._workers:
                    if worker.jobs:
                        self._bury(worker)
                raise
            return [round_.outcomes[number] for number in range(len(jobs))]

    def close(self) -> None:
        """End all workers and wipe their desks. May be called again."""
        with self._lock:
            self._end()

    def __enter__(self) -> DecodePool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _hand_out(self, round_: _Round) -> None:
        """Give every idle worker a task: a few files, fewer towards the end so that all end together."""
        for worker in self._workers:
            if worker.jobs or not round_.waiting:
                continue
            if worker.connection is None:
                self._seat(worker)
            share = -(-len(round_.waiting) // (2 * len(self._workers)))
            jobs: list[int] = []
            items = []
            begin = 0
            while round_.waiting and len(jobs) < min(share, self._plan.slots):
                data = round_.jobs[round_.waiting[0]].data
                if begin + len(data) > self._plan.input_bytes:
                    break
                worker.desk[begin : begin + len(data)] = data
                items.append(ITEM.pack(round_.jobs[round_.waiting[0]].decoder, begin, len(data)))
                begin += len(data)
                jobs.append(round_.waiting.popleft())
            worker.jobs, worker.used_bytes = jobs, begin
            worker.done, worker.since_s = 0, self._clock.monotonic_s()
            self._number = (self._number + 1) % (1 << 32)
            round_.numbers[worker.place] = self._number
            message = TASK.pack(self._number, len(jobs)) + b"".join(items)
            with contextlib.suppress(OSError):  # a worker that is gone is noticed when its answer is read
                assert worker.connection is not None
                worker.connection.send(message)

    def _take_in(self, round_: _Round) -> None:
        """Wait for an answer, a death, or a limit."""
        busy = {worker.connection: worker for worker in self._workers if worker.jobs}
        if not busy:
            return
        now_s = self._clock.monotonic_s()
        wait_s = min(worker.since_s + self._time_limit_s for worker in busy.values()) - now_s
        poll = select.poll()
        by_descriptor = {}
        for connection, worker in busy.items():
            assert connection is not None
            poll.register(connection.fileno(), select.POLLIN)
            by_descriptor[connection.fileno()] = worker
        ready = poll.poll(max(0, min(wait_s, 1.0)) * 1000)
        for descriptor, _ in ready:
            self._answer(round_, by_descriptor[descriptor])
        for worker in busy.values():
            if worker.jobs:
                self._watch(round_, worker)

    def _answer(self, round_: _Round, worker: _Worker) -> None:
        assert worker.connection is not None
        try:
            answer = worker.connection.recv(NUMBER.size + 1)
        except OSError:
            answer = b""
        if answer == NUMBER.pack(round_.numbers[worker.place]):
            self._collect(round_, worker, Fault.KILLED)
        else:  # gone, or saying what no worker of ours says
            self._replace(round_, worker, Fault.KILLED)

    def _watch(self, round_: _Round, worker: _Worker) -> None:
        """Kill a worker that has had one file under way for too long."""
        now_s = self._clock.monotonic_s()
        if now_s - worker.since_s < self._time_limit_s:
            return
        done = sum(self._result(worker, slot)[0] == DONE for slot in range(len(worker.jobs)))
        if done > worker.done:
            worker.done, worker.since_s = done, now_s
        else:
            self._replace(round_, worker, Fault.TOO_SLOW)

    def _replace(self, round_: _Round, worker: _Worker, fault: Fault) -> None:
        """Bury a worker: what it had finished counts, what it was at is a fault, the rest goes to others."""
        self._kill(worker)
        self._collect(round_, worker, fault)

    def _collect(self, round_: _Round, worker: _Worker, unfinished: Fault) -> None:
        """Take the arrays of a task from the desk, and wipe it."""
        jobs, worker.jobs = worker.jobs, []
        stopped, again = False, list[int]()
        for slot, number in enumerate(jobs):
            state, fault, length = self._result(worker, slot)
            job = round_.jobs[number]
            size = self._decoders[job.decoder].out_bytes
            if state == DONE and fault == 0 and 0 <= length <= size:
                begin = self._plan.out(slot)
                job.into[:] = worker.desk[begin : begin + size]
                round_.end(number, Decoded(length))
            elif state == DONE:
                known = FAULTS[fault] if fault < len(FAULTS) else None
                self._give_up(round_, number, known or Fault.UNDECODABLE)
            elif state == UNDER_WAY and not stopped:
                stopped = True
                round_.tries[number] = round_.tries.get(number, 0) + 1
                if unfinished is Fault.TOO_SLOW or round_.tries[number] >= _TRIES:
                    self._give_up(round_, number, unfinished)
                else:
                    again.append(number)
            else:
                again.append(number)
        round_.waiting.extendleft(reversed(again))
        self._wipe(worker, [round_.jobs[number].decoder for number in jobs])
        if len(again) == len(jobs) and not stopped:
            round_.ended_idle += 1
            if round_.ended_idle > _MOST_IDLE_ENDS:
                self._lost(None)

    def _give_up(self, round_: _Round, number: int, fault: Fault) -> None:
        round_.jobs[number].into[:] = 0
        round_.end(number, Decoded(0, fault))

    def _result(self, worker: _Worker, slot: int) -> tuple[int, int, int]:
        state, fault, length = RESULT.unpack_from(worker.desk, self._plan.results + slot * RESULT.size)
        return state, fault, length

    def _wipe(self, worker: _Worker, decoders: Sequence[int]) -> None:
        """Overwrite what a task put on the desk: its files, its results, and its items' arrays."""
        _zero(worker.desk, 0, worker.used_bytes)
        _zero(worker.desk, self._plan.results, self._plan.out(0))
        for slot, decoder in enumerate(decoders):
            begin = self._plan.out(slot)
            _zero(worker.desk, begin, begin + self._decoders[decoder].out_bytes)
        worker.used_bytes = 0

    def _seat(self, worker: _Worker) -> None:
        """A new process at the desk."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(None)
        try:
            socket.send_fds(self._control, [ORDER.pack(FORK, worker.place)], [theirs.fileno()])
            worker.pid = self._nursery_answer()
        except OSError as error:
            ours.close()
            self._lost(error)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        worker.connection = ours

    def _kill(self, worker: _Worker) -> None:
        """End the process at the desk; when this returns it writes nothing any more."""
        connection, worker.connection = worker.connection, None
        if connection is None:
            return
        connection.close()
        with contextlib.suppress(ProcessLookupError):  # only when the nursery is gone
            os.kill(worker.pid, signal.SIGKILL)  # a zombie until the nursery buries it: never another's id
        try:
            self._control.send(ORDER.pack(REAP, worker.pid))
        except OSError as error:
            self._lost(error)
        self._nursery_answer()

    def _bury(self, worker: _Worker) -> None:
        """End a worker in the middle of its task, after an error of this process."""
        with contextlib.suppress(DecodersLost):
            self._kill(worker)
        worker.jobs = []
        _zero(worker.desk, 0, len(worker.desk))

    def _nursery_answer(self) -> int:
        try:
            answer = self._control.recv(ANSWER.size)
        except OSError as error:
            self._lost(error)
        if len(answer) != ANSWER.size:
            self._lost(None)
        number: int = ANSWER.unpack(answer)[0]
        return number

    def _lost(self, error: OSError | None) -> NoReturn:
        raise DecodersLost(
            "Decoding workers end before they have done anything, or cannot be started.",
            hint="Often the machine was short of memory. Make a new feed and load the last saved state.",
        ) from error


@dataclass(slots=True)
class _Round:
    """One call of `run`: which jobs wait, and what came of the others."""

    jobs: Sequence[DecodeJob]
    waiting: deque[int] = field(default_factory=deque)
    outcomes: dict[int, Decoded] = field(default_factory=dict)
    tries: dict[int, int] = field(default_factory=dict)
    numbers: dict[int, int] = field(default_factory=dict)
    ended_idle: int = 0

    @property
    def left(self) -> bool:
        return len(self.outcomes) < len(self.jobs)

    def end(self, number: int, outcome: Decoded) -> None:
        self.outcomes[number] = outcome


def _zero(desk: memoryview, begin: int, end: int) -> None:
    np.frombuffer(desk, dtype=np.uint8)[begin:end] = 0


def _end_processes(owner: int, nursery: int, control: socket.socket, workers: list[_Worker]) -> None:
    """Close every pair, so that workers and nursery end, and wipe the desks."""
    for worker in workers:
        if worker.connection is not None:
            worker.connection.close()
            worker.connection = None
    control.close()
    if os.getpid() != owner:
        return
    for _ in _polls(_END_S):
        if os.waitpid(nursery, os.WNOHANG)[0]:
            break
    else:
        os.kill(nursery, signal.SIGKILL)  # its workers die with it
        os.waitpid(nursery, 0)
    for worker in workers:
        _zero(worker.desk, 0, len(worker.desk))


def _polls(limit_s: float) -> Iterator[None]:
    """Turns, a few milliseconds apart, until the limit."""
    end_s = time.monotonic() + limit_s
    while time.monotonic() < end_s:
        yield
        time.sleep(0.002)
