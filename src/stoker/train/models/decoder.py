"""The decoder language model: RoPE, grouped-query attention, SwiGLU, RMSNorm. See docs/design/train-model.md.

Plain single-device code: nothing here knows of ranks, meshes or precision. It is built on the meta device,
so that building costs no memory; `stoker.train.models.initialise` gives it weights.
"""

from __future__ import annotations

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from stoker.spec.model import ModelSpec
from stoker.train.models.norm import RMSNorm, rotate, rotation


def build_model(spec: ModelSpec, vocabulary: int) -> Decoder:
    """The model on the meta device: shapes without storage. Raises InvalidModel when sizes do not fit."""
    spec.validate()
    with torch.device("meta"):
        return Decoder(spec, vocabulary)


class Attention(nn.Module):
    """Causal self-attention; `heads` query heads share `kv_heads` key and value heads."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.heads = spec.heads
        self.kv_heads = spec.kv_heads
        self.head_width = spec.width // spec.heads
        self.query = nn.Linear(spec.width, spec.heads * self.head_width, bias=False)
        self.key = nn.Linear(spec.width, spec.kv_heads * self.head_width, bias=False)
        self.value = nn.Linear(spec.width, spec.kv_heads * self.head_width, bias=False)
        self.output = nn.Linear(spec.heads * self.head_width, spec.width, bias=False)
        self.query_norm = RMSNorm(self.head_width, spec.norm_epsilon) if spec.qk_norm else None
        self.key_norm = RMSNorm(self.head_width, spec.norm_epsilon) if spec.qk_norm else None

    def forward(self, hidden: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        batch, length, _ = hidden.shape
        query = self.query(hidden).view(batch, length, self.heads, self.head_width)
        key = self.key(hidden).view(batch, length, self.kv_heads, self.head_width)
        value = self.value(hidden).view(batch, length, self.kv_heads, self.head_width)
        if self.query_norm is not None and self.key_norm is not None:
            query, key = self.query_norm(query), self.key_norm(key)
        query, key = rotate(query, cosine, sine), rotate(key, cosine, sine)
        joined: Tensor = self.output(attend(query, key, value).reshape(batch, length, -1))
        return joined


class FeedForward(nn.Module):
    """SwiGLU: `down(silu(gate x) * up x)`."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.gate = nn.Linear(spec.width, spec.ffn_width, bias=False)
        self.up = nn.Linear(spec.width, spec.ffn_width, bias=False)
        self.down = nn.Linear(spec.ffn_width, spec.width, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        result: Tensor = self.down(functional.silu(self.gate(hidden)) * self.up(hidden))
        return result


class Block(nn.Module):
    """Attention, then feed-forward, each on the normalised stream and added back to it."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(spec.width, spec.norm_epsilon)
        self.attention = Attention(spec)
        self.feed_forward_norm = RMSNorm(spec.width, spec.norm_epsilon)
        self.feed_forward = FeedForward(spec)

    def forward(self, hidden: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        hidden = hidden + self.attention(self.attention_norm(hidden), cosine, sine)
        result: Tensor = hidden + self.feed_forward(self.feed_forward_norm(hidden))
        return result


class Decoder(nn.Module):
    """Tokens `[batch, length]` to logits `[batch, length, vocabulary]`; a position sees those before it."""

    def __init__(self, spec: ModelSpec, vocabulary: int) -> None:
        super().__init__()
        self.spec = spec
        self.vocabulary = vocabulary
        self.embedding = nn.Embedding(vocabulary, spec.width)
        self.blocks = nn.ModuleList(Block(spec) for _ in range(spec.layers))
        self.norm = RMSNorm(spec.width, spec.norm_epsilon)
        self.head = None if spec.tied_embeddings else nn.Linear(spec.width, vocabulary, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.embedding(tokens)
        cosine, sine = rotation(
            tokens.shape[1], self.spec.width // self.spec.heads, self.spec.rope_base, hidden.device
        )
        cosine, sine = cosine.to(hidden.dtype), sine.to(hidden.dtype)
        for block in self.blocks:
            hidden = block(hidden, cosine, sine)
        hidden = self.norm(hidden)
        # A tied head uses the embedding's matrix here instead of sharing a parameter between two modules: one
        # name in the checkpoint, and nothing for FSDP to keep in step.
        logits: Tensor = (
            functional.linear(hidden, self.embedding.weight) if self.head is None else self.head(hidden)
        )
        return logits


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Causal attention of `[batch, length, heads, head_width]` over fewer key and value heads."""
    if query.device.type == "cpu" and query.dtype == torch.bfloat16:
        return _attend_by_products(query, key, value)
    mixed = functional.scaled_dot_product_attention(
        query.transpose(1, 2),
        key.transpose(1, 2),
        value.transpose(1, 2),
        is_causal=True,
        enable_gqa=query.shape[2] != key.shape[2],
    )
    return mixed.transpose(1, 2)


def _attend_by_products(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """The same as two batched products around a softmax.

    torch's fused kernel for CPUs keeps its products in fp32 units; with bf16 ones this takes half its time
    (docs/decisions/0602-small-operations-on-cpu.md). The query heads of one key head are rows of one product.
    """
    batch, length, heads, width = query.shape
    kv_heads = key.shape[2]
    group = heads // kv_heads
    query = (query * width**-0.5).view(batch, length, kv_heads, group, width).permute(0, 2, 3, 1, 4)
    query = query.reshape(batch * kv_heads, group * length, width)
    key = key.permute(0, 2, 3, 1).reshape(batch * kv_heads, width, length)
    value = value.transpose(1, 2).reshape(batch * kv_heads, length, width)
    future = torch.full((length, length), -torch.inf, dtype=query.dtype, device=query.device).triu(1)
    scores = torch.bmm(query, key).view(batch * kv_heads, group, length, length).add_(future)
    weights = torch.softmax(scores, dim=-1).view(batch * kv_heads, group * length, length)
    mixed = torch.bmm(weights, value).view(batch, kv_heads, group, length, width)
    return mixed.permute(0, 3, 1, 2, 4).reshape(batch, length, heads, width)
