"""How this process's memory comes and goes between steps. See docs/design/train-model.md, "Measured"."""

from __future__ import annotations

import ctypes
from typing import Final

_TRIM_THRESHOLD: Final = (-1, 1 << 30)
_MMAP_THRESHOLD: Final = (-3, 64 << 20)


def keep_freed_memory() -> bool:
    """Let the C library keep up to 1 GiB that was freed, for the next step; whether it can.

    A step frees its activations and asks for as many again. glibc gives large blocks back to the kernel each
    time, and the kernel clears every page of them anew: 7,000 page faults a step of a small model, a tenth of
    its time, and far more on a virtual machine whose host takes free pages away.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return all(bool(mallopt(*setting)) for setting in (_TRIM_THRESHOLD, _MMAP_THRESHOLD))
