"""RMSNorm and RoPE in few passes over memory, their derivatives written out. See docs/design/train-model.md.

torch takes them apart into a dozen operations on CPU, which in a small model cost as much as a third of the
matrix products; these take half the time (docs/decisions/0602-small-operations-on-cpu.md). Other devices use
torch's own.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from stoker.spec.rope import RopeScalingSpec
from stoker.train.models.rope import frequencies


class RMSNorm(nn.Module):
    """`x / sqrt(mean(x²) + epsilon) · weight` over the last dimension; sums are in fp32."""

    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, hidden: Tensor) -> Tensor:
        if hidden.device.type != "cpu" or torch.compiler.is_compiling():
            return functional.rms_norm(hidden, self.weight.shape, self.weight, self.epsilon)
        result: Tensor = _Normalise.apply(hidden, self.weight, self.epsilon)  # type: ignore[no-untyped-call]
        return result


class _Normalise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        size = torch.linalg.vector_norm(hidden, dim=-1, keepdim=True, dtype=torch.float32)
        scale = size.square_().div_(hidden.shape[-1]).add_(epsilon).rsqrt_()
        ctx.save_for_backward(hidden, weight, scale)
        result: Tensor = (hidden * scale).mul_(weight).to(hidden.dtype)
        return result

    @staticmethod
    def backward(ctx: Any, *received: Tensor) -> tuple[Tensor, Tensor, None]:
        # With n = x · scale and g the gradient of n · w:  dw = Σ g n,  dx = scale · (g w - n · mean(g w n)).
        hidden, weight, scale = ctx.saved_tensors
        normal = hidden * scale
        gradient = received[0].float()
        products = gradient * normal
        width = hidden.shape[-1]
        weight_gradient = products.view(-1, width).sum(0)
        along = (products @ weight.float()).unsqueeze_(-1).div_(width)
        hidden_gradient = (gradient * weight).sub_(normal.mul_(along)).mul_(scale)
        return hidden_gradient.to(hidden.dtype), weight_gradient.to(weight.dtype), None


def rotation(
    length: int,
    head_width: int,
    base: float,
    device: torch.device,
    *,
    scaling: RopeScalingSpec | None = None,
    positions: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Cosine and sine `[length, 1, head_width / 2]` of every position's angles, fp32 (RoPE, Su et al. 2021).

    `positions` `[length]` are 0, 1, 2 … unless given, as where a rank has only a part of the sequence.
    """
    if positions is None:
        positions = torch.arange(length, device=device)
    angles = torch.outer(positions.float(), frequencies(head_width, base, scaling, device))
    cosine, sine = angles.cos().unsqueeze(1), angles.sin().unsqueeze(1)
    if scaling is not None and scaling.attention_scale != 1.0:
        cosine, sine = cosine * scaling.attention_scale, sine * scaling.attention_scale
    return cosine, sine


def rotate(heads: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Turn `[batch, length, heads, head_width]`, first half against second, by its position's angles."""
    if torch.compiler.is_compiling():
        # A compiler fuses plain operations itself, and takes no writing into halves.
        first, second = heads.chunk(2, dim=-1)
        return torch.cat((first * cosine - second * sine, second * cosine + first * sine), dim=-1)
    result: Tensor = _Rotate.apply(heads, cosine, sine)  # type: ignore[no-untyped-call]
    return result


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, heads: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        ctx.save_for_backward(cosine, sine)
        return _turned(heads, cosine, sine)

    @staticmethod
    def backward(ctx: Any, *received: Tensor) -> tuple[Tensor, None, None]:
        # The derivative of a turn (times a scale) is the turn back (times the same).
        cosine, sine = ctx.saved_tensors
        return _turned(received[0], cosine, -sine), None, None


def _turned(heads: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    first, second = heads.chunk(2, dim=-1)
    turned = torch.empty(heads.shape, dtype=heads.dtype, device=heads.device)
    turned_first, turned_second = turned.chunk(2, dim=-1)
    torch.mul(first, cosine, out=turned_first).addcmul_(second, sine, value=-1)
    torch.mul(second, cosine, out=turned_second).addcmul_(first, sine)
    return turned
