"""The vision transformer: a classifier, or a masked autoencoder. See docs/design/families.md.

Plain single-device code, built on the meta device (Dosovitskiy et al. 2020; He et al. 2021).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stoker.spec.vision import VisionSpec
from stoker.train.models.encoder import EncoderBlock, patches_of


def build_vision(spec: VisionSpec) -> VisionTransformer:
    """The model on the meta device. Raises InvalidVision when sizes do not fit."""
    spec.validate()
    with torch.device("meta"):
        return VisionTransformer(spec)


class VisionTransformer(nn.Module):
    """Pixels `[rows, channels, size, size]` to logits `[rows, classes]`, or to pixels of all patches.

    `blocks` are the encoder's, then, with the masked objective, the decoder's.
    """

    residual_outputs: tuple[str, ...] = ("attention.output.weight", "feed_forward.down.weight")
    # What the first and the last stage of a pipeline have beside blocks; the masked objective has none.
    entry: tuple[str, ...] = ("patch_embedding", "class_token", "positions")
    exit: tuple[str, ...] = ("norm", "head")

    def __init__(self, spec: VisionSpec) -> None:
        super().__init__()
        self.spec = spec
        picture = spec.picture
        self.patch_embedding = nn.Linear(picture.patch_elements, spec.width)
        self.class_token = nn.Parameter(torch.empty(1, spec.width))
        self.positions = nn.Parameter(torch.empty(picture.patches + 1, spec.width))
        blocks = [EncoderBlock(spec.width, spec.heads, spec.ffn_width) for _ in range(spec.layers)]
        self.norm = nn.LayerNorm(spec.width, eps=1e-6)
        if spec.masked:
            inner = spec.decoder
            self.across = nn.Linear(spec.width, inner.width)
            self.mask_token = nn.Parameter(torch.empty(1, inner.width))
            self.decoder_positions = nn.Parameter(torch.empty(picture.patches + 1, inner.width))
            blocks += [EncoderBlock(inner.width, inner.heads, inner.ffn_width) for _ in range(inner.layers)]
            self.decoder_norm = nn.LayerNorm(inner.width, eps=1e-6)
            self.head = nn.Linear(inner.width, picture.patch_elements)
        else:
            self.head = nn.Linear(spec.width, spec.classes)
        self.blocks = nn.ModuleList(blocks)

    def forward(self, pixels: Tensor, kept: Tensor | None = None) -> Tensor:
        """With the masked objective `kept` int64 `[rows, kept_patches]` are the patches that are seen.

        Then the result is `[rows, patches, channels · patch²]`, else `[rows, classes]`.
        """
        hidden = self.enter(pixels, kept)
        for block in self.blocks[: self.spec.layers]:
            hidden = block(hidden)
        return self.leave(hidden) if kept is None else self._hidden_patches(self.norm(hidden), kept)

    def enter(self, pixels: Tensor, kept: Tensor | None = None) -> Tensor:
        """The stream `[rows, patches + 1, width]` before the first block: the class token, then patches."""
        hidden = self.patch_embedding(patches_of(pixels, self.spec.patch)) + self.positions[1:]
        if kept is not None:
            hidden = hidden.gather(1, kept.unsqueeze(-1).expand(-1, -1, hidden.shape[-1]))
        first = (self.class_token + self.positions[:1]).expand(len(pixels), 1, -1)
        return torch.cat((first, hidden), dim=1)

    def leave(self, hidden: Tensor) -> Tensor:
        """The stream after the last block to logits `[rows, classes]`."""
        logits: Tensor = self.head(self.norm(hidden)[:, 0])
        return logits

    def _hidden_patches(self, hidden: Tensor, kept: Tensor) -> Tensor:
        """A guess at every patch from those that were seen, each at its place, mask tokens at the others."""
        hidden = self.across(hidden)
        rows, _, width = hidden.shape
        patches = self.spec.picture.patches
        places = kept.unsqueeze(-1).expand(-1, -1, width)
        everywhere = self.mask_token.to(hidden.dtype).expand(rows, patches, width)
        everywhere = everywhere.scatter(1, places, hidden[:, 1:])
        hidden = torch.cat((hidden[:, :1], everywhere), dim=1) + self.decoder_positions
        for block in self.blocks[self.spec.layers :]:
            hidden = block(hidden)
        pixels: Tensor = self.head(self.decoder_norm(hidden[:, 1:]))
        return pixels
