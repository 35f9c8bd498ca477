"""Calls of the kernel that an isolated process does not need, refused by the kernel (seccomp).

A network namespace closes TCP, UDP and abstract sockets, and not these: a socket file that the process's user
may open, the hypervisor's own sockets (AF_VSOCK), and descriptors or memory taken out of another process. See
docs/design/fleet.md, "Isolation".
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import socket
import struct
import sys
from typing import Final

_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_SET_SECCOMP: Final = 22
_MODE_FILTER: Final = 2

_LOAD_WORD, _JUMP_EQUAL, _JUMP_GREATER_EQUAL, _AND, _RETURN = 0x20, 0x15, 0x35, 0x54, 0x06
_ALLOW: Final = 0x7FFF_0000
_REFUSE: Final = 0x0005_0000
_NUMBER_AT, _ARCHITECTURE_AT, _FIRST_ARGUMENT_AT, _SECOND_ARGUMENT_AT = 0, 4, 16, 24
_KIND_OF_SOCKET: Final = 0xF
"""The bits of a socket's type that are no flags."""

_INSTRUCTION: Final = struct.Struct("=HBBI")
_X32: Final = 0x4000_0000
"""Numbers from here on are the same calls under another name, on x86-64."""

_FAMILIES: Final = (socket.AF_INET, socket.AF_INET6, getattr(socket, "AF_NETLINK", 16))
"""Ranks speak TCP over loopback; netlink says which devices there are."""

_ARCHITECTURES: Final = {"x86_64": 0xC000_003E, "aarch64": 0xC000_00B7}
_SOCKET: Final = {"x86_64": 41, "aarch64": 198}
_REFUSED: Final = {
    "x86_64": (101, 310, 311, 425, 438),
    "aarch64": (117, 270, 271, 425, 438),
}
"""ptrace, process_vm_readv, process_vm_writev, io_uring_setup (which makes sockets, too), pidfd_getfd."""


def refuse_ways_out(*, datagrams: bool = False) -> bool:
    """Hold this process and its children to it, for good; False where this is not known how.

    Socket pairs, pipes and whatever was inherited go on working. With `datagrams` they may also make AF_UNIX
    sockets for datagrams, by which they reach abstract names of their network, and socket files unless
    Landlock closes those. Raises OSError when the kernel refuses.
    """
    program = _program(platform.machine(), datagrams)
    if program is None or not sys.platform.startswith("linux"):
        return False
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
    instructions = ctypes.create_string_buffer(program, len(program))
    head = struct.pack("@HP", len(program) // _INSTRUCTION.size, ctypes.addressof(instructions))
    if prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise _error()
    given = ctypes.create_string_buffer(head, len(head))
    if prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.addressof(given), 0, 0) != 0:
        raise _error()
    return True


def _program(machine: str, datagrams: bool = False) -> bytes | None:
    """The filter: another architecture, another name of a call, a refused call or family: EPERM."""
    if machine not in _ARCHITECTURES:
        return None
    checks = [(_JUMP_EQUAL, number) for number in _REFUSED[machine]]
    if machine == "x86_64":
        checks.insert(0, (_JUMP_GREATER_EQUAL, _X32))
    # The kind of an AF_UNIX socket: no datagrams, and the line behind these refuses.
    kinds = [
        (_JUMP_EQUAL, 0, 3, int(socket.AF_UNIX)),
        (_LOAD_WORD, 0, 0, _SECOND_ARGUMENT_AT),
        (_AND, 0, 0, _KIND_OF_SOCKET),
        (_JUMP_EQUAL, 1, 0, int(socket.SOCK_DGRAM)),
    ]
    kinds = kinds if datagrams else []
    families = len(_FAMILIES) + len(kinds)
    # Behind the checks: [socket?] [load family] [families…] [kinds…] [refuse] [allow].
    lines = [
        (_LOAD_WORD, 0, 0, _ARCHITECTURE_AT),
        (_JUMP_EQUAL, 0, len(checks) + 3 + families, _ARCHITECTURES[machine]),
        (_LOAD_WORD, 0, 0, _NUMBER_AT),
    ]
    for place, (how, value) in enumerate(checks):
        lines.append((how, len(checks) - 1 - place + 2 + families, 0, value))
    lines.append((_JUMP_EQUAL, 0, 2 + families, _SOCKET[machine]))
    lines.append((_LOAD_WORD, 0, 0, _FIRST_ARGUMENT_AT))
    for place, family in enumerate(_FAMILIES):
        lines.append((_JUMP_EQUAL, families - place, 0, int(family)))
    lines += kinds
    lines.append((_RETURN, 0, 0, _REFUSE | errno.EPERM))
    lines.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(_INSTRUCTION.pack(*line) for line in lines)


def _error() -> OSError:
    code = ctypes.get_errno()
    return OSError(code, os.strerror(code))
