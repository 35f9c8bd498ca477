"""Largest magnitudes, and casts to float8 by rows and turned. See docs/design/train-gpu.md."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from stoker.train.fused.kernels.launch import PROGRAMS, raise_to


@triton.jit  # type: ignore[untyped-decorator]
def _amax(x_at: Any, amax_at: Any, size: Any, BLOCK: tl.constexpr, EACH: tl.constexpr) -> None:
    largest = tl.zeros((BLOCK,), dtype=tl.float32)
    for turn in range(0, EACH):
        at = (tl.program_id(0) + turn * tl.num_programs(0)).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        largest = tl.maximum(largest, tl.abs(tl.load(x_at + at, mask=at < size, other=0.0).to(tl.float32)))
    raise_to(amax_at, tl.max(largest, 0))


def raise_amax(x: Tensor, amax: Tensor) -> None:
    """Raise `amax` to the largest magnitude in contiguous `x`."""
    size, block = x.numel(), 8192
    blocks = triton.cdiv(size, block)
    programs = min(PROGRAMS, blocks)
    _amax[(programs,)](x, amax, size, BLOCK=block, EACH=triton.cdiv(blocks, programs), num_warps=8)


@triton.jit  # type: ignore[untyped-decorator]
def _cast(
    x_at: Any,
    rows_at: Any,
    columns_at: Any,
    amax_at: Any,
    inverse_at: Any,
    rows: Any,
    width: Any,
    limit: Any,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    amax = tl.maximum(tl.load(amax_at), 1e-12)
    scale = limit / amax
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = (row[:, None] < rows) & (column[None, :] < width)
    wide = row.to(tl.int64)
    x = tl.load(x_at + wide[:, None] * width + column[None, :], mask=inside, other=0.0).to(tl.float32) * scale
    small = tl.minimum(tl.maximum(x, -limit), limit).to(rows_at.dtype.element_ty)
    if ROWS:
        tl.store(rows_at + wide[:, None] * width + column[None, :], small, mask=inside)
    if COLUMNS:
        turned = tl.trans(small)
        to = columns_at + column.to(tl.int64)[:, None] * rows + row[None, :]
        tl.store(to, turned, mask=(column[:, None] < width) & (row[None, :] < rows))
    if (tl.program_id(0) == 0) & (tl.program_id(1) == 0):
        tl.store(inverse_at, amax / limit)


def cast_both(
    x: Tensor, amax: Tensor, dtype: torch.dtype, *, rows: bool = True, columns: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """`x` `[m, n]` in float8 by rows `[m, n]`, turned `[n, m]`, and the fp32 factor that undoes the scaling.

    One scale for the whole tensor: its largest magnitude `amax` becomes the largest number of `dtype`. What
    is not asked for is an empty tensor.
    """
    height, width = x.shape
    nothing = torch.empty(0, dtype=dtype, device=x.device)
    by_rows = torch.empty(height, width, dtype=dtype, device=x.device) if rows else nothing
    turned = torch.empty(width, height, dtype=dtype, device=x.device) if columns else nothing
    inverse = torch.empty((), dtype=torch.float32, device=x.device)
    block = 64
    _cast[(triton.cdiv(height, block), triton.cdiv(width, block))](
        x,
        by_rows,
        turned,
        amax,
        inverse,
        height,
        width,
        torch.finfo(dtype).max,
        BLOCK=block,
        ROWS=rows,
        COLUMNS=columns,
        num_warps=4,
    )
    return by_rows, turned, inverse
