"""Speech encoders by their shape, with their parameter and FLOP formulas. See docs/design/spec.md.

The model is the Conformer (Gulati et al. 2020) over log-mel features, read out by CTC; with rotary positions
in place of relative ones, and LayerNorm in place of BatchNorm, whose sums would depend on the layout.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterator
from dataclasses import dataclass

from stoker.core.errors import StokerError
from stoker.spec.encoder import size_problems


class InvalidSpeech(StokerError):
    """Sizes of a speech model that do not fit each other; the message lists every mistake."""

    exit_code = 102


class Units(enum.StrEnum):
    """What one symbol of a transcript is."""

    CHARACTERS = "characters"
    """Each symbol is one character; a space parts words."""

    WORDS = "words"
    """Each symbol is a word: keywords, commands."""


@dataclass(frozen=True, slots=True)
class SpeechSpec:
    """Clips of sound to `symbols`. Sizes in elements, times in seconds.

    A frame of `window_s` each `hop_s` becomes `mel_bins` numbers; two kernels of stride 2 make one position
    of four frames. `mel_high_hz` 0 is half the `sample_rate`. `kernel` is the width of the blocks'
    convolution, in positions, an odd number. In training, `band_masks` runs of up to `band_mask_bins` bands
    and `time_masks` runs of up to a share `time_mask_share` of a clip's frames are hidden (SpecAugment).
    """

    symbols: tuple[str, ...] = tuple("abcdefghijklmnopqrstuvwxyz' ")
    units: Units = Units.CHARACTERS
    sample_rate: int = 16_000
    window_s: float = 0.025
    hop_s: float = 0.010
    mel_bins: int = 80
    mel_low_hz: float = 20.0
    mel_high_hz: float = 0.0
    layers: int = 4
    width: int = 144
    heads: int = 4
    ffn_width: int = 576
    kernel: int = 31
    rope_base: float = 10_000.0
    band_masks: int = 0
    band_mask_bins: int = 15
    time_masks: int = 0
    time_mask_share: float = 0.1

    def problems(self) -> Iterator[str]:
        """One sentence for each rule that is broken, naming the fields and their values."""
        yield from size_problems(
            self, "sample_rate", "mel_bins", "layers", "width", "heads", "ffn_width", "kernel"
        )
        if self.width >= 1 and self.heads >= 1 and self.width % (2 * self.heads):
            yield (
                f"width {self.width} is not divisible by 2 · heads, {2 * self.heads}; "
                "heads have an even width, since RoPE turns pairs"
            )
        if self.kernel >= 1 and self.kernel % 2 == 0:
            yield f"kernel is {self.kernel}; it must be odd, so that it has a middle"
        for name in ("window_s", "hop_s", "rope_base"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                yield f"{name} is {value}; it must be a number above 0"
        if self.sample_rate >= 1 and not 0 <= self.mel_low_hz < self.high_hz <= self.sample_rate / 2:
            yield (
                f"mel_low_hz is {self.mel_low_hz}, mel_high_hz {self.high_hz} and sample_rate "
                f"{self.sample_rate}; the bands must go up, and end at half the sample_rate at most"
            )
        for name in ("band_masks", "time_masks"):
            if getattr(self, name) < 0:
                yield f"{name} is {getattr(self, name)}; it must be 0 or more"
        if self.band_masks > 0 and not 1 <= self.band_mask_bins <= self.mel_bins:
            yield f"band_mask_bins is {self.band_mask_bins}; it must be 1 to mel_bins, {self.mel_bins}"
        if not 0.0 < self.time_mask_share <= 1.0:
            yield f"time_mask_share is {self.time_mask_share}; it must be above 0, at most 1"
        yield from self._symbol_problems()

    def _symbol_problems(self) -> Iterator[str]:
        if not self.symbols:
            yield "symbols is empty; a transcript is made of at least one"
        twice = sorted({symbol for symbol in self.symbols if self.symbols.count(symbol) > 1})
        if twice:
            yield f"symbols holds {', '.join(map(repr, twice))} more than once"
        if self.units is Units.CHARACTERS:
            long = [symbol for symbol in self.symbols if len(symbol) != 1]
            if long:
                yield f"symbols holds {long[0]!r}; with units 'characters' each is one character"
        elif any(not symbol or symbol.split() != [symbol] for symbol in self.symbols):
            yield "symbols holds a word that is empty or has a space; with units 'words' each is one word"

    def validate(self) -> None:
        """Raise InvalidSpeech, listing every problem, when there is any."""
        problems = list(self.problems())
        if problems:
            raise InvalidSpeech(
                f"This speech model cannot be built: {'; '.join(problems)}.",
                hint="Change these values under [speech].",
            )

    @property
    def high_hz(self) -> float:
        """Where the highest band ends."""
        return self.mel_high_hz or self.sample_rate / 2

    @property
    def window_samples(self) -> int:
        """The samples of a frame."""
        return max(1, round(self.window_s * self.sample_rate))

    @property
    def hop_samples(self) -> int:
        """The samples from one frame's beginning to the next."""
        return max(1, round(self.hop_s * self.sample_rate))

    @property
    def hides(self) -> bool:
        """Whether parts of a clip are hidden in training."""
        return self.band_masks + self.time_masks > 0

    @property
    def classes(self) -> int:
        """The symbols and, as the last one, CTC's blank."""
        return len(self.symbols) + 1

    @property
    def blank(self) -> int:
        """CTC's blank."""
        return len(self.symbols)

    def frames(self, samples: int) -> int:
        """The frames of a clip: each is whole, but for the only one of a clip that is shorter."""
        return 1 + max(0, samples - self.window_samples) // self.hop_samples

    def positions(self, samples: int) -> int:
        """The positions that the encoder gives for a clip."""
        return _halved(_halved(self.frames(samples)))

    def parameters(self) -> int:
        """The trained parameters."""
        kernels = (9 + 1) * self.width + (9 * self.width + 1) * self.width
        into = (self._bands * self.width + 1) * self.width
        vectors = (
            2 * (self.ffn_width + self.width)  # biases of two feed-forwards,
            + 4 * self.width  # of attention,
            + 2 * self.width + self.width + self.width  # of the convolution: expand, depthwise, project
            + 6 * 2 * self.width  # norms before four parts, within the convolution, and last
        )  # fmt: skip
        depthwise = self.kernel * self.width
        blocks = self.layers * (self.layer_matrix_parameters + depthwise + vectors)
        return kernels + into + blocks + (self.width + 1) * self.classes

    @property
    def layer_matrix_parameters(self) -> int:
        """The parameters of one block's matrices."""
        feed_forwards = 2 * 2 * self.width * self.ffn_width
        attention = 4 * self.width * self.width
        convolution = 2 * self.width * self.width + self.width * self.width
        return feed_forwards + attention + convolution

    def forward_flops_per_sample(self, samples: int) -> float:
        """Model FLOPs of the forward pass for a clip of `samples`, by the convention of docs/design/spec.md.

        Products of kernels count as those of matrices do; the log-mel features do not.
        """
        half = _halved(self.frames(samples))
        positions = _halved(half)
        half_bands = _halved(self.mel_bins)
        kernels = 2 * 9 * self.width * half * half_bands
        kernels += 2 * 9 * self.width * self.width * positions * self._bands
        into = 2 * self._bands * self.width * self.width * positions
        matrices = 2 * (self.layer_matrix_parameters + self.kernel * self.width) * positions
        attention = 4 * self.width * positions * positions
        out = 2 * self.width * self.classes * positions
        return float(kernels + into + self.layers * (matrices + attention) + out)

    def training_flops_per_sample(self, samples: int) -> float:
        """Model FLOPs of forward and backward for a clip: three times the forward pass."""
        return 3 * self.forward_flops_per_sample(samples)

    @property
    def _bands(self) -> int:
        return _halved(_halved(self.mel_bins))


def _halved(length: int) -> int:
    """What a kernel of 3 with stride 2 and one zero on each side leaves."""
    return (length + 1) // 2
