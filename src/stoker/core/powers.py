"""Root's powers, given up for good: a process without them cannot go back into the network that it left.

See docs/design/fleet.md, "Isolation"; capabilities(7) of Linux.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Collection
from typing import Final

READING: Final = frozenset({2})
"""CAP_DAC_READ_SEARCH: root goes on reading files of other users."""

FILES: Final = frozenset({0, 1, 2, 3, 4})
"""CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER, CAP_FSETID: root's powers over files."""

_PR_CAPBSET_DROP: Final = 24
_PR_SET_NO_NEW_PRIVS: Final = 38
_VERSION_3: Final = 0x2008_0522
_CAPABILITIES: Final = 64
"""More than any kernel has; dropping one that does not exist does nothing."""


def give_up_powers(*, but: Collection[int] = ()) -> None:
    """This process, if it has one thread, and its children keep no power of root's `but` these.

    Nothing happens where there are none to give up, and on other systems than Linux. Raises OSError.
    """
    if not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None, use_errno=True)
    prctl = libc.prctl
    prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
    prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    for capability in range(_CAPABILITIES):
        if capability not in but:
            prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)  # refused to who has no power: nothing to give up
    head = (ctypes.c_uint32 * 2)(_VERSION_3, 0)
    now = (ctypes.c_uint32 * 6)()
    if libc.capget(head, now) != 0:
        raise OSError(ctypes.get_errno(), "capget")
    kept = [sum(1 << each % 32 for each in but if each // 32 == word) for word in (0, 1)]
    left = (ctypes.c_uint32 * 6)(now[0] & kept[0], now[1] & kept[0], 0, now[3] & kept[1], now[4] & kept[1], 0)
    if libc.capset(head, left) != 0:
        raise OSError(ctypes.get_errno(), "capset")
