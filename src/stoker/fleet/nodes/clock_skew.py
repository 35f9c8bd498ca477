"""Time skew: what chrony says, or what the kernel was told by whatever disciplines it."""

from __future__ import annotations

import ctypes
from typing import Final

from stoker.fleet.nodes.finding import Finding, fail, not_present, ok
from stoker.fleet.nodes.machine_view import Absent, MachineView, Unreadable

_OFFSET_FIELD: Final = 4
_LEAP_FIELD: Final = 13
_STA_UNSYNC: Final = 0x0040


class _Timex(ctypes.Structure):
    """`struct timex` of Linux, adjtimex(2), up to what is read here; the rest is room."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("room", ctypes.c_char * 512),
    )


def time_skew(view: MachineView) -> Finding:
    """How far this clock may be from true time."""
    try:
        return chrony_finding(view)
    except Absent:
        return kernel_finding(view)


def chrony_finding(view: MachineView) -> Finding:
    """`chronyc -c tracking`: 14 fields, the fifth the offset in seconds, the last whether it is in step."""
    output = view.command("chronyc", "-c", "-n", "tracking")
    fields = output.text.strip().split(",")
    if output.code != 0:
        return fail(f"chronyc ended with {output.code}: {output.text.strip()[:120]}")
    try:
        offset_s, leap = float(fields[_OFFSET_FIELD]), fields[_LEAP_FIELD]
    except (IndexError, ValueError) as error:
        raise Unreadable(f"chronyc printed {output.text[:80]!a}") from error
    if leap == "Not synchronised":
        return fail("chrony is not synchronised")
    return _judged(view, abs(offset_s), "chrony says")


def kernel_finding(view: MachineView) -> Finding:
    """adjtimex(2): only where something disciplines the clock has its error a meaning."""
    found = _Timex()
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "adjtimex") or libc.adjtimex(ctypes.byref(found)) < 0:
        return not_present("this system does not tell how true its clock is")
    if found.status & _STA_UNSYNC:
        return not_present("no time service: the kernel's clock is not synchronised, and chrony is not here")
    return _judged(view, found.maxerror / 1e6, "the kernel says, at most")


def _judged(view: MachineView, offset_s: float, who: str) -> Finding:
    text = f"{who} {offset_s * 1000:.3f} ms off"
    return fail(text) if not offset_s <= view.settings.clock_offset_s else ok(text)
