"""Processors and memory: are all of them there, as fast as they may be, and without errors?"""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

from stoker.fleet.nodes.finding import Finding, fail, not_present, ok, warn, worst
from stoker.fleet.nodes.machine_view import Absent, MachineView, Unreadable, read_text

CLOCK_FRACTION = 0.9
"""A processor that may not run at this part of its own maximum is held back."""

MEMORY_TOLERANCE = 0.05


def cpu_count(view: MachineView) -> Finding:
    """Processors that are online, against those that exist and those that are expected."""
    online = len(cpu_list(view.text("/sys/devices/system/cpu/online")))
    wanted = view.settings.cpus
    if wanted and online != wanted:
        return fail(f"{online} CPUs are online, {wanted} are expected")
    present = len(cpu_list(view.text("/sys/devices/system/cpu/present")))
    if online < present and not _threads_switched_off(view):
        return warn(f"{online} of {present} CPUs are online")
    return ok(f"{online} CPUs online")


def cpu_list(text: str) -> list[int]:
    """`0-3,8` as numbers. Raises Unreadable."""
    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d{1,6})(?:-(\d{1,6}))?", part.strip())
        if match is None:
            raise Unreadable(f"{text[:60]!a} is no list of CPUs")
        first, last = int(match[1]), int(match[2] or match[1])
        found += range(first, last + 1)
    return found


def _threads_switched_off(view: MachineView) -> bool:
    with contextlib.suppress(Absent):
        return view.text("/sys/devices/system/cpu/smt/control") in ("off", "forceoff")
    return False


def cpu_clock(view: MachineView) -> Finding:
    """What the kernel lets each CPU run at, against what the CPU can do; an idle one may be slow now."""
    folders = sorted(view.path("/sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq"))
    if not folders:
        return not_present("the kernel does not tell clocks (no cpufreq)")
    held_back = []
    for folder in folders:
        most, allowed = view.number(folder / "cpuinfo_max_freq"), view.number(folder / "scaling_max_freq")
        if allowed < CLOCK_FRACTION * most:
            held_back.append(f"{folder.parent.name} at {allowed / 1e6:.2f} of {most / 1e6:.2f} GHz")
    if held_back:
        return fail(f"{len(held_back)} of {len(folders)} CPUs are held back: {', '.join(held_back[:4])}")
    return ok(f"{len(folders)} CPUs may run at their maximum")


def memory_size(view: MachineView) -> Finding:
    """The memory that the kernel has, against what is expected."""
    total = meminfo_bytes(view, "MemTotal")
    if total is None:
        raise Unreadable("/proc/meminfo tells no MemTotal")
    wanted = view.settings.memory_bytes
    if wanted and total < wanted * (1 - MEMORY_TOLERANCE):
        return fail(f"{total / 1e9:.1f} GB, {wanted / 1e9:.1f} GB are expected: is a module gone?")
    return ok(f"{total / 1e9:.1f} GB" + ("" if wanted else ", nothing said of what is expected"))


def meminfo_bytes(view: MachineView, name: str) -> int | None:
    """One line of /proc/meminfo in bytes; None when it is not there."""
    match = re.search(rf"^{name}:\s+(\d{{1,15}}) kB$", view.text("/proc/meminfo"), re.MULTILINE)
    return None if match is None else int(match[1]) * 1024


def memory_errors(view: MachineView) -> Finding:
    """What EDAC counted since the start of the machine, and pages that the kernel took out of use."""
    problems = []
    broken = meminfo_bytes(view, "HardwareCorrupted") or 0
    if broken:
        problems.append(fail(f"{broken // 1024} kB of memory are taken out of use as corrupted"))
    controllers = sorted(view.path("/sys/devices/system/edac/mc").glob("mc[0-9]*"))
    corrected = 0
    for controller in controllers:
        uncorrected = view.number(controller / "ue_count")
        corrected += view.number(controller / "ce_count")
        if uncorrected:
            problems.append(fail(f"{uncorrected} uncorrected errors at {_where(controller)}"))
    if corrected > view.settings.memory_corrected_errors:
        problems.append(warn(f"{corrected} corrected errors since the start"))
    if not controllers and not problems:
        return not_present("no memory controller reports errors (no EDAC)")
    return worst(problems, f"{corrected} corrected errors, none uncorrected")


def _where(controller: Path) -> str:
    with contextlib.suppress(Absent, Unreadable):
        return f"{controller.name} ({read_text(controller / 'mc_name')[:40]})"
    return controller.name
