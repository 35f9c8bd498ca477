"""Two or more processes for work on bytes, without store or ledger. See docs/design/intake.md, "Workers".

Workers are forked and speak over socket pairs only: nothing they see touches the disk. A worker ends when
its pair closes, so none outlives a parent that was killed.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import resource
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Generic, TypeVar

from stoker.core.isolation import Isolation, IsolationState, listening_outside
from stoker.intake.closed import NotClosed, Watch, close_off, is_closed
from stoker.intake.errors import WorkerLost

T = TypeVar("T")
R = TypeVar("R")

FORK: Final = multiprocessing.get_context("fork")
_DONE: Final = "done"
_FAILED: Final = "failed"
_OPEN: Final = "open"


class Workers(Generic[T, R]):
    """Processes that each apply one function to the tasks they are given, one at a time.

    `start` runs once in each worker and makes the function from `settings`. Close, or use as a context.
    """

    def __init__(self, processes: int, start: Callable[[Any], Callable[[T], R]], settings: object) -> None:
        """Raises WorkerLost where the workers' network must be closed and cannot be."""
        self._pairs: list[tuple[ForkProcess, Connection]] = []
        self._outside = contextlib.ExitStack()
        self.isolation = Isolation(IsolationState.OPEN, "no worker has told")
        """What holds for the workers: they are closed off before they are given anything."""
        try:
            # A process without a network has none to listen in either; what else is tried suffices then.
            outside = None if is_closed() else self._outside.enter_context(listening_outside())
            self._watch = Watch(outside)
            for _ in range(max(1, processes)):
                with ctrl_c_waits():
                    self._start(start, settings)
        except BaseException:
            self.close()
            raise

    def _start(self, start: Callable[[Any], Callable[[T], R]], settings: object) -> None:
        ours, theirs = FORK.Pipe()
        others = [pair[1] for pair in self._pairs]
        arguments = (theirs, [ours, *others], start, settings, self._watch)
        process = FORK.Process(target=_serve, args=arguments, daemon=True)
        process.start()
        theirs.close()
        self._pairs.append((process, ours))
        self.isolation = self._receive(ours)

    def map(self, tasks: Iterable[T]) -> Iterator[R]:
        """The function's results in the order of `tasks`; tasks are drawn as workers become free.

        Raises WorkerLost when a worker dies or its function fails.
        """
        waiting: dict[int, R] = {}
        following = 0
        for number, result in self.as_done(tasks):
            waiting[number] = result
            while following in waiting:
                yield waiting.pop(following)
                following += 1

    def as_done(self, tasks: Iterable[T]) -> Iterator[tuple[int, R]]:
        """The number of each task, from 0, with its result, as soon as there is one; otherwise as `map`.

        A worker has its next task before a result is handed on, so workers go on while the caller uses it.
        """
        source = iter(enumerate(tasks))
        idle = [connection for _, connection in self._pairs]
        working: dict[Connection, int] = {}
        made: deque[tuple[int, R]] = deque()
        exhausted = False
        while True:
            while idle and not exhausted:
                task = next(source, None)
                if task is None:
                    exhausted = True
                    break
                connection = idle.pop()
                self._send(connection, task[1])
                working[connection] = task[0]
            if made:
                yield made.popleft()
                continue
            if not working:
                return
            for ready in wait(list(working)):
                assert isinstance(ready, Connection)
                made.append((working.pop(ready), self._receive(ready)))
                idle.append(ready)

    def _send(self, connection: Connection, task: T) -> None:
        try:
            connection.send(task)
        except OSError as error:
            raise self._lost(connection) from error

    def _receive(self, connection: Connection) -> Any:
        try:
            outcome, value = connection.recv()
        except (EOFError, OSError) as error:
            raise self._lost(connection) from error
        if outcome == _OPEN:
            raise WorkerLost(
                f"A worker process has a network and must have none: {value}.",
                hint="Allow user namespaces on this machine or run as root; what is required stands in "
                "[preparing] of stoker.toml.",
            )
        if outcome == _FAILED:
            raise WorkerLost(f"A worker process failed: {value}.", hint="Report this with the command's log.")
        return value

    def _lost(self, connection: Connection) -> WorkerLost:
        process = next(process for process, ours in self._pairs if ours is connection)
        process.join(1.0)
        code = process.exitcode
        how = f"was ended by signal {-code}" if code is not None and code < 0 else f"exited with code {code}"
        return WorkerLost(
            f"Worker process {process.pid} {how}.",
            hint="Often the machine was short of memory. Run it again.",
        )

    def close(self) -> None:
        """End the workers."""
        for process, connection in self._pairs:
            connection.close()
            process.terminate()
        for process, _ in self._pairs:
            process.join()
        self._pairs = []
        self._outside.close()

    def __enter__(self) -> Workers[T, R]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@contextlib.contextmanager
def ctrl_c_waits() -> Iterator[None]:
    """Ctrl-C reaches this process after the block, and a process that is forked in it never."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(
    connection: Connection,
    not_ours: list[Connection],
    start: Callable[[Any], Callable[[T], R]],
    settings: object,
    watch: Watch,
) -> None:
    """A worker's whole life. Ctrl-C reaches the parent alone, which then closes the pair."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for other in not_ours:
        other.close()
    try:
        connection.send((_DONE, close_off(settings)))
        function = start(settings)
        while True:
            task = connection.recv()
            answer: tuple[str, object]
            watch.look()
            try:
                answer = (_DONE, function(task))
            except Exception as error:  # noqa: BLE001 - the top of a process
                # The text of the error may be personal, so only its type goes on.
                answer = (_FAILED, type(error).__name__)
            connection.send(answer)
    except NotClosed as way:
        with contextlib.suppress(OSError):
            connection.send((_OPEN, str(way)))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


def confine(memory_bytes: int) -> None:
    """Bound what this process, a worker, may still do: so much more memory, no file written, no core file.

    Memory counts as address space, beyond what the process holds at this moment.
    """
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    wanted = held + memory_bytes
    if most != resource.RLIM_INFINITY:
        wanted = min(wanted, most)
    resource.setrlimit(resource.RLIMIT_AS, (wanted, wanted))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def batches(items: Iterable[T], size_of: Callable[[T], int], batch_bytes: int) -> Iterator[list[T]]:
    """`items` in order, in lists of at least one and, where they are small, about `batch_bytes`."""
    batch: list[T] = []
    total = 0
    for item in items:
        if batch and total + size_of(item) > batch_bytes:
            yield batch
            batch, total = [], 0
        batch.append(item)
        total += size_of(item)
    if batch:
        yield batch
