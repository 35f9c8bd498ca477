"""How encoded fields of records become arrays, at what cost. See docs/design/feed.md, "Decoding"."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from stoker.feed.errors import BadFeedSetting

_MOST_SIDE = 1 << 16
_MOST_BYTES = 1 << 30


class OnFault(enum.StrEnum):
    """What happens with a record that cannot be decoded."""

    REFUSE = "refuse"
    """The feed stops with Undecodable, which names the record."""
    BLANK = "blank"
    """Its row is zeros, and the batch's `faults` and the dataset's `fault_counts` say so."""


@dataclass(frozen=True, slots=True)
class ImageSpec:
    """JPEG, PNG or WebP becomes uint8 [3, height, width].

    The image is scaled so that its shorter side has `shorter` pixels (without it, so that the crop just fits)
    and its centre is cut out. Transparency is dropped, grey becomes RGB, an animation is its first picture.
    """

    height: int
    width: int
    field: str = "image"
    shorter: int | None = None
    max_side: int = 16_384
    max_pixels: int = 1 << 26

    def __post_init__(self) -> None:
        """Raises BadFeedSetting."""
        _check(
            ("height", self.height, 1, 8192),
            ("width", self.width, 1, 8192),
            ("max_side", self.max_side, 1, _MOST_SIDE),
            ("max_pixels", self.max_pixels, 1, 1 << 30),
            ("shorter", self.shorter or 1, 1, _MOST_SIDE),
        )


@dataclass(frozen=True, slots=True)
class AudioSpec:
    """WAV, FLAC or Ogg becomes float32 [samples] of one channel at `rate` Hz, with zeros behind its end.

    A clip that is longer is a fault, unless `cut` says that its beginning is enough.
    """

    rate: int
    samples: int
    field: str = "audio"
    cut: bool = False
    max_channels: int = 8
    max_rate: int = 384_000

    def __post_init__(self) -> None:
        """Raises BadFeedSetting."""
        _check(
            ("rate", self.rate, 100, 1 << 20),
            ("samples", self.samples, 1, _MOST_BYTES // 4),
            ("max_channels", self.max_channels, 1, 64),
            ("max_rate", self.max_rate, 100, 1 << 20),
        )


@dataclass(frozen=True, slots=True)
class DecodeSpec:
    """Which fields are decoded, by how many worker processes, and within which limits.

    `max_encoded_bytes` is the most that one file may have, `memory_bytes` what a worker may take beyond what
    it begins with, `time_limit_s` how long it may work on one file before it is killed.
    """

    image: ImageSpec | None = None
    audio: AudioSpec | None = None
    on_fault: OnFault = OnFault.REFUSE
    processes: int = 2
    max_encoded_bytes: int = 1 << 25
    memory_bytes: int = 1 << 30
    time_limit_s: float = 30.0

    def __post_init__(self) -> None:
        """Raises BadFeedSetting."""
        _check(
            ("processes", self.processes, 1, 512),
            ("max_encoded_bytes", self.max_encoded_bytes, 1, _MOST_BYTES),
            ("memory_bytes", self.memory_bytes, 1 << 24, 1 << 40),
        )
        if not 0 < self.time_limit_s <= 86_400:
            raise BadFeedSetting(
                f"time_limit_s is {self.time_limit_s}; it must be above 0 and at most a day.",
                hint="Change the decoding.",
            )
        if self.image is None and self.audio is None:
            raise BadFeedSetting(
                "No field is to be decoded.",
                hint="Name an ImageSpec or an AudioSpec, or use the feed as it is.",
            )
        if len({spec.field for spec in self.specs}) < len(self.specs):
            raise BadFeedSetting(
                "One field is to be decoded as image and as audio.", hint="Name a field of its own for each."
            )

    @property
    def specs(self) -> tuple[ImageSpec | AudioSpec, ...]:
        """The specs of the fields that are decoded."""
        return tuple(spec for spec in (self.image, self.audio) if spec is not None)


def _check(*ranges: tuple[str, int, int, int]) -> None:
    wrong = [
        f"{name} is {value}; it must be in [{low}, {high}]"
        for name, value, low, high in ranges
        if not low <= value <= high
    ]
    if wrong:
        raise BadFeedSetting(f"Nothing can be decoded so: {'; '.join(wrong)}.", hint="Change the decoding.")
