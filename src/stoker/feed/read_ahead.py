"""A thread that reads the next batches while the step computes. See docs/design/feed.md, "Reading ahead"."""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from stoker.feed.source import BatchSource


class ReadAhead:
    """Batches of ascending steps, up to `depth` of them ready before they are asked for.

    An error of the thread is kept in the batch it belongs to, and raised when that batch is taken.
    """

    def __init__(self, batches: BatchSource[Any], depth: int) -> None:
        self._batches = batches
        self._depth = depth
        self._thread: ThreadPoolExecutor | None = None
        self._next_step = 0
        self._ready: deque[Future[Any]] = deque()

    def take(self, step: int) -> Any:
        """The batch of `step`, which is the one behind the batch taken last, or the first since `drop`."""
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="stoker-feed")
            self._next_step = step
        while len(self._ready) <= self._depth:
            self._ready.append(self._thread.submit(self._batches.read, self._next_step))
            self._next_step += 1
        return self._ready.popleft().result()

    def drop(self) -> None:
        """End the thread; wipe the chunks it holds, the keys, and the batches that nobody took."""
        ready, self._ready = list(self._ready), deque()
        for future in ready:
            future.cancel()
            future.add_done_callback(self._wipe_batch)  # at once, or when the read that is going on ends
        thread, self._thread = self._thread, None
        if thread is None:
            self._batches.wipe()
            return
        try:
            thread.submit(self._batches.wipe)  # in the thread, so behind a read that is still going on
        except RuntimeError:  # the interpreter is ending and has already waited for its threads
            self._batches.wipe()
        # A garbage collection may end a feed from its own thread, which cannot wait for itself.
        in_thread = threading.current_thread().name.startswith("stoker-feed")
        thread.shutdown(wait=not in_thread)

    def _wipe_batch(self, future: Future[Any]) -> None:
        if not future.cancelled() and future.exception() is None:
            self._batches.wipe_batch(future.result())
