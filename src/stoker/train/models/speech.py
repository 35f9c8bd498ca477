"""The Conformer: attention and convolution over the positions of a clip. See docs/design/families.md.

Plain single-device code, built on the meta device (Gulati et al. 2020), with rotary positions, and LayerNorm
within the convolution. What is behind a clip's end changes nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from stoker.spec.speech import SpeechSpec
from stoker.train.models.encoder import EncoderAttention, EncoderFeedForward
from stoker.train.models.norm import rotation

Surround: TypeAlias = Callable[[Tensor, int], Tensor]
"""`[rows, positions, width]` with so many neighbours more on either side, zero where there is none."""


def build_speech(spec: SpeechSpec) -> Conformer:
    """The model on the meta device. Raises InvalidSpeech when sizes do not fit."""
    spec.validate()
    with torch.device("meta"):
        return Conformer(spec)


class Subsampling(nn.Module):
    """Two kernels of stride 2 over time and bands: `[rows, frames, mel_bins]` to a quarter of the frames."""

    def __init__(self, spec: SpeechSpec) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, spec.width, 3, stride=2, padding=1)
        self.second = nn.Conv2d(spec.width, spec.width, 3, stride=2, padding=1)
        bands = (spec.mel_bins + 3) // 4
        self.output = nn.Linear(spec.width * bands, spec.width)

    def forward(self, features: Tensor, frames: Tensor) -> Tensor:
        """Positions `[rows, positions, width]`; those behind a clip's end are zero before the last matrix."""
        hidden = features.unsqueeze(1)
        for kernel in (self.first, self.second):
            hidden = functional.relu(kernel(hidden))
            frames = (frames + 1) // 2
            # A kernel's bias writes behind the end too, and the next kernel would read it.
            there = torch.arange(hidden.shape[2], device=frames.device) < frames.unsqueeze(1)
            hidden = hidden * there[:, None, :, None].to(hidden.dtype)
        positions: Tensor = self.output(hidden.transpose(1, 2).flatten(2))
        return positions


def surround(hidden: Tensor, reach: int) -> Tensor:
    """Zeros on either side, in one process; a `Surround`."""
    return functional.pad(hidden, (0, 0, reach, reach))


class Convolution(nn.Module):
    """Each channel over its neighbours in time, between two matrices; a gate after the first.

    `surround` is an attribute, so that a rank with a part of the positions can bring neighbours of others.
    """

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.reach = kernel // 2
        self.surround: Surround = surround
        self.expand = nn.Linear(width, 2 * width)
        self.depthwise = nn.Conv1d(width, width, kernel, groups=width)
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, width)

    def forward(self, hidden: Tensor, there: Tensor) -> Tensor:
        hidden = functional.glu(self.expand(hidden), dim=-1)
        hidden = hidden * there.unsqueeze(-1).to(hidden.dtype)
        hidden = self.depthwise(self.surround(hidden, self.reach).transpose(1, 2)).transpose(1, 2)
        projected: Tensor = self.project(functional.silu(self.norm(hidden)))
        return projected


class ConformerBlock(nn.Module):
    """Half a feed-forward, attention, convolution, half a feed-forward, each added to the stream; a norm."""

    def __init__(self, spec: SpeechSpec) -> None:
        super().__init__()
        width = spec.width
        self.first_norm = nn.LayerNorm(width)
        self.first_feed_forward = EncoderFeedForward(width, spec.ffn_width, functional.silu)
        self.attention_norm = nn.LayerNorm(width)
        self.attention = EncoderAttention(width, spec.heads)
        self.convolution_norm = nn.LayerNorm(width)
        self.convolution = Convolution(width, spec.kernel)
        self.last_norm = nn.LayerNorm(width)
        self.last_feed_forward = EncoderFeedForward(width, spec.ffn_width, functional.silu)
        self.norm = nn.LayerNorm(width)

    def forward(self, hidden: Tensor, there: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        """`hidden` `[rows, positions, width]`; `there` bool `[rows, positions]`."""
        hidden = hidden + 0.5 * self.first_feed_forward(self.first_norm(hidden))
        hidden = hidden + self.attention(self.attention_norm(hidden), there, (cosine, sine))
        hidden = hidden + self.convolution(self.convolution_norm(hidden), there)
        hidden = hidden + 0.5 * self.last_feed_forward(self.last_norm(hidden))
        normal: Tensor = self.norm(hidden)
        return normal


class Conformer(nn.Module):
    """Log-mel features to logits `[rows, positions, symbols + 1]`; the last class is CTC's blank."""

    residual_outputs: tuple[str, ...] = (
        "attention.output.weight",
        "feed_forward.down.weight",
        "convolution.project.weight",
    )
    # What the first and the last stage of a pipeline have beside blocks.
    entry: tuple[str, ...] = ("subsampling",)
    exit: tuple[str, ...] = ("head",)

    def __init__(self, spec: SpeechSpec) -> None:
        super().__init__()
        self.spec = spec
        self.subsampling = Subsampling(spec)
        self.blocks = nn.ModuleList(ConformerBlock(spec) for _ in range(spec.layers))
        self.head = nn.Linear(spec.width, spec.classes)

    def forward(self, features: Tensor, frames: Tensor) -> Tensor:
        """`features` `[rows, frames, mel_bins]`, of which `frames` int64 `[rows]` are there."""
        hidden = self.enter(features, frames)
        beside = self.beside(hidden, frames)
        for block in self.blocks:
            hidden = block(hidden, *beside)
        return self.leave(hidden)

    def enter(self, features: Tensor, frames: Tensor) -> Tensor:
        """The stream `[rows, positions, width]` before the first block."""
        hidden: Tensor = self.subsampling(features, frames)
        return hidden

    def beside(
        self, hidden: Tensor, frames: Tensor, *, places: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What blocks take beside the stream: which positions are there; cosine and sine of all.

        `places` int64 `[positions]` are where they stand in the clip: 0, 1, 2 … unless given.
        """
        for _ in range(2):  # the subsampling's strides
            frames = (frames + 1) // 2
        length = hidden.shape[1]
        if places is None:
            places = torch.arange(length, device=frames.device)
        there = places < frames.unsqueeze(1)
        head_width = self.spec.width // self.spec.heads
        cosine, sine = rotation(length, head_width, self.spec.rope_base, hidden.device, positions=places)
        return there, cosine.to(hidden.dtype), sine.to(hidden.dtype)

    def leave(self, hidden: Tensor) -> Tensor:
        """The stream after the last block to logits `[rows, positions, classes]`."""
        logits: Tensor = self.head(hidden)
        return logits
