"""The decoder language model: RoPE, grouped-query attention, SwiGLU, RMSNorm. See docs/design/train-model.md.

Plain single-device code: nothing here knows of ranks, meshes or precision. It is built on the meta device,
so that building costs no memory; `stoker.train.models.initialise` gives it weights.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from stoker.spec.model import ModelSpec
from stoker.train.loss import OutputHead
from stoker.train.models.moe import MoE, SwiGLU
from stoker.train.models.norm import RMSNorm, rotate, rotation

Attend: TypeAlias = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Query, key and value `[batch, length, heads, head_width]` to what they attend to, of the query's shape."""


def build_model(spec: ModelSpec, vocabulary: int) -> Decoder:
    """The model on the meta device: shapes without storage. Raises InvalidModel when sizes do not fit."""
    spec.validate()
    with torch.device("meta"):
        return Decoder(spec, vocabulary)


class Attention(nn.Module):
    """Causal self-attention; `heads` query heads share `kv_heads` key and value heads.

    `attend` is an attribute, so that a rank with a part of the sequence can put another function there.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.heads = spec.heads
        self.kv_heads = spec.kv_heads
        self.head_width = spec.head_elements
        self.query = nn.Linear(spec.width, spec.query_width, bias=spec.qkv_bias)
        self.key = nn.Linear(spec.width, spec.kv_width, bias=spec.qkv_bias)
        self.value = nn.Linear(spec.width, spec.kv_width, bias=spec.qkv_bias)
        self.output = nn.Linear(spec.query_width, spec.width, bias=False)
        self.query_norm = RMSNorm(self.head_width, spec.norm_epsilon) if spec.qk_norm else None
        self.key_norm = RMSNorm(self.head_width, spec.norm_epsilon) if spec.qk_norm else None
        self.attend: Attend = attend

    def forward(self, hidden: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        # -1, not self.heads: under tensor parallelism a rank has its share of the heads.
        batch, length, _ = hidden.shape
        query = self.query(hidden).view(batch, length, -1, self.head_width)
        key = self.key(hidden).view(batch, length, -1, self.head_width)
        value = self.value(hidden).view(batch, length, -1, self.head_width)
        if self.query_norm is not None and self.key_norm is not None:
            query, key = self.query_norm(query), self.key_norm(key)
        query, key = rotate(query, cosine, sine), rotate(key, cosine, sine)
        joined: Tensor = self.output(self.attend(query, key, value).reshape(batch, length, -1))
        return joined


class Block(nn.Module):
    """Attention, then feed-forward or experts, each on the normalised stream and added back to it."""

    def __init__(self, spec: ModelSpec, *, experts: bool = False) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(spec.width, spec.norm_epsilon)
        self.attention = Attention(spec)
        self.feed_forward_norm = RMSNorm(spec.width, spec.norm_epsilon)
        self.feed_forward = MoE(spec) if experts else SwiGLU(spec.width, spec.ffn_width)

    def forward(self, hidden: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        hidden = hidden + self.attention(self.attention_norm(hidden), cosine, sine)
        result: Tensor = hidden + self.feed_forward(self.feed_forward_norm(hidden))
        return result


class Decoder(nn.Module):
    """Tokens `[batch, length]` to logits `[batch, length, vocabulary]`; a position sees those before it.

    A pipeline stage may set `embedding`, `norm` and `head` to None: the first takes tokens, all others the
    stream `[batch, length, width]`, and only the last gives logits.
    """

    residual_outputs: tuple[str, ...] = (
        "attention.output.weight",
        "feed_forward.down.weight",
        "feed_forward.shared.down.weight",
        "feed_forward.experts.down",
    )

    def __init__(self, spec: ModelSpec, vocabulary: int) -> None:
        super().__init__()
        self.spec = spec
        self.vocabulary = vocabulary
        dense_layers = spec.layers - spec.moe_layers
        self.embedding: nn.Embedding | None = nn.Embedding(vocabulary, spec.width)
        self.blocks = nn.ModuleList(
            Block(spec, experts=layer >= dense_layers) for layer in range(spec.layers)
        )
        self.norm: RMSNorm | None = RMSNorm(spec.width, spec.norm_epsilon)
        self.head = None if spec.tied_embeddings else nn.Linear(spec.width, vocabulary, bias=False)
        # How a layout plugs in: what the stream becomes in the end, and where this rank's tokens stand.
        self.output = OutputHead()
        self.positions_of: Callable[[int, torch.device], Tensor] | None = None

    def forward(
        self, tokens: Tensor, positions: Tensor | None = None, targets: Tensor | None = None
    ) -> Tensor:
        """`positions` int64 `[length]` where they are not 0, 1, 2 …; with `targets` the mean loss."""
        hidden = self.stream(tokens, positions)
        if self.norm is None:
            return hidden
        hidden, matrix = self.norm(hidden), self.output_matrix
        if targets is None:
            return self.output.logits(hidden, matrix)
        return self.output.loss(hidden, matrix, targets)

    @property
    def output_matrix(self) -> Tensor:
        """The head's matrix `[vocabulary, width]`.

        A tied head uses the embedding's in place instead of sharing a parameter between two modules: one name
        in the checkpoint, and nothing for FSDP to keep in step.
        """
        owner = self.head if self.head is not None else self.embedding
        assert owner is not None
        return owner.weight

    def stream(self, tokens: Tensor, positions: Tensor | None = None) -> Tensor:
        """The residual stream `[batch, length, width]` after the last block."""
        hidden = tokens if self.embedding is None else self.embedding(tokens)
        if positions is None and self.positions_of is not None:
            positions = self.positions_of(tokens.shape[1], hidden.device)
        cosine, sine = rotation(
            tokens.shape[1],
            self.spec.head_elements,
            self.spec.rope_base,
            hidden.device,
            scaling=self.spec.rope_scaling,
            positions=positions,
        )
        cosine, sine = cosine.to(hidden.dtype), sine.to(hidden.dtype)
        for block in self.blocks:
            hidden = block(hidden, cosine, sine)
        return hidden


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
    # Not bmm and an addition in place: recompute may have kept the product as it was.
    scores = torch.baddbmm(future.repeat(group, 1), query, key)
    scores = scores.view(batch * kv_heads, group, length, length)
    weights = torch.softmax(scores, dim=-1).view(batch * kv_heads, group * length, length)
    mixed = torch.bmm(weights, value).view(batch, kv_heads, group, length, width)
    return mixed.permute(0, 3, 1, 2, 4).reshape(batch, length, heads, width)
