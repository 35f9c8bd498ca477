"""Work on documents in processes that may be killed: what crashes or hangs costs one document, not the scan.

A worker has bounded memory and, for each task, bounded time. A task whose worker died, failed or was too slow
comes back as `Lost`; the caller must hold its document back, for nothing is known about it. Workers are
forked with os.fork, so a worker of `workers` may have such workers too.
See docs/design/measured.md, "What a recogniser cannot take".
"""

from __future__ import annotations

import contextlib
import enum
import faulthandler
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe, wait
from types import TracebackType
from typing import Any, Final, Generic, TypeVar

from stoker.intake.closed import NotClosed, close_off
from stoker.intake.errors import WorkerLost
from stoker.intake.workers import confine, ctrl_c_waits

T = TypeVar("T")
R = TypeVar("R")

START_S: Final = 180.0
"""How long a worker may take to make itself ready, which may load a model."""

MEMORY_BYTES: Final = 4 << 30
"""How much more than at its birth a worker may hold, unless its maker says otherwise."""

_READY: Final = "ready"
_DONE: Final = "done"


class Why(enum.StrEnum):
    """Why nothing is known about a document."""

    DIED = "died"
    TIMED_OUT = "timed_out"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Lost:
    """A task without a result."""

    why: Why


@dataclass(slots=True)
class _Child:
    pid: int
    pipe: Connection


class Bounded(Generic[T, R]):
    """Processes that each apply one function to the tasks they are given, one at a time, within `limit_s`.

    `start` runs once in each and makes the function from `settings`. Close, or use as a context.
    """

    def __init__(
        self,
        processes: int,
        start: Callable[[Any], Callable[[T], R]],
        settings: object,
        *,
        limit_s: Callable[[T], float],
        memory_bytes: int = MEMORY_BYTES,
    ) -> None:
        self._processes = max(1, processes)
        self._start = start
        self._settings = settings
        self._limit_s = limit_s
        self._memory_bytes = memory_bytes
        self._idle: list[_Child] = []
        self._busy: dict[Connection, _Child] = {}

    def as_done(self, tasks: Iterable[T]) -> Iterator[tuple[T, R | Lost]]:
        """Each task with its result, as soon as there is one. Raises WorkerLost when none can start."""
        source = iter(tasks)
        working: dict[Connection, tuple[T, float]] = {}
        exhausted = False
        while True:
            while not exhausted and len(working) < self._processes:
                try:
                    task = next(source)
                except StopIteration:
                    exhausted = True
                    break
                working[self._give(task).pipe] = (task, time.monotonic() + self._limit_s(task))
            if not working:
                return
            soonest = min(deadline for _, deadline in working.values())
            ready = wait(list(working), max(0.0, soonest - time.monotonic()))
            finished: deque[tuple[T, R | Lost]] = deque()
            for pipe in ready:
                assert isinstance(pipe, Connection)
                task, _ = working.pop(pipe)
                finished.append((task, self._take(self._busy.pop(pipe))))
            now = time.monotonic()
            for pipe in [pipe for pipe, (_, deadline) in working.items() if deadline <= now]:
                task, _ = working.pop(pipe)
                _end(self._busy.pop(pipe))
                finished.append((task, Lost(Why.TIMED_OUT)))
            yield from finished

    def call(self, task: T) -> R | Lost:
        """The result of one task."""
        (result,) = (result for _, result in self.as_done([task]))
        return result

    def _give(self, task: T) -> _Child:
        """Hand the task to a worker that lives. One that died between two tasks is replaced, once."""
        for _ in range(2):
            child = self._idle.pop() if self._idle else self._born()
            try:
                child.pipe.send(task)
            except OSError:
                _end(child)
                continue
            self._busy[child.pipe] = child
            return child
        raise WorkerLost(
            "Worker processes die before they take a task.", hint="Is the machine short of memory?"
        )

    def _take(self, child: _Child) -> R | Lost:
        try:
            outcome, value = child.pipe.recv()
        except (EOFError, OSError):
            _end(child)
            return Lost(Why.DIED)
        self._idle.append(child)
        if outcome != _DONE:
            return Lost(Why.FAILED)
        result: R = value
        return result

    def _born(self) -> _Child:
        ours, theirs = Pipe()
        others = [child.pipe for child in (*self._idle, *self._busy.values())]
        with ctrl_c_waits():
            pid = os.fork()
            if pid == 0:
                _serve(theirs, [ours, *others], self._start, self._settings, self._memory_bytes)
        theirs.close()
        child = _Child(pid, ours)
        try:
            if not ours.poll(START_S) or ours.recv()[0] != _READY:
                raise EOFError
        except (EOFError, OSError) as error:
            _end(child)
            raise WorkerLost(
                "A worker process could not make itself ready.",
                hint="Often the machine was short of memory. Run it again.",
            ) from error
        return child

    def close(self) -> None:
        """End the workers."""
        for child in (*self._idle, *self._busy.values()):
            _end(child)
        self._idle, self._busy = [], {}

    def __enter__(self) -> Bounded[T, R]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _end(child: _Child) -> None:
    child.pipe.close()
    with contextlib.suppress(ProcessLookupError):
        os.kill(child.pid, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(child.pid, 0)


def _serve(
    pipe: Connection,
    not_ours: list[Connection],
    start: Callable[[Any], Callable[[T], R]],
    settings: object,
    memory_bytes: int,
) -> None:
    """A worker's whole life; it never returns. Its answers name no content, not even an error's text."""
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        faulthandler.disable()
        for other in not_ours:
            other.close()
        close_off(settings)
        function = start(settings)
        confine(memory_bytes)
        pipe.send((_READY, None))
        while True:
            task = pipe.recv()
            answer: tuple[str, object]
            try:
                answer = (_DONE, function(task))
            except Exception as error:  # noqa: BLE001 - the top of a process
                answer = (Why.FAILED.value, type(error).__name__)
            pipe.send(answer)
    except (EOFError, OSError, NotClosed):
        pass
    finally:
        os._exit(0)
