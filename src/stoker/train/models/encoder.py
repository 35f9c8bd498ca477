"""A block that sees in both directions: attention and a GELU feed-forward. See docs/design/families.md.

The blocks of the vision transformer (Dosovitskiy et al. 2020) and of the moderation encoders. The names of
its parts are the decoder's, so that a layout which splits one splits the other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch.nn.functional as functional
from torch import Tensor, nn

from stoker.train.models.norm import rotate

AttendAll: TypeAlias = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
"""Query, key and value `[batch, length, heads, head_width]`, and which keys are there, bool `[batch,
length]` or None where all are, to what they attend to, of the query's shape."""


class EncoderAttention(nn.Module):
    """Self-attention over all positions that are there.

    `attend` is an attribute, so that a rank with a part of the positions can put another function there.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.head_width = width // heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)
        self.attend: AttendAll = attend_all

    def forward(
        self, hidden: Tensor, mask: Tensor | None = None, turns: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """`mask` bool `[batch, length]`: which are there; `turns`: cosine and sine of `rotation`."""
        # -1, not heads: under tensor parallelism a rank has its share of the heads.
        batch, length, _ = hidden.shape
        query, key, value = (
            part(hidden).view(batch, length, -1, self.head_width)
            for part in (self.query, self.key, self.value)
        )
        if turns is not None:
            query, key = rotate(query, *turns), rotate(key, *turns)
        joined: Tensor = self.output(self.attend(query, key, value, mask).reshape(batch, length, -1))
        return joined


def attend_all(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """Attention in both directions, of one process; an `AttendAll`."""
    mixed = functional.scaled_dot_product_attention(
        query.transpose(1, 2),
        key.transpose(1, 2),
        value.transpose(1, 2),
        attn_mask=None if mask is None else mask[:, None, None, :],
    )
    return mixed.transpose(1, 2)


class EncoderFeedForward(nn.Module):
    """`down(activation(up x))`."""

    def __init__(
        self, width: int, hidden_width: int, activation: Callable[[Tensor], Tensor] = functional.gelu
    ) -> None:
        super().__init__()
        self.activation = activation
        self.up = nn.Linear(width, hidden_width)
        self.down = nn.Linear(hidden_width, width)

    def forward(self, hidden: Tensor) -> Tensor:
        result: Tensor = self.down(self.activation(self.up(hidden)))
        return result


class EncoderBlock(nn.Module):
    """Attention, then feed-forward, each on the normalised stream and added to it."""

    def __init__(self, width: int, heads: int, ffn_width: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width, eps=1e-6)
        self.attention = EncoderAttention(width, heads)
        self.feed_forward_norm = nn.LayerNorm(width, eps=1e-6)
        self.feed_forward = EncoderFeedForward(width, ffn_width)

    def forward(self, hidden: Tensor, mask: Tensor | None = None) -> Tensor:
        """`mask` bool `[batch, length]`: which positions are there; all without one."""
        hidden = hidden + self.attention(self.attention_norm(hidden), mask)
        result: Tensor = hidden + self.feed_forward(self.feed_forward_norm(hidden))
        return result


def patches_of(pixels: Tensor, patch: int) -> Tensor:
    """`[rows, channels, height, width]` cut into `[rows, patches, channels · patch²]`, row by row."""
    rows, channels, height, width = pixels.shape
    grid = pixels.view(rows, channels, height // patch, patch, width // patch, patch)
    return grid.permute(0, 2, 4, 1, 3, 5).reshape(rows, -1, channels * patch * patch)


def mean_of_present(hidden: Tensor, mask: Tensor | None) -> Tensor:
    """The mean over positions `[rows, width]` of those that `mask` says are there; zero where none is."""
    if mask is None:
        return hidden.mean(dim=1)
    there = mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * there).sum(dim=1) / there.sum(dim=1).clamp(min=1.0)
