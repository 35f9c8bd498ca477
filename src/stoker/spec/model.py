"""Decoder language models by their shape, with their parameter and FLOP formulas, here and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A decoder: RoPE, grouped-query attention, SwiGLU, RMSNorm. Sizes in elements."""

    layers: int = 6
    width: int = 192
    heads: int = 6
    kv_heads: int = 2
    ffn_width: int = 512
    rope_base: float = 10_000.0
    norm_epsilon: float = 1e-6
    tied_embeddings: bool = True
    qk_norm: bool = True
