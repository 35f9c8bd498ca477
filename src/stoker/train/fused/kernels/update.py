"""AdamW of masters, moments and the working copy in one pass. See docs/design/train-gpu.md."""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor


@triton.jit  # type: ignore[untyped-decorator]
def _adamw(
    master_at: Any,
    first_at: Any,
    second_at: Any,
    gradient_at: Any,
    working_at: Any,
    clip_at: Any,
    size: Any,
    rate: Any,
    beta1: Any,
    beta2: Any,
    epsilon: Any,
    decay: Any,
    correction1: Any,
    correction2: Any,
    BLOCK: tl.constexpr,
) -> None:
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < size
    gradient = tl.load(gradient_at + at, mask=inside, other=0.0).to(tl.float32) * tl.load(clip_at)
    master = tl.load(master_at + at, mask=inside, other=0.0)
    first = tl.load(first_at + at, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(second_at + at, mask=inside, other=0.0).to(tl.float32)
    first = first * beta1 + gradient * (1.0 - beta1)
    second = second * beta2 + gradient * gradient * (1.0 - beta2)
    step = (first / correction1) / (tl.sqrt(second / correction2) + epsilon)
    master = master - rate * (step + decay * master)
    tl.store(first_at + at, first, mask=inside)
    tl.store(second_at + at, second, mask=inside)
    tl.store(master_at + at, master, mask=inside)
    tl.store(working_at + at, master, mask=inside)


def adamw_(
    master: Tensor,
    first: Tensor,
    second: Tensor,
    gradient: Tensor,
    working: Tensor,
    clip: Tensor,
    *,
    rate: float,
    betas: tuple[float, float],
    epsilon: float,
    decay: float,
    step: int,
) -> None:
    """One AdamW update (Loshchilov and Hutter 2019) of fp32 `master` and moments; `working` gets its copy.

    All are flat and of one size; `gradient` is multiplied by the scalar tensor `clip` on the way.
    """
    size, block = master.numel(), 4096
    _adamw[(triton.cdiv(size, block),)](
        master,
        first,
        second,
        gradient,
        working,
        clip,
        size,
        rate,
        betas[0],
        betas[1],
        epsilon,
        decay,
        1.0 - betas[0] ** step,
        1.0 - betas[1] ** step,
        BLOCK=block,
        num_warps=8,
    )
