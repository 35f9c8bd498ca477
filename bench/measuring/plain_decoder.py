"""The loop that a researcher writes by hand: plain modules, torch.compile, fused AdamW; the peer of ours.

Llama's shape: RMSNorm, RoPE, grouped-query attention, SwiGLU, an output matrix of its own.
"""

from __future__ import annotations

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from stoker.spec.model import ModelSpec


class Block(nn.Module):
    """One block by torch's own operations."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.head_width = spec.head_elements
        width = spec.width
        self.norm1 = nn.RMSNorm(width, spec.norm_epsilon)
        self.norm2 = nn.RMSNorm(width, spec.norm_epsilon)
        self.query = nn.Linear(width, spec.query_width, bias=False)
        self.key = nn.Linear(width, spec.kv_width, bias=False)
        self.value = nn.Linear(width, spec.kv_width, bias=False)
        self.out = nn.Linear(spec.query_width, width, bias=False)
        self.gate = nn.Linear(width, spec.ffn_width, bias=False)
        self.up = nn.Linear(width, spec.ffn_width, bias=False)
        self.down = nn.Linear(spec.ffn_width, width, bias=False)

    def forward(self, hidden: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        rows, length, _ = hidden.shape
        normal = self.norm1(hidden)
        query, key, value = (
            each(normal).view(rows, length, -1, self.head_width)
            for each in (self.query, self.key, self.value)
        )
        query, key = _turn(query, cosine, sine), _turn(key, cosine, sine)
        mixed = functional.scaled_dot_product_attention(
            query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), is_causal=True, enable_gqa=True
        )
        hidden = hidden + self.out(mixed.transpose(1, 2).reshape(rows, length, -1))
        normal = self.norm2(hidden)
        result: Tensor = hidden + self.down(functional.silu(self.gate(normal)) * self.up(normal))
        return result


def _turn(heads: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    first, second = heads.chunk(2, -1)
    return torch.cat((first * cosine - second * sine, second * cosine + first * sine), -1)


class PlainDecoder(nn.Module):
    """Tokens `[rows, length + 1]` to the mean loss in nats."""

    def __init__(self, spec: ModelSpec, vocabulary: int) -> None:
        super().__init__()
        self.spec = spec
        self.embedding = nn.Embedding(vocabulary, spec.width)
        self.blocks = nn.ModuleList(Block(spec) for _ in range(spec.layers))
        self.norm = nn.RMSNorm(spec.width, spec.norm_epsilon)
        self.head = nn.Linear(spec.width, vocabulary, bias=False)

    def forward(self, batch: Tensor) -> Tensor:
        tokens, targets = batch[:, :-1], batch[:, 1:]
        hidden = self.embedding(tokens)
        width = self.spec.head_elements
        exponents = torch.arange(0, width, 2, device=hidden.device, dtype=torch.float32) / width
        places = torch.arange(tokens.shape[1], device=hidden.device, dtype=torch.float32)
        angles = torch.outer(places, self.spec.rope_base**-exponents)
        cosine, sine = angles.cos()[:, None].to(hidden.dtype), angles.sin()[:, None].to(hidden.dtype)
        for block in self.blocks:
            hidden = block(hidden, cosine, sine)
        logits = self.head(self.norm(hidden))
        return functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())
