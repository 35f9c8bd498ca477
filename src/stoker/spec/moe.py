"""A mixture of experts in place of a decoder's feed-forward, by its shape. Formulas: docs/design/spec.md."""

from __future__ import annotations

import enum
import math
from collections.abc import Iterator
from dataclasses import dataclass


class RouterScore(enum.StrEnum):
    """What a router makes of a token's logits."""

    SOFTMAX = "softmax"
    """Shares of one over all experts: Mixtral, Qwen3-MoE."""

    SIGMOID = "sigmoid"
    """Each expert by itself: DeepSeek-V3, made for balancing by a bias."""


@dataclass(frozen=True, slots=True)
class MoeSpec:
    """Routed and shared SwiGLU experts. A token is worked on by its `top_k` routed and all shared experts.

    `expert_width` 0 is the decoder's `ffn_width`; the first `dense_layers` blocks keep their feed-forward.
    `balance_rate` is what an expert's selection bias moves a step against its load, 0 for none;
    `z_loss` weighs the mean of log²Σexp of the logits; `capacity_factor` 0 drops no token.
    """

    experts: int = 8
    top_k: int = 2
    expert_width: int = 0
    shared_experts: int = 0
    dense_layers: int = 0
    score: RouterScore = RouterScore.SOFTMAX
    normalise_gates: bool = True
    gate_scale: float = 1.0
    balance_rate: float = 1e-3
    z_loss: float = 1e-3
    capacity_factor: float = 0.0

    def problems(self) -> Iterator[str]:
        """One sentence for each rule that is broken, naming the fields and their values."""
        for name in ("experts", "top_k"):
            if getattr(self, name) < 1:
                yield f"{name} is {getattr(self, name)}; it must be at least 1"
        for name in ("expert_width", "shared_experts", "dense_layers"):
            if getattr(self, name) < 0:
                yield f"{name} is {getattr(self, name)}; it must be 0 or more"
        if self.top_k > self.experts >= 1:
            yield f"top_k is {self.top_k}; it must be at most experts, {self.experts}"
        for name in ("balance_rate", "z_loss", "capacity_factor"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                yield f"{name} is {value}; it must be a number, 0 or more"
        if not (math.isfinite(self.gate_scale) and self.gate_scale > 0):
            yield f"gate_scale is {self.gate_scale}; it must be a number above 0"
