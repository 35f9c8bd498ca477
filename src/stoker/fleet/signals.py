"""Signals as bytes on a descriptor, so that one loop waits for them and for everything else."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterable, Iterator


@contextlib.contextmanager
def signals_as_bytes(numbers: Iterable[signal.Signals]) -> Iterator[int]:
    """A descriptor on which each of these signals appears as a byte with its number, for the block.

    So does every other signal that Python code in this process handles: the reader leaves those alone. The
    earlier handlers come back afterwards. Python delivers signals to its main thread only; in any other
    thread the descriptor stays silent.
    """
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    if threading.current_thread() is not threading.main_thread():
        try:
            yield reader
        finally:
            os.close(reader)
            os.close(writer)
        return
    earlier_fd = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    earlier = {number: signal.signal(number, lambda *_: None) for number in numbers}
    try:
        yield reader
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(earlier_fd)
        os.close(reader)
        os.close(writer)
