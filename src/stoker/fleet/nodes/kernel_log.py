"""The kernel's log: Xid errors of NVIDIA's driver, machine checks and disk errors, within a window.

Xid numbers and what they ask for: NVIDIA's "XID Errors" guide (docs.nvidia.com/deploy/xid-errors).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from stoker.fleet.nodes.finding import Finding, fail, not_present, ok, warn, worst
from stoker.fleet.nodes.gpu_query import pci_devices
from stoker.fleet.nodes.machine_view import Absent, MachineView, Unreadable

_RECORD_BYTES: Final = 8192
_MAX_RECORDS: Final = 200_000
_RECORD: Final = re.compile(r"(\d{1,4}),(\d{1,20}),(\d{1,20}),[^;]*;(.*)")
_XID: Final = re.compile(r"NVRM: Xid \(([^)]{1,60})\): (\d{1,4})\b")

_USERS_OWN: Final = frozenset({13, 31, 43, 45, 68, 69})
"""Mostly made by programs: illegal addresses, faults of a context, clean-up after them."""

_TROUBLE: Final = re.compile(
    r"mce: \[Hardware Error\]|Hardware Error\]: Machine check|I/O error, dev |EXT4-fs error|"
    r"XFS .*: (Corruption|metadata I/O error)|Uncorrected hardware memory error|nvme.*: controller is down",
)


@dataclass(frozen=True, slots=True)
class LogLine:
    """One record of the kernel's log; `at_s` counts from the start of the machine."""

    at_s: float
    text: str


@dataclass(frozen=True, slots=True)
class Xid:
    """One error that NVIDIA's driver told."""

    at_s: float
    device: str
    code: int


def kernel_lines(view: MachineView) -> tuple[LogLine, ...]:
    """The log as /dev/kmsg gives it. Raises Absent where it may not be read, Unreadable."""
    return view.shared("kernel log", lambda: tuple(_read_records(view)))


def _read_records(view: MachineView) -> Iterator[LogLine]:
    path = view.path("/dev/kmsg")
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise Absent("there is no kernel log") from error
    except PermissionError as error:
        raise Absent("the kernel log may not be read by this user") from error
    except OSError as error:
        raise Unreadable(f"the kernel log cannot be opened: {error.strerror}") from error
    try:
        yield from parse_records(_pieces(descriptor))
    finally:
        os.close(descriptor)


def _pieces(descriptor: int) -> Iterator[str]:
    """One record a read, until there is none; records that were overwritten meanwhile are passed over."""
    for _ in range(_MAX_RECORDS):
        try:
            piece = os.read(descriptor, _RECORD_BYTES)
        except BlockingIOError:
            return
        except BrokenPipeError:
            continue
        except OSError as error:
            raise Unreadable(f"the kernel log cannot be read: {error.strerror}") from error
        if not piece:
            return
        yield piece.decode("utf-8", "replace")


def parse_records(pieces: Iterable[str]) -> Iterator[LogLine]:
    """`priority,sequence,microseconds,flags;text`, with lines of details that are left out."""
    rest = ""
    for piece in pieces:
        *lines, rest = (rest + piece).split("\n")
        for line in lines:
            if match := _RECORD.match(line):
                yield LogLine(int(match[3]) / 1e6, match[4])


def xids_in(lines: Iterable[LogLine]) -> tuple[Xid, ...]:
    """Every Xid in these lines."""
    found = ((line, _XID.search(line.text)) for line in lines)
    return tuple(Xid(line.at_s, match[1], int(match[2])) for line, match in found if match)


def _recent(view: MachineView, window_s: float) -> list[LogLine]:
    uptime_s = view.text("/proc/uptime").split(" ")[0]
    try:
        since_s = float(uptime_s) - window_s
    except ValueError as error:
        raise Unreadable(f"/proc/uptime holds {uptime_s[:40]!a}") from error
    return [line for line in kernel_lines(view) if line.at_s >= since_s]


def gpu_xid(view: MachineView) -> Finding:
    """Errors that the driver told lately. Those that programs make warn, all others fail."""
    window_s = view.settings.xid_window_s
    found = xids_in(_recent(view, window_s))
    problems = []
    for device, code in sorted({(each.device, each.code) for each in found}):
        count = sum((each.device, each.code) == (device, code) for each in found)
        judge = warn if code in _USERS_OWN else fail
        problems.append(judge(f"Xid {code} at {device}, {count} times"))
    if not found and not pci_devices(view):
        return not_present("there is no NVIDIA device, and no Xid")
    return worst(problems, f"no Xid within {window_s / 60:.0f} min")


def kernel_errors(view: MachineView) -> Finding:
    """Machine checks, disk and file system errors that the kernel told lately."""
    window_s = view.settings.kernel_window_s
    found = [line.text for line in _recent(view, window_s) if _TROUBLE.search(line.text)]
    if found:
        return warn(f"{len(found)} lines, the last: {found[-1]}")
    return ok(f"nothing of machine checks or disk errors within {window_s / 60:.0f} min")
