"""RMSNorm forward and backward, each one pass over memory. See docs/design/train-gpu.md."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from stoker.train.fused.kernels.launch import PROGRAMS, raise_to, warps


@triton.jit  # type: ignore[untyped-decorator]
def _rms_forward(
    x_at: Any,
    weight_at: Any,
    y_at: Any,
    scale_at: Any,
    amax_at: Any,
    width: Any,
    epsilon: Any,
    BLOCK: tl.constexpr,
    AMAX: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < width
    x = tl.load(x_at + row * width + columns, mask=inside, other=0.0).to(tl.float32)
    weight = tl.load(weight_at + columns, mask=inside, other=0.0).to(tl.float32)
    scale = 1.0 / tl.sqrt(tl.sum(x * x, 0) / width + epsilon)
    y = x * scale * weight
    tl.store(y_at + row * width + columns, y, mask=inside)
    tl.store(scale_at + row, scale)
    if AMAX:
        raise_to(amax_at, tl.max(tl.abs(y), 0))


def rms_forward(
    x: Tensor, weight: Tensor, epsilon: float, amax: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """`x / sqrt(mean(x²) + epsilon) · weight` of `[rows, width]`, and the fp32 factor of each row.

    `amax`, an fp32 scalar that holds 0 or more, is raised to the largest magnitude of the result.
    """
    rows, width = x.shape
    y, scale = torch.empty_like(x), torch.empty(rows, dtype=torch.float32, device=x.device)
    block = triton.next_power_of_2(width)
    _rms_forward[(rows,)](
        x,
        weight,
        y,
        scale,
        scale if amax is None else amax,
        width,
        epsilon,
        BLOCK=block,
        AMAX=amax is not None,
        num_warps=warps(block),
    )
    return y, scale


@triton.jit  # type: ignore[untyped-decorator]
def _rms_backward(
    dy_at: Any,
    x_at: Any,
    weight_at: Any,
    scale_at: Any,
    along_at: Any,
    dx_at: Any,
    partial_at: Any,
    amax_at: Any,
    rows: Any,
    width: Any,
    BLOCK: tl.constexpr,
    EACH: tl.constexpr,
    AMAX: tl.constexpr,
) -> None:
    program, programs = tl.program_id(0), tl.num_programs(0)
    columns = tl.arange(0, BLOCK)
    inside = columns < width
    weight = tl.load(weight_at + columns, mask=inside, other=0.0).to(tl.float32)
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    largest = tl.zeros((BLOCK,), dtype=tl.float32)
    for turn in range(0, EACH):
        row = program + turn * programs
        inside = (columns < width) & (row < rows)
        at = row.to(tl.int64) * width + columns
        dy = tl.load(dy_at + at, mask=inside, other=0.0).to(tl.float32)
        x = tl.load(x_at + at, mask=inside, other=0.0).to(tl.float32)
        along = tl.load(along_at + at, mask=inside, other=0.0).to(tl.float32)
        scale = tl.load(scale_at + row, mask=row < rows, other=0.0)
        normal = x * scale
        total += dy * normal
        weighted = dy * weight
        dx = along + scale * (weighted - normal * (tl.sum(weighted * normal, 0) / width))
        tl.store(dx_at + at, dx, mask=inside)
        if AMAX:
            largest = tl.maximum(largest, tl.abs(dx))
    tl.store(partial_at + program * width + columns, total, mask=columns < width)
    if AMAX:
        raise_to(amax_at, tl.max(largest, 0))


def rms_backward(
    dy: Tensor, x: Tensor, weight: Tensor, scale: Tensor, along: Tensor, amax: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The gradient of `x`, with `along` (what came past the norm) added, and that of `weight` in its type."""
    rows, width = x.shape
    programs = min(PROGRAMS, rows)
    dx = torch.empty_like(x)
    partial = torch.empty(programs, width, dtype=torch.float32, device=x.device)
    block = triton.next_power_of_2(width)
    _rms_backward[(programs,)](
        dy,
        x,
        weight,
        scale,
        along,
        dx,
        partial,
        scale if amax is None else amax,
        rows,
        width,
        BLOCK=block,
        EACH=triton.cdiv(rows, programs),
        AMAX=amax is not None,
        num_warps=warps(block),
    )
    return dx, partial.sum(0).to(weight.dtype)
