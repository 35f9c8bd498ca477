"""A thread that reads the next batches while the step computes. See docs/design/feed.md, "Reading ahead"."""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeAlias

from stoker.core.errors import StokerError
from stoker.feed.lease import LEASE_OVER
from stoker.feed.shard_prefetch import ShardPrefetch
from stoker.feed.source import BatchSource, RunSource

Run: TypeAlias = "tuple[list[Any], BaseException | None]"
"""The batches of some steps, and what kept the next from being read."""


class ReadAhead:
    """Batches of ascending steps, read in runs; up to `depth` batches are ready before they are asked for.

    A source of runs says itself how far it reads ahead. An error of the thread is kept with the batch it
    belongs to, and raised when that batch is taken.
    """

    def __init__(self, batches: BatchSource[Any], depth: int, prefetch: ShardPrefetch | None = None) -> None:
        self._batches = batches
        self._prefetch = prefetch
        self._run_steps, self._runs = 1, depth
        if isinstance(batches, RunSource):
            self._run_steps, self._runs = batches.run_steps, batches.runs_ahead
        self._thread: ThreadPoolExecutor | None = None
        self._next_step = 0
        self._reading: deque[Future[Run]] = deque()
        self._error: BaseException | None = None
        self.ready: deque[Any] = deque()
        """The batches behind the one taken last that wait for nothing; whoever likes may take the first."""

    def take(self, step: int) -> Any:
        """The batch of `step`, which is the one behind the batch taken last, or the first since `drop`."""
        if not self.ready:
            self._next_run(step)
        return self.ready.popleft()

    def drop(self) -> None:
        """End the thread; wipe the chunks it holds, the keys, and the batches that nobody took."""
        reading, self._reading = list(self._reading), deque()
        ready, self.ready = self.ready, deque()
        self._error = None
        for future in reading:
            future.cancel()
            future.add_done_callback(self._wipe_run)  # at once, or when the read that is going on ends
        for batch in ready:
            self._batches.wipe_batch(batch)
        thread, self._thread = self._thread, None
        if thread is None:
            self._batches.wipe()
            self._end_prefetch()
            return
        try:
            thread.submit(self._batches.wipe)  # in the thread, so behind a read that is still going on
        except RuntimeError:  # the interpreter is ending and has already waited for its threads
            self._batches.wipe()
        # A garbage collection may end a feed from its own thread, which cannot wait for itself.
        in_thread = threading.current_thread().name.startswith("stoker-feed")
        thread.shutdown(wait=not in_thread)
        self._end_prefetch()

    def _end_prefetch(self) -> None:
        if self._prefetch is not None:
            self._prefetch.stop()

    def _next_run(self, step: int) -> None:
        """Wait for the next run; have further ones read meanwhile."""
        if self._error is not None:
            raise self._error
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="stoker-feed")
            self._next_step = step
            self._read(1)  # the first batch waits for no others
        while len(self._reading) <= self._runs:
            self._read(self._run_steps)
        batches, self._error = self._reading.popleft().result()
        self.ready.extend(batches)
        if not self.ready:
            assert self._error is not None
            raise self._error

    def _read(self, count: int) -> None:
        assert self._thread is not None
        steps = range(self._next_step, self._next_step + count)
        self._next_step = steps.stop
        self._reading.append(self._thread.submit(self._read_run, steps))

    def _read_run(self, steps: range) -> Run:
        if self._prefetch is not None:
            self._prefetch.advance(steps.start, steps.stop)
        batches, error = self._read_steps(steps)
        if isinstance(error, LEASE_OVER):
            self._end_prefetch()  # nothing that it brings in can be opened
        return batches, error

    def _read_steps(self, steps: range) -> Run:
        if isinstance(self._batches, RunSource):
            return self._batches.read_run(steps)
        batches: list[Any] = []
        try:
            batches.extend(self._batches.read(step) for step in steps)
        except StokerError as error:  # raised by the step that it belongs to
            return batches, error
        return batches, None

    def _wipe_run(self, future: Future[Run]) -> None:
        if not future.cancelled() and future.exception() is None:
            for batch in future.result()[0]:
                self._batches.wipe_batch(batch)
