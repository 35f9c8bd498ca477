"""Models that tell harmful content, by their shape, with their formulas. See docs/design/spec.md.

A text encoder, an image encoder, or both; what they say of a record is joined and read out for each label by
itself, since a record can be harmful in several ways.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterator
from dataclasses import dataclass

from stoker.core.errors import StokerError
from stoker.spec.encoder import EncoderSize, PictureSize, size_problems


class InvalidModeration(StokerError):
    """Sizes of a moderation model that do not fit each other; the message lists every mistake."""

    exit_code = 103


class ThresholdRule(enum.StrEnum):
    """By what a label's threshold is chosen on the calibration part."""

    F1 = "f1"
    """The highest F1."""

    PRECISION = "precision"
    """The most recall at a precision of at least the target: no wrong accusations."""

    RECALL = "recall"
    """The most precision at a recall of at least the target: nothing missed."""


@dataclass(frozen=True, slots=True)
class TextTowerSpec:
    """An encoder of the first `sequence_tokens` tokens of a text.

    With `bag` every token also says something of each label by itself, wherever it stands.
    """

    layers: int = 2
    width: int = 128
    heads: int = 4
    ffn_width: int = 384
    sequence_tokens: int = 256
    bag: bool = False

    def problems(self) -> Iterator[str]:
        """One sentence for each rule that is broken, naming the fields and their values."""
        yield from size_problems(self, "sequence_tokens")
        yield from self.encoder.problems()

    @property
    def encoder(self) -> EncoderSize:
        """The stack of blocks."""
        return EncoderSize(self.layers, self.width, self.heads, self.ffn_width)


@dataclass(frozen=True, slots=True)
class ImageTowerSpec:
    """An encoder of a square picture cut into patches."""

    layers: int = 2
    width: int = 128
    heads: int = 4
    ffn_width: int = 384
    image_size: int = 28
    channels: int = 1
    patch: int = 4

    def problems(self) -> Iterator[str]:
        """One sentence for each rule that is broken, naming the fields and their values."""
        yield from self.encoder.problems()
        yield from self.picture.problems()

    @property
    def encoder(self) -> EncoderSize:
        """The stack of blocks."""
        return EncoderSize(self.layers, self.width, self.heads, self.ffn_width)

    @property
    def picture(self) -> PictureSize:
        """The pictures it takes."""
        return PictureSize(self.image_size, self.channels, self.patch)


@dataclass(frozen=True, slots=True)
class ModerationSpec:
    """`labels` are what a record may be, none or several of them. `text`, `image`, or both read it.

    `joint_width` is the hidden layer between the encoders and the labels, 0 for none. `groups` names what
    figures are told of one by one (languages, sources), in the order of their numbers. `positive_weight` is
    how much more a record that has a label counts than one that has not.
    """

    labels: tuple[str, ...] = ("harmful",)
    text: TextTowerSpec | None = None
    image: ImageTowerSpec | None = None
    joint_width: int = 0
    groups: tuple[str, ...] = ()
    positive_weight: float = 1.0
    threshold_rule: ThresholdRule = ThresholdRule.F1
    threshold_target: float = 0.95

    def problems(self) -> Iterator[str]:
        """One sentence for each rule that is broken, naming the fields and their values.

        Those inside `text` and `image` are told by these.
        """
        if self.text is None and self.image is None:
            yield "neither text nor image is there; a record is read by one of them at least"
        if not self.labels:
            yield "labels is empty; name what a record may be"
        for name in ("labels", "groups"):
            words: tuple[str, ...] = getattr(self, name)
            if len(set(words)) < len(words) or any(not word or "." in word for word in words):
                yield f"{name} holds a name that is empty, has a dot, or comes twice: {', '.join(words)}"
        if self.joint_width < 0:
            yield f"joint_width is {self.joint_width}; it must be 0 or more"
        if not (math.isfinite(self.positive_weight) and self.positive_weight > 0):
            yield f"positive_weight is {self.positive_weight}; it must be a number above 0"
        if not 0.0 < self.threshold_target <= 1.0:
            yield f"threshold_target is {self.threshold_target}; it must be above 0, at most 1"

    def validate(self) -> None:
        """Raise InvalidModeration, listing every problem, when there is any."""
        problems = list(self.problems())
        for name, tower in (("text", self.text), ("image", self.image)):
            if tower is not None:
                problems.extend(f"{name}.{problem}" for problem in tower.problems())
        if problems:
            raise InvalidModeration(
                f"This moderation model cannot be built: {'; '.join(problems)}.",
                hint="Change these values under [moderation].",
            )

    @property
    def layers(self) -> int:
        """The blocks that the deeper of its encoders adds to a stream."""
        return max(tower.layers for tower in (self.text, self.image) if tower is not None)

    @property
    def joined_width(self) -> int:
        """The elements that all encoders give together."""
        return sum(tower.width for tower in (self.text, self.image) if tower is not None)

    def parameters(self, vocabulary: int) -> int:
        """The trained parameters; `vocabulary` of the text's tokens, 0 without a text."""
        total = 0
        if self.text is not None:
            total += (vocabulary + self.text.sequence_tokens) * self.text.width
            total += self.text.encoder.parameters()
            total += vocabulary * len(self.labels) if self.text.bag else 0
        if self.image is not None:
            picture = self.image.picture
            total += (picture.patch_elements + 1 + picture.patches) * self.image.width
            total += self.image.encoder.parameters()
        read = self.joined_width
        if self.joint_width:
            total += (read + 1) * self.joint_width
            read = self.joint_width
        return total + (read + 1) * len(self.labels)

    def forward_flops_per_sample(self) -> float:
        """Model FLOPs of the forward pass for one record, by the convention of docs/design/spec.md."""
        total = 0.0
        if self.text is not None:
            total += self.text.encoder.forward_flops(self.text.sequence_tokens)
        if self.image is not None:
            picture = self.image.picture
            total += 2 * picture.patches * picture.patch_elements * self.image.width
            total += self.image.encoder.forward_flops(picture.patches)
        read = self.joined_width
        if self.joint_width:
            total += 2 * read * self.joint_width
            read = self.joint_width
        return total + 2 * read * len(self.labels)

    def training_flops_per_sample(self) -> float:
        """Model FLOPs of forward and backward for one record: three times the forward pass."""
        return 3 * self.forward_flops_per_sample()
