"""Disks and mounts: room, inodes, read-only, latency, and whether what should be mounted answers."""

from __future__ import annotations

import contextlib
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from stoker.fleet.nodes.finding import Finding, fail, not_present, ok, warn, worst
from stoker.fleet.nodes.machine_view import Absent, MachineView, Unreadable

_BLOCK_BYTES: Final = 4096


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of /proc/mounts."""

    device: str
    point: str
    kind: str
    options: frozenset[str]


def mounts_of(view: MachineView) -> tuple[Mount, ...]:
    """Every mount. Raises Absent; Unreadable for a line that is none."""
    found = []
    for line in view.text("/proc/mounts").splitlines():
        words = line.split(" ")
        if len(words) < 4:
            raise Unreadable(f"/proc/mounts has the line {line[:80]!a}")
        point = words[1].encode().decode("unicode_escape")
        found.append(Mount(words[0], point, words[2], frozenset(words[3].split(","))))
    return tuple(found)


def _folders(view: MachineView) -> tuple[Path, ...]:
    """The folders that have to take files: those that are named, and the one for scratch."""
    return tuple(dict.fromkeys((*map(Path, view.settings.writable), view.scratch)))


def disk_space(view: MachineView) -> Finding:
    """Room that an ordinary user has in each folder that must take files."""
    least = view.settings.disk_free_fraction
    problems, told = [], []
    for folder in _folders(view):
        found = _statvfs(folder)
        share = found.f_bavail / found.f_blocks if found.f_blocks else 1.0
        text = f"{folder}: {found.f_bavail * found.f_frsize / 1e9:.1f} GB free ({share:.0%})"
        told.append(text)
        if share < least:
            problems.append(fail(f"{text}, {least:.0%} are needed"))
        elif share < 2 * least:
            problems.append(warn(text))
    return worst(problems, "; ".join(told))


def disk_inodes(view: MachineView) -> Finding:
    """Inodes that are left there; file systems that make them as needed have nothing to judge."""
    least = view.settings.disk_free_fraction
    problems, told = [], []
    for folder in _folders(view):
        found = _statvfs(folder)
        if not found.f_files:
            continue
        share = found.f_favail / found.f_files
        text = f"{folder}: {share:.0%} of the inodes are free"
        told.append(text)
        if share < least:
            problems.append(fail(text))
    return worst(problems, "; ".join(told)) if told else not_present("no file system here counts inodes")


def disk_read_only(view: MachineView) -> Finding:
    """A disk that the kernel turned read-only after an error, and folders that take no file."""
    problems = [
        fail(f"{mount.point} ({mount.device}) was turned read-only after an error")
        for mount in mounts_of(view)
        if {"ro", "errors=remount-ro"} <= mount.options or "emergency_ro" in mount.options
    ]
    folders = _folders(view)
    closed = [folder for folder in folders if _statvfs(folder).f_flag & os.ST_RDONLY]
    problems += [fail(f"{folder} is read-only") for folder in closed]
    return worst(problems, f"{len(folders)} folders take files")


def disk_latency(view: MachineView) -> Finding:
    """The time of one small write that is on the disk when it returns."""
    path = view.scratch / f".stoker-check-{secrets.token_hex(8)}"
    began_s = view.clock.monotonic_s()
    try:
        with path.open("xb") as file:
            file.write(bytes(_BLOCK_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except FileNotFoundError as error:
        raise Absent(f"there is no {view.scratch}") from error
    except OSError as error:
        return fail(f"{view.scratch} takes no file: {error.strerror}")
    finally:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
    took_s = view.clock.monotonic_s() - began_s
    text = f"a durable write of 4 KiB took {took_s * 1000:.0f} ms"
    return fail(text) if took_s > view.settings.disk_latency_s else ok(text)


def mounts(view: MachineView) -> Finding:
    """Mount points that are asked for: there, and answering. One that hangs is found by the time limit."""
    wanted = view.settings.mounts
    if not wanted:
        return not_present("no mounts are asked for (nodes.mounts)")
    there = {mount.point for mount in mounts_of(view)}
    problems = [fail(f"{point} is not mounted") for point in wanted if point not in there]
    for point in wanted:
        if point in there:
            try:
                os.statvfs(point)
            except OSError as error:
                problems.append(fail(f"{point} does not answer: {error.strerror}"))
    return worst(problems, f"{len(wanted)} mounts answer")


def _statvfs(folder: Path) -> os.statvfs_result:
    try:
        return os.statvfs(folder)
    except FileNotFoundError as error:
        raise Absent(f"there is no {folder}") from error
    except OSError as error:
        raise Unreadable(f"{folder} does not answer: {error.strerror}") from error
