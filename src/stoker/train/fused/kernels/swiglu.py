"""SwiGLU forward, and backward in place. See docs/design/train-gpu.md."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from stoker.train.fused.kernels.launch import raise_to, warps


@triton.jit  # type: ignore[untyped-decorator]
def _swiglu_forward(
    gate_up_at: Any, out_at: Any, amax_at: Any, width: Any, BLOCK: tl.constexpr, AMAX: tl.constexpr
) -> None:
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < width
    at = gate_up_at + row * (2 * width) + columns
    gate = tl.load(at, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(at + width, mask=inside, other=0.0).to(tl.float32)
    out = gate * tl.sigmoid(gate) * up
    tl.store(out_at + row * width + columns, out, mask=inside)
    if AMAX:
        raise_to(amax_at, tl.max(tl.abs(out), 0))


def swiglu_forward(gate_up: Tensor, amax: Tensor | None = None) -> Tensor:
    """`silu(gate) · up` of rows that hold gate and up behind each other."""
    rows, width = gate_up.shape[0], gate_up.shape[1] // 2
    out = torch.empty(rows, width, dtype=gate_up.dtype, device=gate_up.device)
    block = min(4096, triton.next_power_of_2(width))
    _swiglu_forward[(rows, triton.cdiv(width, block))](
        gate_up,
        out,
        out if amax is None else amax,
        width,
        BLOCK=block,
        AMAX=amax is not None,
        num_warps=warps(block),
    )
    return out


@triton.jit  # type: ignore[untyped-decorator]
def _swiglu_backward(
    dout_at: Any,
    gate_up_at: Any,
    amax_at: Any,
    width: Any,
    BLOCK: tl.constexpr,
    REMAKE: tl.constexpr,
    AMAX: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < width
    at = gate_up_at + row * (2 * width) + columns
    gate = tl.load(at, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(at + width, mask=inside, other=0.0).to(tl.float32)
    dout = tl.load(dout_at + row * width + columns, mask=inside, other=0.0).to(tl.float32)
    sigmoid = tl.sigmoid(gate)
    silu = gate * sigmoid
    dgate = dout * up * (sigmoid + silu * (1.0 - sigmoid))
    dup = dout * silu
    tl.store(at, dgate, mask=inside)
    tl.store(at + width, dup, mask=inside)
    if REMAKE:
        tl.store(dout_at + row * width + columns, silu * up, mask=inside)
    if AMAX:
        raise_to(amax_at, tl.max(tl.maximum(tl.abs(dgate), tl.abs(dup)), 0))


def swiglu_backward_(dout: Tensor, gate_up: Tensor, *, remake: bool, amax: Tensor | None = None) -> None:
    """In place: `gate_up` becomes its gradient; with `remake`, `dout` becomes the forward pass's product."""
    rows, width = dout.shape
    block = min(4096, triton.next_power_of_2(width))
    _swiglu_backward[(rows, triton.cdiv(width, block))](
        dout,
        gate_up,
        dout if amax is None else amax,
        width,
        BLOCK=block,
        REMAKE=remake,
        AMAX=amax is not None,
        num_warps=warps(block),
    )
