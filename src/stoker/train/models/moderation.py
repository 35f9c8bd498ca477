"""A model that tells harmful content in text, images, or both. See docs/design/families.md.

Plain single-device code, built on the meta device. Each encoder gives the mean of its positions; they stand
side by side before the labels.
"""

from __future__ import annotations

from typing import Final

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from stoker.spec.moderation import ImageTowerSpec, ModerationSpec, TextTowerSpec
from stoker.train.models.encoder import EncoderBlock, mean_of_present, patches_of

BAG_SCALE: Final = 16.0


def build_moderation(spec: ModerationSpec, vocabulary: int) -> Moderator:
    """The model on the meta device. Raises InvalidModeration when sizes do not fit."""
    spec.validate()
    with torch.device("meta"):
        return Moderator(spec, vocabulary)


class TextEntry(nn.Module):
    """Tokens `[rows, length]` to a stream `[rows, length, width]`."""

    def __init__(self, spec: TextTowerSpec, vocabulary: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, spec.width)
        self.positions = nn.Parameter(torch.empty(spec.sequence_tokens, spec.width))

    def forward(self, tokens: Tensor) -> Tensor:
        stream: Tensor = self.embedding(tokens) + self.positions[: tokens.shape[1]]
        return stream


class Bag(nn.Module):
    """What each token says of each label by itself: a linear model beside the encoder (Cheng et al. 2016).

    Distinct tokens of a text are added up, over the square root of how many there are. The sum is scaled so
    that steps of the size which suits matrices move it as fast as them.
    """

    def __init__(self, vocabulary: int, labels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocabulary, labels))

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """`tokens` int64 and `mask` bool `[rows, length]` to logits fp32 `[rows, labels]`."""
        ordered = torch.where(mask, tokens, -1).sort(dim=1).values
        distinct = torch.ones_like(mask)
        distinct[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
        distinct &= ordered >= 0
        said = functional.embedding(ordered.clamp(min=0), self.weight).float()
        count = distinct.sum(dim=1, keepdim=True).clamp(min=1)
        return BAG_SCALE * (said * distinct.unsqueeze(-1)).sum(dim=1) / count.sqrt()


class ImageEntry(nn.Module):
    """Pixels `[rows, channels, size, size]` to a stream `[rows, patches, width]`."""

    def __init__(self, spec: ImageTowerSpec) -> None:
        super().__init__()
        self.patch = spec.patch
        self.embedding = nn.Linear(spec.picture.patch_elements, spec.width)
        self.positions = nn.Parameter(torch.empty(spec.picture.patches, spec.width))

    def forward(self, pixels: Tensor) -> Tensor:
        stream: Tensor = self.embedding(patches_of(pixels, self.patch)) + self.positions
        return stream


class Moderator(nn.Module):
    """Tokens and their mask, pixels, or both, to logits `[rows, labels]`.

    `blocks` are those of the text's encoder, then those of the image's.
    """

    residual_outputs: tuple[str, ...] = ("attention.output.weight", "feed_forward.down.weight")
    zero_at_first: tuple[str, ...] = ("bag.weight",)

    def __init__(self, spec: ModerationSpec, vocabulary: int) -> None:
        super().__init__()
        self.spec = spec
        text, image = spec.text, spec.image
        self.text = None if text is None else TextEntry(text, vocabulary)
        self.text_norm = None if text is None else nn.LayerNorm(text.width, eps=1e-6)
        self.bag = None if text is None or not text.bag else Bag(vocabulary, len(spec.labels))
        self.image = None if image is None else ImageEntry(image)
        self.image_norm = None if image is None else nn.LayerNorm(image.width, eps=1e-6)
        self.blocks = nn.ModuleList(
            EncoderBlock(tower.width, tower.heads, tower.ffn_width)
            for tower in (text, image)
            if tower is not None
            for _ in range(tower.layers)
        )
        self.joint = nn.Linear(spec.joined_width, spec.joint_width) if spec.joint_width else None
        self.head = nn.Linear(spec.joint_width or spec.joined_width, len(spec.labels))

    def forward(
        self, tokens: Tensor | None = None, mask: Tensor | None = None, pixels: Tensor | None = None
    ) -> Tensor:
        """`tokens` int64 and `mask` bool `[rows, length]`; `pixels` `[rows, channels, size, size]`."""
        found = []
        text_blocks = 0 if self.spec.text is None else self.spec.text.layers
        if self.text is not None and self.text_norm is not None:
            assert tokens is not None and mask is not None
            # A text without a token sees its padding: attention to nothing would be no number.
            seen = mask | (~mask.any(dim=1, keepdim=True))
            hidden = self.text(tokens)
            for block in self.blocks[:text_blocks]:
                hidden = block(hidden, seen)
            found.append(mean_of_present(self.text_norm(hidden), mask))
        if self.image is not None and self.image_norm is not None:
            assert pixels is not None
            hidden = self.image(pixels)
            for block in self.blocks[text_blocks:]:
                hidden = block(hidden)
            found.append(mean_of_present(self.image_norm(hidden), None))
        joined = torch.cat(found, dim=-1)
        if self.joint is not None:
            joined = functional.gelu(self.joint(joined))
        logits: Tensor = self.head(joined)
        if self.bag is None:
            return logits
        assert tokens is not None and mask is not None
        said: Tensor = self.bag(tokens, mask)
        return logits.float() + said
