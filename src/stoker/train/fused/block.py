"""A decoder block forward and backward, written out so that nothing is read or kept twice.

The same function as `stoker.train.models.decoder.Block` without query and key norms; its matrices are merged:
query, key and value in one, gate and up in one. See docs/design/train-gpu.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import torch
import torch.nn.functional as functional
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from stoker.train.fused.kernels.norm import rms_backward, rms_forward
from stoker.train.fused.kernels.swiglu import swiglu_backward_, swiglu_forward
from stoker.train.fused.kernels.turn import pack_turned_back, rotate_
from stoker.train.fused.products import FORWARD, GRADIENT, Small, amax_for, multiply, small

BACKENDS: Final = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]


@dataclass(frozen=True, slots=True)
class BlockShape:
    """What a block must know beside its weights. Angles are fp32 `[length, head_width / 2]`.

    `keep` says whether norms' and SwiGLU's results are kept for the backward pass or made again in it;
    `float8` how the products are made, `fast_gradients` whether their gradients sum in fewer bits.
    """

    heads: int
    kv_heads: int
    length: int
    epsilon: float
    cosine: Tensor
    sine: Tensor
    keep: bool
    float8: bool = False
    fast_gradients: bool = False


class Attention:
    """Causal attention inside a written-out block: torch's own, with the small graph of its backward pass."""

    def __init__(self, query: Tensor, key: Tensor, value: Tensor) -> None:
        """`[batch, heads, length, width]`, over fewer key and value heads; by cuDNN where it is there."""
        self._inputs = [each.detach().requires_grad_() for each in (query, key, value)]
        with torch.enable_grad(), sdpa_kernel(BACKENDS, set_priority=True):
            self._out = functional.scaled_dot_product_attention(
                self._inputs[0],
                self._inputs[1],
                self._inputs[2],
                is_causal=True,
                enable_gqa=query.shape[1] != key.shape[1],
            )

    @property
    def rows(self) -> Tensor:
        """The result as rows `[batch · length, heads · width]`; a view where the kernel wrote it so."""
        batch, heads, length, width = self._out.shape
        return self._out.detach().transpose(1, 2).reshape(batch * length, heads * width)

    def backward(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of query, key and value from the gradient of `rows`."""
        batch, heads, length, width = self._out.shape
        gradient = rows.view(batch, length, heads, width).transpose(1, 2)
        query, key, value = torch.autograd.grad(self._out, self._inputs, gradient)
        return query, key, value


def _views(qkv: Tensor, shape: BlockShape) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value `[batch, heads, length, head_width]` inside the rows of `qkv`."""
    heads = shape.heads + 2 * shape.kv_heads
    whole = qkv.view(-1, shape.length, heads, qkv.shape[1] // heads).transpose(1, 2)
    query, key, value = torch.split(whole, [shape.heads, shape.kv_heads, shape.kv_heads], dim=1)
    return query, key, value


class FusedBlock(torch.autograd.Function):
    """`[rows, width]` to the same; rows are `batch · length` tokens, one sequence behind the other."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        norm1: Tensor,
        qkv_weight: Tensor,
        out_weight: Tensor,
        norm2: Tensor,
        gate_up_weight: Tensor,
        down_weight: Tensor,
        shape: BlockShape,
    ) -> Tensor:
        normal1, scale1 = rms_forward(x, norm1, shape.epsilon)
        qkv = normal1 @ qkv_weight.t()
        rotate_(qkv, shape.cosine, shape.sine, shape.heads + shape.kv_heads)
        attention = Attention(*_views(qkv, shape))
        y = torch.addmm(x, attention.rows, out_weight.t())
        normal2, scale2 = rms_forward(y, norm2, shape.epsilon)
        gate_up = normal2 @ gate_up_weight.t()
        product = swiglu_forward(gate_up)
        z = torch.addmm(y, product, down_weight.t())
        nothing = x.new_empty(0)
        keep = (normal1, normal2, product) if shape.keep else (nothing, nothing, nothing)
        ctx.save_for_backward(
            x,
            norm1,
            qkv_weight,
            out_weight,
            norm2,
            gate_up_weight,
            down_weight,
            scale1,
            y,
            scale2,
            gate_up,
            *keep,
        )
        ctx.shape, ctx.attention = shape, attention
        return z

    @staticmethod
    def backward(ctx: Any, *received: Tensor) -> tuple[Tensor | None, ...]:
        (
            x,
            norm1,
            qkv_weight,
            out_weight,
            norm2,
            gate_up_weight,
            down_weight,
            scale1,
            y,
            scale2,
            gate_up,
            normal1,
            normal2,
            product,
        ) = ctx.saved_tensors
        shape: BlockShape = ctx.shape
        dz = received[0]
        dproduct = dz @ down_weight
        swiglu_backward_(dproduct, gate_up, remake=not shape.keep)  # gate_up is its gradient now
        ddown = dz.t() @ (product if shape.keep else dproduct)
        del product, dproduct
        dnormal2 = gate_up @ gate_up_weight
        if not shape.keep:
            normal2, _ = rms_forward(y, norm2, shape.epsilon)
        dgate_up = gate_up.t() @ normal2
        dy, dnorm2 = rms_backward(dnormal2, y, norm2, scale2, dz)
        del normal2, dnormal2
        drows = dy @ out_weight
        dout = dy.t() @ ctx.attention.rows
        gradients = ctx.attention.backward(drows)
        ctx.attention = None
        dqkv_rows = pack_turned_back(gradients, shape.cosine, shape.sine)
        del gradients, drows
        dnormal1 = dqkv_rows @ qkv_weight
        if not shape.keep:
            normal1, _ = rms_forward(x, norm1, shape.epsilon)
        dqkv = dqkv_rows.t() @ normal1
        dx, dnorm1 = rms_backward(dnormal1, x, norm1, scale1, dy)
        return dx, dnorm1, dqkv, dout, dnorm2, dgate_up, ddown, None


class SmallBlock(torch.autograd.Function):
    """The same with products in float8. Activations are kept turned, as the weights' gradients need them."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        norm1: Tensor,
        qkv_weight: Tensor,
        out_weight: Tensor,
        norm2: Tensor,
        gate_up_weight: Tensor,
        down_weight: Tensor,
        shape: BlockShape,
    ) -> Tensor:
        weights = tuple(
            small(each, FORWARD) for each in (qkv_weight, out_weight, gate_up_weight, down_weight)
        )
        amax = amax_for(x)
        normal1, scale1 = rms_forward(x, norm1, shape.epsilon, amax)
        in1 = small(normal1, FORWARD, amax)
        del normal1
        qkv = _forward(in1, weights[0])
        rotate_(qkv, shape.cosine, shape.sine, shape.heads + shape.kv_heads)
        attention = Attention(*_views(qkv, shape))
        in2 = small(attention.rows, FORWARD)
        y = x + _forward(in2, weights[1])
        amax = amax_for(x)
        normal2, scale2 = rms_forward(y, norm2, shape.epsilon, amax)
        in3 = small(normal2, FORWARD, amax)
        del normal2
        gate_up = _forward(in3, weights[2])
        amax = amax_for(x)
        in4 = small(swiglu_forward(gate_up, amax), FORWARD, amax)
        z = y + _forward(in4, weights[3])
        ctx.save_for_backward(
            x,
            norm1,
            norm2,
            scale1,
            y,
            scale2,
            gate_up,
            *(part for each in weights for part in (each.turned, each.factor)),
            *(part for each in (in1, in2, in3, in4) for part in (each.turned, each.factor)),
        )
        ctx.shape, ctx.attention = shape, attention
        return z

    @staticmethod
    def backward(ctx: Any, *received: Tensor) -> tuple[Tensor | None, ...]:
        x, norm1, norm2, scale1, y, scale2, gate_up, *parts = ctx.saved_tensors
        weights = tuple(zip(parts[0:8:2], parts[1:8:2], strict=True))
        inputs = tuple(zip(parts[8::2], parts[9::2], strict=True))
        shape: BlockShape = ctx.shape
        fast = shape.fast_gradients
        dz = received[0]
        incoming = small(dz, GRADIENT)
        dproduct = multiply(incoming.rows, incoming.factor, *weights[3], fast=fast)
        ddown = multiply(incoming.turned, incoming.factor, *inputs[3], fast=fast)
        amax = amax_for(x)
        swiglu_backward_(dproduct, gate_up, remake=False, amax=amax)
        del dproduct
        incoming = small(gate_up, GRADIENT, amax)
        dnormal2 = multiply(incoming.rows, incoming.factor, *weights[2], fast=fast)
        dgate_up = multiply(incoming.turned, incoming.factor, *inputs[2], fast=fast)
        amax = amax_for(x)
        dy, dnorm2 = rms_backward(dnormal2, y, norm2, scale2, dz, amax)
        incoming = small(dy, GRADIENT, amax)
        drows = multiply(incoming.rows, incoming.factor, *weights[1], fast=fast)
        dout = multiply(incoming.turned, incoming.factor, *inputs[1], fast=fast)
        gradients = ctx.attention.backward(drows)
        ctx.attention = None
        amax = amax_for(x)
        dqkv_rows = pack_turned_back(gradients, shape.cosine, shape.sine, amax)
        incoming = small(dqkv_rows, GRADIENT, amax)
        dnormal1 = multiply(incoming.rows, incoming.factor, *weights[0], fast=fast)
        dqkv = multiply(incoming.turned, incoming.factor, *inputs[0], fast=fast)
        dx, dnorm1 = rms_backward(dnormal1, x, norm1, scale1, dy)
        return dx, dnorm1, dqkv, dout, dnorm2, dgate_up, ddown, None


def _forward(left: Small, weight: Small) -> Tensor:
    return multiply(left.rows, left.factor, weight.rows, weight.factor, fast=True)
