"""Where a process may still write, held to a list by the kernel (Landlock). See docs/design/fleet.md.

It is there since Linux 5.13, needs no privilege and cannot be undone, and children inherit it. Reading is not
bounded by it. From its ninth version on it can close socket files too.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

_CREATE_RULESET: Final = 444
_ADD_RULE: Final = 445
_RESTRICT_SELF: Final = 446
_ASK_VERSION: Final = 1
_RULE_PATH_BENEATH: Final = 1

_WRITE_FILE: Final = 1 << 1
_REMOVE_AND_MAKE: Final = sum(1 << bit for bit in range(4, 13))
_REFER: Final = 1 << 13
_TRUNCATE: Final = 1 << 14
_RESOLVE_UNIX: Final = 1 << 16
_RESOLVES_UNIX_SINCE: Final = 9

_RULESET: Final = struct.Struct("=Q")
_RULE: Final = struct.Struct("=Qi")

_DEVICES: Final = ("/dev/null", "/dev/zero", "/dev/full", "/dev/tty", "/dev/kfd")
_DEVICE_KINDS: Final = ("nvidia*", "nvidia-caps/*", "dri/*")
"""Writing to these leaves nothing behind; accelerators are driven by it. A fabric's devices are none of them:
they lead around a network namespace."""


def writing_only_in(folders: Sequence[Path], *, no_socket_files: bool = False) -> int | None:
    """A rule set under which only these folders, and devices that keep nothing, may be written to.

    With `no_socket_files` no socket file is reached either, where the kernel can close them. The caller
    closes the descriptor. None where the kernel has no Landlock. Raises OSError when a folder cannot be
    opened.
    """
    version = _version()
    if version < 1:
        return None
    everything = _WRITE_FILE | _REMOVE_AND_MAKE
    everything |= _REFER if version >= 2 else 0
    everything |= _TRUNCATE if version >= 3 else 0
    of_a_file = everything & (_WRITE_FILE | _TRUNCATE)
    closed = _RESOLVE_UNIX if no_socket_files and version >= _RESOLVES_UNIX_SINCE else 0
    ruleset = _ruleset(everything | closed)
    try:
        for folder in folders:
            _allow(ruleset, folder, everything)
        kinds = [path for kind in _DEVICE_KINDS for path in Path("/dev").glob(kind)]
        for device in (*map(Path, _DEVICES), *kinds):
            if device.exists() and stat.S_ISCHR(device.stat().st_mode):
                _allow(ruleset, device, of_a_file)
    except BaseException:
        os.close(ruleset)
        raise
    return ruleset


def _ruleset(handled: int) -> int:
    """A rule set over these rights; without the right over socket files where the kernel does not know it."""
    try:
        return _call(_CREATE_RULESET, _RULESET.pack(handled), _RULESET.size, 0)
    except OSError as error:
        if error.errno != errno.EINVAL or not handled & _RESOLVE_UNIX:
            raise
        return _ruleset(handled & ~_RESOLVE_UNIX)


def hold_to(ruleset: int) -> None:
    """From now on this process, if it has one thread, and its children are held to the rules.

    The process must have given up new privileges. Raises OSError.
    """
    _call(_RESTRICT_SELF, ruleset, 0)


def _version() -> int:
    if not sys.platform.startswith("linux"):
        return 0
    try:
        return _call(_CREATE_RULESET, None, 0, _ASK_VERSION)
    except OSError:
        return 0


def _allow(ruleset: int, path: Path, access: int) -> None:
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        _call(_ADD_RULE, ruleset, _RULE_PATH_BENEATH, _RULE.pack(access, descriptor), 0)
    finally:
        os.close(descriptor)


def _call(number: int, *arguments: int | bytes | None) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    given = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    result = int(libc.syscall(ctypes.c_long(number), *given))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
