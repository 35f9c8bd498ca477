"""The real worker of a rank that gets stuck within a run: rank 1 of the first attempt reads no more.

Takes the worker's own arguments and is a rank command of `start_run`.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import Any, Final

STUCK_AFTER: Final = 12
"""Batches that rank 1 reads before it waits for what never comes."""


def wait_for_what_never_comes() -> None:
    threading.Event().wait()


def get_stuck() -> None:
    from stoker.feed.stream import BatchStream

    following, batches = BatchStream.__next__, iter(range(1 << 30))

    def stuck(self: Any) -> Any:
        if next(batches) >= STUCK_AFTER:
            wait_for_what_never_comes()
        return following(self)

    BatchStream.__next__ = stuck  # type: ignore[method-assign]


def main() -> int:
    from stoker.train import worker

    words = sys.argv[1:]
    if words[words.index("--rank") + 1] == "1" and "attempt-1/" in words[words.index("--job") + 1]:
        get_stuck()
    return worker.main()


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)
