"""What the kernels share: how many programs and warps, and a maximum over programs."""

from __future__ import annotations

from typing import Any, Final

import triton
import triton.language as tl

PROGRAMS: Final = 132 * 8
"""How many programs share the rows where sums over rows are kept in registers: eight on each of an H100's."""


@triton.jit  # type: ignore[untyped-decorator]
def raise_to(amax_at: Any, value: Any) -> None:
    """Atomics on one address stand in line, so only those that matter are made."""
    if value > tl.load(amax_at):
        tl.atomic_max(amax_at, value)


def warps(block: int) -> int:
    """About 16 elements a thread."""
    return max(1, min(16, block // 512))
