"""Moderation models: their formulas against counting by hand; what cannot be is named."""

from __future__ import annotations

from dataclasses import replace

import pytest

from stoker.spec.moderation import ImageTowerSpec, InvalidModeration, ModerationSpec, TextTowerSpec

TEXT = TextTowerSpec(layers=2, width=8, heads=2, ffn_width=12, sequence_tokens=6, bag=True)
IMAGE = ImageTowerSpec(layers=1, width=4, heads=2, ffn_width=6, image_size=4, channels=1, patch=2)
BOTH = ModerationSpec(labels=("a", "b", "c"), text=TEXT, image=IMAGE, joint_width=5)


def _block(width: int, ffn_width: int) -> int:
    attention = 4 * (width * width + width)
    feed_forward = width * ffn_width + ffn_width + ffn_width * width + width
    return attention + feed_forward + 2 * 2 * width


def test_parameters_counted_one_by_one() -> None:
    text = 50 * 8 + 6 * 8 + 2 * _block(8, 12) + 2 * 8 + 50 * 3
    image = (4 * 4 + 4) + 4 * 4 + _block(4, 6) + 2 * 4
    assert BOTH.parameters(50) == text + image + (12 * 5 + 5) + (5 * 3 + 3)
    assert replace(BOTH, image=None, joint_width=0).parameters(50) == text + 8 * 3 + 3
    plain = replace(BOTH, text=replace(TEXT, bag=False))
    assert plain.parameters(50) == BOTH.parameters(50) - 50 * 3
    assert replace(BOTH, text=None).parameters(0) == image + (4 * 5 + 5) + (5 * 3 + 3)


def test_flops_counted_one_by_one() -> None:
    text = 2 * (2 * 6 * (4 * 8 * 8 + 2 * 8 * 12) + 4 * 8 * 6 * 6)
    image = 2 * 4 * 4 * 4 + 2 * 4 * (4 * 4 * 4 + 2 * 4 * 6) + 4 * 4 * 4 * 4
    assert BOTH.forward_flops_per_sample() == text + image + 2 * 12 * 5 + 2 * 5 * 3
    assert BOTH.training_flops_per_sample() == 3 * BOTH.forward_flops_per_sample()


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (ModerationSpec(), "neither text nor image is there"),
        (replace(BOTH, labels=()), "labels is empty"),
        (replace(BOTH, labels=("a", "a")), "labels holds a name that is empty, has a dot, or comes twice"),
        (replace(BOTH, groups=("x.y",)), "groups holds a name"),
        (replace(BOTH, joint_width=-1), "joint_width is -1"),
        (replace(BOTH, positive_weight=0.0), "positive_weight is 0.0"),
        (replace(BOTH, threshold_target=0.0), "threshold_target is 0.0"),
        (replace(BOTH, text=replace(TEXT, heads=3)), "text.width 8 is not divisible by heads 3"),
        (replace(BOTH, text=replace(TEXT, sequence_tokens=0)), "text.sequence_tokens is 0"),
        (replace(BOTH, image=replace(IMAGE, patch=3)), "image.image_size 4 is not divisible by patch 3"),
    ],
)
def test_what_cannot_be_is_named(spec: ModerationSpec, expected: str) -> None:
    with pytest.raises(InvalidModeration, match=expected):
        spec.validate()
