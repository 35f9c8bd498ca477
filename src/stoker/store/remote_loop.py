"""The one thread of this process on which requests to object stores run, and the guard against forks.

obstore's threads stay in the parent when a process is forked. A child that used it all the same would wait
for ever, and the parent after it, since both share one epoll instance (seen; docs/decisions/0320).
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

from stoker.store.errors import StoreUnreachable

T = TypeVar("T")

_END_S: Final = 2.0

_lock = threading.Lock()
_process: int | None = None
"""The process that has used obstore; in a forked child it is the parent's."""
_loop: asyncio.AbstractEventLoop | None = None


def claim_process(place: str) -> None:
    """This process is about to use an object store.

    Raises StoreUnreachable when it was forked from one that has done so.
    """
    global _process
    if _process is None:
        _process = os.getpid()
    elif _process != os.getpid():
        raise StoreUnreachable(
            f"{place} cannot be used here: this process was forked from one that uses object stores.",
            hint="Start a new process instead of forking (multiprocessing: the method 'spawn'), or fork "
            "before any store is opened.",
        )


def run(place: str, start: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run what `start` makes to its end, on the loop's thread; the caller waits, and Ctrl-C cancels.

    Raises what it raises, and StoreUnreachable after a fork.
    """
    claim_process(place)
    future = asyncio.run_coroutine_threadsafe(start(), _running_loop())
    try:
        return future.result()
    finally:
        future.cancel()


def _running_loop() -> asyncio.AbstractEventLoop:
    global _loop
    with _lock:
        if _loop is None:
            _loop = asyncio.new_event_loop()
            thread = threading.Thread(target=_loop.run_forever, name="stoker-store", daemon=True)
            thread.start()
            atexit.register(_end, _loop, thread, os.getpid())
        return _loop


def _end(loop: asyncio.AbstractEventLoop, thread: threading.Thread, process: int) -> None:
    """Cancel what still runs, so that no answer arrives in an interpreter that is being taken down.

    What is asked even later gets a loop of its own instead of waiting for one that has ended.
    """
    global _loop
    if os.getpid() != process:
        return
    with _lock:
        _loop = None

    def stop() -> None:
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.call_soon(loop.stop)

    loop.call_soon_threadsafe(stop)
    thread.join(_END_S)
