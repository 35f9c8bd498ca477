"""The angular frequencies of rotary positions, stretched or not. See docs/design/train-model.md.

The formulas are those of `transformers` (modeling_rope_utils), so that weights from elsewhere mean the same;
`tests/train/test_models.py` compares them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from stoker.spec.rope import RopeScaling, RopeScalingSpec


def frequencies(
    head_width: int, base: float, scaling: RopeScalingSpec | None, device: torch.device
) -> Tensor:
    """Radians a position for each pair of a head, fp32 `[head_width / 2]` (RoPE, Su et al. 2021)."""
    exponents = torch.arange(0, head_width, 2, device=device, dtype=torch.float32) / head_width
    plain = base**-exponents
    if scaling is None:
        return plain
    if scaling.kind is RopeScaling.LINEAR:
        return plain / scaling.factor
    if scaling.kind is RopeScaling.LLAMA3:
        return _llama3(plain, scaling)
    return _yarn(plain, head_width, base, scaling)


def _llama3(plain: Tensor, scaling: RopeScalingSpec) -> Tensor:
    """Waves longer than original / low are stretched, those shorter than original / high are not."""
    turns = scaling.original_tokens * plain / (2 * math.pi)  # whole turns within the original length
    low, high = scaling.low_frequency_factor, scaling.high_frequency_factor
    kept = ((turns - low) / (high - low)).clamp(0.0, 1.0)
    return (1 - kept) * plain / scaling.factor + kept * plain


def _yarn(plain: Tensor, head_width: int, base: float, scaling: RopeScalingSpec) -> Tensor:
    """A ramp between the dimensions that make `beta_fast` and `beta_slow` turns in the original length."""

    def dimension(turns: float) -> float:
        length = scaling.original_tokens / (turns * 2 * math.pi)
        return head_width * math.log(length) / (2 * math.log(base))

    first = max(math.floor(dimension(scaling.beta_fast)), 0)
    last = min(math.ceil(dimension(scaling.beta_slow)), head_width - 1)
    steps = torch.arange(head_width // 2, device=plain.device, dtype=torch.float32)
    stretched = ((steps - first) / max(last - first, 0.001)).clamp(0.0, 1.0)
    return stretched * plain / scaling.factor + (1 - stretched) * plain
