"""The Conformer's formulas against counting by hand; what cannot be is named."""

from __future__ import annotations

from dataclasses import replace

import pytest

from stoker.spec.speech import InvalidSpeech, SpeechSpec, Units

SPEC = SpeechSpec(symbols=("a", "b"), mel_bins=10, layers=2, width=8, heads=2, ffn_width=12, kernel=5)


def test_parameters_counted_one_by_one() -> None:
    feed_forward = 8 * 12 + 12 + 12 * 8 + 8
    attention = 4 * (8 * 8 + 8)
    convolution = (8 * 16 + 16) + (8 * 5 + 8) + (8 + 8) + (8 * 8 + 8)
    block = 2 * (16 + feed_forward) + (16 + attention) + (16 + convolution) + 16
    subsampling = (9 * 8 + 8) + (9 * 8 * 8 + 8) + (3 * 8 * 8 + 8)
    assert SPEC.parameters() == subsampling + 2 * block + (8 * 3 + 3)


def test_the_encoder_of_the_large_conformer_is_near_its_published_size() -> None:
    # 118.8 M with a prediction network of 640 and a joint one, whose share is about 4 M (Gulati et al. 2020).
    large = SpeechSpec(layers=17, width=512, heads=8, ffn_width=2048, kernel=31)
    assert large.parameters() == pytest.approx(115e6, rel=0.05)


def test_flops_counted_one_by_one() -> None:
    samples = SPEC.window_samples + 20 * SPEC.hop_samples
    assert SPEC.frames(samples) == 21
    assert SPEC.positions(samples) == 6
    kernels = 2 * 9 * 8 * 11 * 5 + 2 * 9 * 8 * 8 * 6 * 3
    into = 2 * (3 * 8) * 8 * 6
    block = 4 * 8 * 12 + 4 * 8 * 8 + 8 * 16 + 5 * 8 + 8 * 8
    attention = 2 * 2 * 8 * 6 * 6
    out = 2 * 8 * 3 * 6
    assert SPEC.forward_flops_per_sample(samples) == kernels + into + 2 * (2 * block * 6 + attention) + out
    assert SPEC.training_flops_per_sample(samples) == 3 * SPEC.forward_flops_per_sample(samples)


def test_a_clip_shorter_than_a_frame_is_one_frame() -> None:
    assert [SPEC.frames(samples) for samples in (1, 400, 559, 560, 720)] == [1, 1, 1, 2, 3]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (replace(SPEC, kernel=4), "kernel is 4; it must be odd"),
        (replace(SPEC, width=10), "width 10 is not divisible by 2 · heads, 4"),
        (replace(SPEC, layers=0), "layers is 0"),
        (replace(SPEC, hop_s=float("nan")), "hop_s is nan"),
        (replace(SPEC, mel_high_hz=9000.0), "mel_high_hz 9000.0 and sample_rate 16000"),
        (replace(SPEC, mel_low_hz=-1.0), "mel_low_hz is -1.0"),
        (replace(SPEC, band_masks=-1), "band_masks is -1"),
        (
            replace(SPEC, band_masks=1, band_mask_bins=11),
            "band_mask_bins is 11; it must be 1 to mel_bins, 10",
        ),
        (replace(SPEC, time_mask_share=0.0), "time_mask_share is 0.0"),
        (replace(SPEC, symbols=()), "symbols is empty"),
        (replace(SPEC, symbols=("a", "a")), "symbols holds 'a' more than once"),
        (replace(SPEC, symbols=("a", "bc")), "symbols holds 'bc'; with units 'characters'"),
        (replace(SPEC, symbols=("yes", "not now"), units=Units.WORDS), "a word that is empty or has a space"),
    ],
)
def test_what_cannot_be_is_named(spec: SpeechSpec, expected: str) -> None:
    with pytest.raises(InvalidSpeech, match=expected):
        spec.validate()
