"""The vision transformer is what its specification says, and both of its objectives are learnt."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from stoker.spec.vision import InvalidVision, VisionObjective, VisionSpec
from stoker.train.families import Sizes, family_of, shape_of
from stoker.train.models.encoder import patches_of
from stoker.train.models.initialise import materialise
from stoker.train.models.vision import VisionTransformer, build_vision
from stoker.train.objectives.objective import UnfitBatch, alone
from stoker.train.objectives.sample_random import noise
from stoker.train.objectives.vision import Classify, MaskedPatches
from support.ranks import run_ranks

CPU = torch.device("cpu")
SPEC = VisionSpec(image_size=8, channels=2, patch=2, layers=2, width=16, heads=2, ffn_width=24, classes=5)
MASKED = VisionSpec(
    image_size=8,
    channels=2,
    patch=2,
    layers=2,
    width=16,
    heads=2,
    ffn_width=24,
    objective=VisionObjective.MASKED,
    decoder_layers=1,
    decoder_width=8,
)


def _model(spec: VisionSpec) -> VisionTransformer:
    model = build_vision(spec)
    materialise(model, 1, CPU)
    return model


def _pixels(rows: int, spec: VisionSpec = SPEC) -> Tensor:
    shape = (rows, spec.channels, spec.image_size, spec.image_size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("spec", [SPEC, MASKED])
def test_a_built_model_has_the_parameters_that_the_formula_counts(spec: VisionSpec) -> None:
    model = build_vision(spec)
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert sum(parameter.numel() for parameter in model.parameters()) == spec.parameters()
    assert len(model.blocks) == spec.layers + (spec.decoder_layers if spec.masked else 0)


def test_patches_are_squares_of_the_picture_row_by_row() -> None:
    pixels = torch.arange(2 * 8 * 8).view(1, 2, 8, 8)
    patches = patches_of(pixels, 2)
    assert patches.shape == (1, 16, 8)
    assert torch.equal(patches[0, 5], pixels[0, :, 2:4, 2:4].flatten())


def test_a_model_without_positions_would_not_see_where_things_are() -> None:
    model, pixels = _model(SPEC), _pixels(3)
    with torch.no_grad():
        model.positions.copy_(model.positions[1:2].expand_as(model.positions))
        torch.testing.assert_close(model(pixels), model(pixels.roll(2, dims=3)))
        upright = _model(SPEC)
        assert (upright(pixels) - upright(pixels.roll(2, dims=3))).abs().max() > 1e-3


def test_sizes_that_do_not_fit_are_refused_before_anything_is_built() -> None:
    with pytest.raises(InvalidVision, match="image_size 9 is not divisible by patch 2"):
        build_vision(VisionSpec(image_size=9, patch=2))


def test_hidden_patches_are_not_seen() -> None:
    model, objective = _model(MASKED), MaskedPatches(MASKED)
    pixels = _pixels(4, MASKED)
    kept = objective.kept(torch.arange(4))
    hidden = torch.ones(4, 16).scatter(1, kept, 0.0).bool()
    changed = torch.where(
        hidden.view(4, 1, 4, 1, 4, 1), 9.0, pixels.view(4, 2, 4, 2, 4, 2)
    ).reshape(pixels.shape)  # fmt: skip
    with torch.no_grad():
        torch.testing.assert_close(model(pixels, kept), model(changed, kept))


def test_the_masked_loss_is_the_mean_over_hidden_patches_alone() -> None:
    objective, pixels, numbers = MaskedPatches(MASKED), _pixels(3, MASKED), torch.tensor([4, 9, 2])
    patches = patches_of(pixels, 2)
    normal = (patches - patches.mean(-1, keepdim=True)) / (patches.std(-1, keepdim=True) + 1e-3)

    class Guess(torch.nn.Module):
        def forward(self, pixels: Tensor, places: Tensor) -> Tensor:
            # Right where patches are hidden but for one, wrong where they were seen.
            guess = normal.clone()
            guess.scatter_(1, places.unsqueeze(-1).expand(-1, -1, 8), 100.0)
            hidden = next(place for place in range(16) if place not in places[1].tolist())
            guess[1, hidden] += 2.0
            return guess

    loss = objective.loss(Guess(), {"pixels": pixels, "numbers": numbers})
    assert loss.item() == pytest.approx(4.0 / (3 * 12), rel=1e-4)


def test_which_patches_are_hidden_follows_from_the_samples_number_alone() -> None:
    objective = MaskedPatches(MASKED)
    numbers = torch.tensor([7, 1 << 40, 8])
    whole = objective.kept(numbers)
    assert whole.shape == (3, 4)
    assert torch.equal(objective.kept(numbers[1:2])[0], whole[1])
    assert not torch.equal(whole[0], whole[2])
    many = objective.kept(torch.arange(4000))
    share = torch.bincount(many.flatten(), minlength=16) / 4000
    assert (share - 0.25).abs().max() < 0.03


def test_noise_is_that_of_the_plain_formula() -> None:
    def mix(value: int) -> int:
        value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        value = (value ^ value >> 27) * 0x94D049BB133111EB % 2**64
        return value ^ value >> 31

    golden = 0x9E3779B97F4A7C15
    expected = [
        [mix((mix(number * golden % 2**64) + place * golden) % 2**64) >> 1 for place in (1, 2, 3)]
        for number in (0, 1, 123_456_789_012)
    ]
    assert noise(torch.tensor([0, 1, 123_456_789_012]), 3).tolist() == expected


def _learn(spec: VisionSpec, objective: Classify | MaskedPatches, batch: dict[str, Tensor]) -> Any:
    def train(rank: int) -> tuple[float, dict[str, float]]:
        model = _model(spec)
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        first = None
        for _ in range(60):
            loss = objective.loss(model, batch)
            first = loss.item() if first is None else first
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return first, objective.evaluate(model, [batch], alone)

    return run_ranks(1, train)[0]


def test_classes_are_learnt() -> None:
    labels = torch.arange(30) % 5
    pixels = _pixels(30) * 0.5
    for row, label in enumerate(labels.tolist()):
        pixels[row, 0, label : label + 2] += 2.0
    first, figures = _learn(SPEC, Classify(SPEC), {"pixels": pixels, "labels": labels})
    assert first == pytest.approx(1.6, abs=0.6)
    assert figures["accuracy"] > 0.9
    assert figures["loss"] < 0.5


def test_hidden_patches_are_learnt() -> None:
    ramp = torch.linspace(-1, 1, 8)
    slopes = torch.randn(24, 2, 1, 1, generator=torch.Generator().manual_seed(4))
    pixels = slopes * ramp.view(1, 1, 8, 1) + torch.zeros(24, 2, 8, 8)
    batch = {"pixels": pixels, "numbers": torch.arange(24)}
    first, figures = _learn(MASKED, MaskedPatches(MASKED), batch)
    assert first > 0.8
    assert figures["loss"] < 0.5 * first


def test_rows_that_do_not_count_change_no_figure() -> None:
    model, objective = _model(SPEC), Classify(SPEC)
    pixels, labels = _pixels(6), torch.arange(6) % 5
    few = objective.evaluate(model, [{"pixels": pixels[:4], "labels": labels[:4]}], alone)
    counted = torch.tensor([True] * 4 + [False] * 2)
    batch = {"pixels": pixels, "labels": labels, "counted": counted}
    assert objective.evaluate(model, [batch], alone) == pytest.approx(few)


@pytest.mark.parametrize(
    ("batch", "expected"),
    [
        (torch.zeros(2, 9, dtype=torch.int64), "this dataset holds packed tokens"),
        ({"waves": torch.zeros(2, 99)}, "pixels, labels is missing. The dataset has waves"),
        ({"pixels": _pixels(2)[:, :1], "labels": torch.zeros(2).long()}, r"float32 \['rows', 1, 8, 8\]"),
        ({"pixels": _pixels(2).byte(), "labels": torch.zeros(2).long()}, "takes float32 or bfloat16"),
        ({"pixels": _pixels(2), "labels": torch.tensor([0, 5])}, "the model knows 5 labels, 0 to 4"),
        ({"pixels": _pixels(2), "labels": torch.zeros(3).long()}, "different numbers of rows"),
        ({"pixels": _pixels(2), "labels": torch.zeros(2)}, "takes int64"),
    ],
)
def test_a_batch_of_something_else_is_refused(batch: Any, expected: str) -> None:
    with pytest.raises(UnfitBatch, match=expected):
        Classify(SPEC).check(batch)


def test_the_family_is_found_by_its_specification() -> None:
    family = family_of(MASKED)
    assert family.name == "vision"
    assert isinstance(family.objective(MASKED, Sizes()), MaskedPatches)
    assert isinstance(family.objective(SPEC, Sizes()), Classify)
    assert shape_of(SPEC, Sizes()) != shape_of(MASKED, Sizes())
