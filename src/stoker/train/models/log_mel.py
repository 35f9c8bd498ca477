"""Sound to log-mel features: the front end of speech models. See docs/design/families.md.

Frames under a Hann window, their power spectrum, triangular bands that are equally far apart on the mel scale
(HTK's: 2595 · log10(1 + f / 700)), the natural logarithm, and each band at mean 0 and deviation 1 over the
clip. All in fp32. `tests/train/test_speech.py` has it a second time, in plain numpy.
"""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor

from stoker.spec.speech import SpeechSpec

FLOOR: Final = 1e-6
"""What is added to a band's power: silence is not minus infinity."""


class LogMel:
    """Waves fp32 `[rows, samples]` with `lengths` to features `[rows, frames, mel_bins]` and frame counts."""

    def __init__(self, spec: SpeechSpec) -> None:
        self._spec = spec
        self._constants: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def __call__(self, waves: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """What is behind a row's length changes nothing: its frames are zero and are not counted."""
        spec = self._spec
        window, bands = self._on(waves.device)
        there = torch.arange(waves.shape[1], device=waves.device) < lengths.unsqueeze(1)
        waves = torch.where(there, waves.float(), 0.0)
        if waves.shape[1] < spec.window_samples:
            waves = torch.nn.functional.pad(waves, (0, spec.window_samples - waves.shape[1]))
        frames = 1 + (lengths - spec.window_samples).clamp(min=0) // spec.hop_samples
        pieces = waves.unfold(1, spec.window_samples, spec.hop_samples) * window
        spectrum = torch.fft.rfft(pieces, n=_fft_samples(spec))
        power = spectrum.real.square() + spectrum.imag.square()
        features = torch.log(power @ bands + FLOOR)
        return _normalised(features, frames), frames

    def _on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        if device not in self._constants:
            window = torch.hann_window(self._spec.window_samples, device=device)
            self._constants[device] = (window, mel_bands(self._spec).to(device))
        return self._constants[device]


def mel_bands(spec: SpeechSpec) -> Tensor:
    """The bands' weights for each frequency of the spectrum, fp32 `[fft / 2 + 1, mel_bins]`."""
    fft = _fft_samples(spec)
    frequencies = torch.arange(fft // 2 + 1, dtype=torch.float64) * spec.sample_rate / fft
    edges = torch.linspace(_mel(spec.mel_low_hz), _mel(spec.high_hz), spec.mel_bins + 2, dtype=torch.float64)
    corners = 700.0 * (10.0 ** (edges / 2595.0) - 1.0)
    rising = (frequencies[:, None] - corners[:-2]) / (corners[1:-1] - corners[:-2])
    falling = (corners[2:] - frequencies[:, None]) / (corners[2:] - corners[1:-1])
    return torch.minimum(rising, falling).clamp(min=0.0).float()


def _normalised(features: Tensor, frames: Tensor) -> Tensor:
    there = (torch.arange(features.shape[1], device=features.device) < frames.unsqueeze(1)).unsqueeze(-1)
    count = frames.view(-1, 1, 1)
    mean = torch.where(there, features, 0.0).sum(dim=1, keepdim=True) / count
    centred = torch.where(there, features - mean, 0.0)
    deviation = (centred.square().sum(dim=1, keepdim=True) / count).sqrt()
    return centred / (deviation + 1e-3)


def _fft_samples(spec: SpeechSpec) -> int:
    return 1 << (spec.window_samples - 1).bit_length()


def _mel(hertz: float) -> float:
    return 2595.0 * math.log10(1.0 + hertz / 700.0)
