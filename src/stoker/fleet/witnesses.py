"""What the machine itself says around a failure: its kernel's log, and what was kept of the ranks' output.

Best effort: a kernel whose log may not be read says nothing. See docs/design/attribution.md, "Witnesses".
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, TypeAlias

from stoker.core.clock import Clock
from stoker.fleet.attribution import BEFORE_S, Witness
from stoker.fleet.run_folder import RunFolder
from stoker.fleet.taxonomy import Source

KERNEL_LOG: Final = Path("/dev/kmsg")
MAX_RECORD_BYTES: Final = 8192
MAX_RECORDS: Final = 20_000
MAX_TAIL_BYTES: Final = 65_536

Witnesses: TypeAlias = Callable[[int], Sequence[Witness]]
"""Asked at the end of a failed attempt, by its number."""


def nobody(attempt: int) -> Sequence[Witness]:
    """For runs that are not asked after: tests, and machines of others."""
    return ()


def witnesses_here(
    folder: RunFolder, node: str, clock: Clock, on_record: Callable[[float], Sequence[Witness]]
) -> Witnesses:
    """Those of this machine, and what is `on_record` at a time on the wall clock."""

    def ask(attempt: int) -> Sequence[Witness]:
        now_s, mono_s = clock.now_s(), clock.monotonic_s()
        kernel = kernel_lines(kernel_records(), node, now_s, mono_s)
        return (*kernel, *output_lines(folder.attempt(attempt), node), *on_record(now_s))

    return ask


def kernel_records(path: Path = KERNEL_LOG) -> Iterator[bytes]:
    """The records of the kernel's log, oldest first; none where it may not be read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return
    try:
        for _ in range(MAX_RECORDS):
            try:
                record = os.read(descriptor, MAX_RECORD_BYTES)
            except BrokenPipeError:
                continue  # the record was overwritten while we read; the next read goes on behind it
            except OSError:
                return
            if not record:
                return
            yield record
    finally:
        os.close(descriptor)


def kernel_lines(records: Iterable[bytes], node: str, now_s: float, mono_s: float) -> Iterator[Witness]:
    """The lines that are not older than attribution looks back.

    A record is `priority,number,time,flags;text`, its time in microseconds since the machine began, which
    `mono_s` counts too. A record of another form is left out.
    """
    for record in records:
        head, _, text = record.partition(b";")
        parts = head.split(b",")
        if len(parts) < 4 or not parts[2].isdigit():
            continue
        at_s = now_s - mono_s + int(parts[2]) / 1e6
        if at_s >= now_s - BEFORE_S:
            line = text.partition(b"\n")[0].decode(errors="replace")
            yield Witness(at_s, node, Source.KERNEL, line)


def output_lines(attempt_folder: Path, node: str) -> Iterator[Witness]:
    """The last lines that were kept of what each rank printed, dated by their file."""
    for path in sorted(attempt_folder.glob("rank-*.log")):
        number = path.stem.removeprefix("rank-")
        try:
            with path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                file.seek(max(size - MAX_TAIL_BYTES, 0))
                tail, at_s = file.read(MAX_TAIL_BYTES), os.fstat(file.fileno()).st_mtime
        except OSError:
            continue
        for line in tail.decode(errors="replace").splitlines():
            if line.strip() and number.isdecimal():
                yield Witness(at_s, node, Source.OUTPUT, line.strip(), int(number))
