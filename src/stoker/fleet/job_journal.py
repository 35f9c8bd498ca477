"""What happened to a job, kept as lines of JSON beside what it is about. See docs/design/slurm.md.

It stands beside a run's events and not in them: those are of one supervisor's clock, and their digest is in
the log once the run has ended.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Final

from stoker.core.atomic import naming_full_disk
from stoker.core.config import from_plain
from stoker.core.errors import BadEvent, ConfigError
from stoker.core.result import plain
from stoker.fleet.launchers import JobEvent

MAX_LINE_BYTES: Final = 8_192


def append_event(path: Path, event: JobEvent) -> None:
    """Add one line in one write. Raises DiskFull."""
    line = json.dumps(plain(event)).encode() + b"\n"
    with naming_full_disk(path):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, line)
        finally:
            os.close(descriptor)


def read_journal(path: Path) -> tuple[JobEvent, ...]:
    """Every whole line, oldest first; none where there is no journal. A line that was cut is left out.

    Raises BadEvent, naming file and line, for a whole line that is no event.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return ()
    events = []
    for number, line in enumerate(data.splitlines(keepends=True), start=1):
        place = f"{path}, line {number}"
        if len(line) > MAX_LINE_BYTES:
            raise BadEvent(f"{place}: {len(line)} bytes; at most {MAX_LINE_BYTES} are allowed.")
        try:
            body = json.loads(line)
        except (ValueError, RecursionError):
            continue  # cut by a crash, or glued to a line that was
        if not line.endswith(b"\n"):
            continue
        try:
            events.append(from_plain(JobEvent, body, place))
        except (ConfigError, TypeError) as error:
            raise BadEvent(f"{place}: no event of a job ({error}).") from error
    return tuple(events)
