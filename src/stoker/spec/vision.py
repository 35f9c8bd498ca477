"""Vision transformers by their shape, with their parameter and FLOP formulas. See docs/design/spec.md.

The model is that of Dosovitskiy et al. 2020; with the masked objective it has the narrow decoder of masked
autoencoders (He et al. 2021).
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass

from stoker.core.errors import StokerError
from stoker.spec.encoder import EncoderSize, PictureSize, size_problems


class InvalidVision(StokerError):
    """Sizes of a vision model that do not fit each other; the message lists every mistake."""

    exit_code = 101


class VisionObjective(enum.StrEnum):
    """What a vision model learns."""

    CLASSIFY = "classify"
    """Which of `classes` a picture is of."""

    MASKED = "masked"
    """The pixels of patches that it does not see."""


@dataclass(frozen=True, slots=True)
class VisionSpec:
    """A ViT over square pictures `[channels, image_size, image_size]`. Sizes in elements.

    `mask_ratio`, `decoder_layers`, `decoder_width` and `decoder_heads` are of the masked objective.
    """

    image_size: int = 28
    channels: int = 1
    patch: int = 4
    layers: int = 6
    width: int = 128
    heads: int = 4
    ffn_width: int = 384
    classes: int = 10
    objective: VisionObjective = VisionObjective.CLASSIFY
    label_smoothing: float = 0.0
    mask_ratio: float = 0.75
    decoder_layers: int = 2
    decoder_width: int = 64
    decoder_heads: int = 4

    def problems(self) -> Iterator[str]:
        """One sentence for each rule that is broken, naming the fields and their values."""
        yield from self.encoder.problems()
        yield from self.picture.problems()
        if not 0.0 <= self.label_smoothing < 1.0:
            yield f"label_smoothing is {self.label_smoothing}; it must be at least 0 and below 1"
        if self.objective is VisionObjective.CLASSIFY:
            if self.classes < 2:
                yield f"classes is {self.classes}; it must be at least 2"
            return
        yield from size_problems(self, "decoder_layers", "decoder_width", "decoder_heads")
        if self.decoder_width >= 1 and self.decoder_heads >= 1 and self.decoder_width % self.decoder_heads:
            yield f"decoder_width {self.decoder_width} is not divisible by decoder_heads {self.decoder_heads}"
        if not 0.0 < self.mask_ratio < 1.0:
            yield f"mask_ratio is {self.mask_ratio}; it must be above 0 and below 1"
        elif self.patch >= 1 and not 1 <= self.kept_patches < self.picture.patches:
            yield (
                f"mask_ratio {self.mask_ratio} keeps {self.kept_patches} of {self.picture.patches} patches; "
                "at least one must be kept and one hidden"
            )

    def validate(self) -> None:
        """Raise InvalidVision, listing every problem, when there is any."""
        problems = list(self.problems())
        if problems:
            raise InvalidVision(
                f"This vision model cannot be built: {'; '.join(problems)}.",
                hint="Change these values under [vision].",
            )

    @property
    def encoder(self) -> EncoderSize:
        """The stack of blocks."""
        return EncoderSize(self.layers, self.width, self.heads, self.ffn_width)

    @property
    def decoder(self) -> EncoderSize:
        """The stack that guesses hidden patches; four times as wide inside, as MAE's."""
        return EncoderSize(
            self.decoder_layers, self.decoder_width, self.decoder_heads, 4 * self.decoder_width
        )

    @property
    def picture(self) -> PictureSize:
        """The pictures it takes."""
        return PictureSize(self.image_size, self.channels, self.patch)

    @property
    def masked(self) -> bool:
        """Whether it learns hidden patches."""
        return self.objective is VisionObjective.MASKED

    @property
    def kept_patches(self) -> int:
        """How many patches the encoder sees under the masked objective."""
        return round(self.picture.patches * (1.0 - self.mask_ratio))

    def parameters(self) -> int:
        """The trained parameters."""
        patches, elements = self.picture.patches, self.picture.patch_elements
        embedding = (elements + 1) * self.width  # one matrix and its bias
        positions = (patches + 1) * self.width
        common = embedding + positions + self.width + self.encoder.parameters()  # + the class token
        if not self.masked:
            return common + (self.width + 1) * self.classes
        across = (self.width + 1) * self.decoder_width
        mask_and_positions = (1 + patches + 1) * self.decoder_width
        pixels = (self.decoder_width + 1) * elements
        return common + across + mask_and_positions + self.decoder.parameters() + pixels

    def forward_flops_per_sample(self) -> float:
        """Model FLOPs of the forward pass for one picture, by the convention of docs/design/spec.md."""
        patches, elements = self.picture.patches, self.picture.patch_elements
        seen = self.kept_patches if self.masked else patches
        embedding = 2 * seen * elements * self.width
        encoder = self.encoder.forward_flops(seen + 1)
        if not self.masked:
            return embedding + encoder + 2 * self.width * self.classes
        across = 2 * (seen + 1) * self.width * self.decoder_width
        pixels = 2 * patches * self.decoder_width * elements
        return embedding + encoder + across + self.decoder.forward_flops(patches + 1) + pixels

    def training_flops_per_sample(self) -> float:
        """Model FLOPs of forward and backward for one picture: three times the forward pass."""
        return 3 * self.forward_flops_per_sample()
