"""The real worker of a rank, which also writes down each chunk that it asks for, and waits between them.

Takes the worker's own arguments and is a rank command of `start_run`. Each line of `chunks-RANK.jsonl` in the
attempt's folder is one chunk: when it was asked for (CLOCK_MONOTONIC), and whether it was opened.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

PACE_S: Final = 0.4
"""A rank of the first attempt waits so long before each step behind `PACED_AFTER`: it is still at work when
its lease ends."""
PACED_AFTER: Final = 8


@dataclass(frozen=True, slots=True)
class Asked:
    """One chunk that a rank asked for."""

    at_s: float
    opened: bool


def asked_of(attempt_folder: Path) -> list[Asked]:
    """What every rank of an attempt asked for, in the order of time."""
    lines = [line for path in attempt_folder.glob("chunks-*.jsonl") for line in path.read_text().splitlines()]
    return sorted((Asked(**json.loads(line)) for line in lines), key=lambda asked: asked.at_s)


def watch(log: int) -> None:
    """From here on every reading of a chunk of a dataset is written down."""
    from stoker.feed.open_shards import OpenShards

    read = OpenShards.read

    def watched(self: Any, shard: int, reading: Callable[[Any], Any]) -> Any:
        at_s, opened = time.monotonic(), False
        try:
            found = read(self, shard, reading)
            opened = True
            return found
        finally:
            os.write(log, json.dumps({"at_s": at_s, "opened": opened}).encode() + b"\n")

    OpenShards.read = watched  # type: ignore[method-assign]


def read_little() -> None:
    """Windows of one chunk, one batch ahead: a few texts are enough to open chunks all through a run."""
    from stoker.feed.feed import Feed

    defaults = Feed.__init__.__kwdefaults__
    assert {"window_chunks", "prefetch_batches"} <= set(defaults)
    defaults |= {"window_chunks": 1, "prefetch_batches": 1}


def pace() -> None:
    """Steps take their time."""
    from stoker.feed.stream import BatchStream

    following, steps = BatchStream.__next__, iter(range(1 << 30))

    def paced(self: Any) -> Iterator[Any]:
        if next(steps) >= PACED_AFTER:
            time.sleep(PACE_S)
        return following(self)

    BatchStream.__next__ = paced  # type: ignore[method-assign]


def main() -> int:
    from stoker.train import worker

    words = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=True))
    job = Path(words["--job"])
    log = os.open(job.with_name(f"chunks-{words['--rank']}.jsonl"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    watch(log)
    read_little()
    if json.loads(job.read_text())["attempt"] == 1:
        pace()
    return worker.main()


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # as the worker itself ends: torch's threads and peers are not waited for
