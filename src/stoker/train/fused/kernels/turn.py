"""RoPE in place, and its way back while gradients are packed. See docs/design/train-gpu.md."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from stoker.train.fused.kernels.launch import raise_to


@triton.jit  # type: ignore[untyped-decorator]
def _rotate(
    qkv_at: Any,
    cosine_at: Any,
    sine_at: Any,
    length: Any,
    row_width: Any,
    heads: Any,
    HEADS: tl.constexpr,
    HALF: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    lanes = tl.arange(0, HALF)
    angle = (row % length) * HALF + lanes
    cosine = tl.load(cosine_at + angle)[None, :]
    sine = tl.load(sine_at + angle)[None, :]
    head = tl.arange(0, HEADS)
    inside = head[:, None] < heads
    at = qkv_at + row * row_width + head[:, None] * (2 * HALF) + lanes[None, :]
    first = tl.load(at, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(at + HALF, mask=inside, other=0.0).to(tl.float32)
    tl.store(at, first * cosine - second * sine, mask=inside)
    tl.store(at + HALF, second * cosine + first * sine, mask=inside)


def rotate_(qkv: Tensor, cosine: Tensor, sine: Tensor, heads: int) -> None:
    """Turn the first `heads` heads of each row of `qkv` in place; angles are `[length, head_width / 2]`.

    Row r is position r modulo `length`.
    """
    length, half = cosine.shape
    _rotate[(qkv.shape[0],)](
        qkv,
        cosine,
        sine,
        length,
        qkv.shape[1],
        heads,
        HEADS=triton.next_power_of_2(heads),
        HALF=half,
        num_warps=4,
    )


@triton.jit  # type: ignore[untyped-decorator]
def _pack(
    source_at: Any,
    packed_at: Any,
    cosine_at: Any,
    sine_at: Any,
    amax_at: Any,
    stride_batch: Any,
    stride_head: Any,
    stride_position: Any,
    length: Any,
    row_width: Any,
    column: Any,
    heads: Any,
    HEADS: tl.constexpr,
    HALF: tl.constexpr,
    TURN: tl.constexpr,
    AMAX: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    position = row % length
    lanes = tl.arange(0, HALF)
    head = tl.arange(0, HEADS)
    inside = head[:, None] < heads
    at = source_at + (row // length) * stride_batch + position * stride_position
    at = at + head[:, None].to(tl.int64) * stride_head + lanes[None, :]
    first = tl.load(at, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(at + HALF, mask=inside, other=0.0).to(tl.float32)
    if TURN:
        cosine = tl.load(cosine_at + position * HALF + lanes)[None, :]
        sine = tl.load(sine_at + position * HALF + lanes)[None, :]
        turned = first * cosine + second * sine
        second = second * cosine - first * sine
        first = turned
    to = packed_at + row * row_width + column + head[:, None] * (2 * HALF) + lanes[None, :]
    tl.store(to, first, mask=inside)
    tl.store(to + HALF, second, mask=inside)
    if AMAX:
        raise_to(amax_at, tl.max(tl.max(tl.maximum(tl.abs(first), tl.abs(second)), 1), 0))


def pack_turned_back(
    gradients: tuple[Tensor, Tensor, Tensor], cosine: Tensor, sine: Tensor, amax: Tensor | None = None
) -> Tensor:
    """Gradients of query, key and value, each `[batch, heads, length, head_width]`, as rows of `qkv`.

    Query and key are turned back by their angles.
    """
    batch, _, length, head_width = gradients[0].shape
    width = sum(each.shape[1] for each in gradients) * head_width
    packed = torch.empty(batch * length, width, dtype=gradients[0].dtype, device=gradients[0].device)
    column = 0
    for number, each in enumerate(gradients):
        heads = each.shape[1]
        _pack[(batch * length,)](
            each,
            packed,
            cosine,
            sine,
            packed if amax is None else amax,
            each.stride(0),
            each.stride(1),
            each.stride(2),
            length,
            width,
            column,
            heads,
            HEADS=triton.next_power_of_2(heads),
            HALF=head_width // 2,
            TURN=number < 2,
            AMAX=amax is not None,
            num_warps=4,
        )
        column += heads * head_width
    return packed
