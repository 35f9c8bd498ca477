"""The vision transformer's formulas against published models and against counting by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from stoker.spec.vision import InvalidVision, VisionObjective, VisionSpec

# Counts as published with torchvision's models, which are those of Dosovitskiy et al. 2020.
PUBLISHED = {
    "ViT-B/16": (12, 768, 12, 3072, 16, 86_567_656),
    "ViT-B/32": (12, 768, 12, 3072, 32, 88_224_232),
    "ViT-L/16": (24, 1024, 16, 4096, 16, 304_326_632),
    "ViT-L/32": (24, 1024, 16, 4096, 32, 306_535_400),
    "ViT-H/14": (32, 1280, 16, 5120, 14, 632_045_800),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_equal_the_published_count(name: str) -> None:
    layers, width, heads, ffn_width, patch, published = PUBLISHED[name]
    spec = VisionSpec(
        image_size=224,
        channels=3,
        patch=patch,
        layers=layers,
        width=width,
        heads=heads,
        ffn_width=ffn_width,
        classes=1000,
    )
    assert not list(spec.problems())
    assert spec.parameters() == published


def test_flops_are_near_the_published_ones() -> None:
    spec = VisionSpec(224, 3, 16, 12, 768, 12, 3072, 1000)
    assert spec.forward_flops_per_sample() / 2 == pytest.approx(17.58e9, rel=0.01)  # multiply-adds
    assert spec.training_flops_per_sample() == 3 * spec.forward_flops_per_sample()


def test_flops_counted_one_by_one() -> None:
    spec = VisionSpec(image_size=8, channels=2, patch=4, layers=3, width=8, heads=2, ffn_width=12, classes=5)
    positions, elements = 5, 32
    block = 2 * positions * (4 * 8 * 8 + 2 * 8 * 12) + 2 * 2 * 8 * positions * positions
    assert spec.forward_flops_per_sample() == 2 * 4 * elements * 8 + 3 * block + 2 * 8 * 5


def test_a_masked_model_works_on_what_it_sees() -> None:
    spec = VisionSpec(objective=VisionObjective.MASKED)
    assert spec.kept_patches == 12
    assert spec.forward_flops_per_sample() < VisionSpec(classes=10).forward_flops_per_sample()


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (VisionSpec(image_size=30), "image_size 30 is not divisible by patch 4"),
        (VisionSpec(width=130), "width 130 is not divisible by heads 4"),
        (VisionSpec(classes=1), "classes is 1; it must be at least 2"),
        (VisionSpec(patch=0), "patch is 0"),
        (VisionSpec(label_smoothing=1.0), "label_smoothing is 1.0"),
        (VisionSpec(objective=VisionObjective.MASKED, mask_ratio=1.0), "mask_ratio is 1.0"),
        (VisionSpec(objective=VisionObjective.MASKED, mask_ratio=0.999), "keeps 0 of 49 patches"),
        (VisionSpec(objective=VisionObjective.MASKED, decoder_width=66), "decoder_width 66 is not divisible"),
    ],
)
def test_what_cannot_be_is_named(spec: VisionSpec, expected: str) -> None:
    with pytest.raises(InvalidVision, match=expected):
        spec.validate()


def test_all_problems_come_at_once() -> None:
    found = list(replace(VisionSpec(), layers=0, channels=0, classes=0).problems())
    assert len(found) == 3
