"""Moderation models learn, their probabilities are calibrated, and figures are those of scikit-learn."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, precision_score, recall_score, roc_auc_score
from torch import Tensor

from stoker.intake.proportion import share
from stoker.spec.moderation import (
    ImageTowerSpec,
    InvalidModeration,
    ModerationSpec,
    TextTowerSpec,
    ThresholdRule,
)
from stoker.train.families import Sizes, family_of
from stoker.train.models.initialise import materialise
from stoker.train.models.moderation import Bag, Moderator, build_moderation
from stoker.train.objectives.calibration import (
    auroc,
    calibrate,
    expected_calibration_error,
    sigmoid,
)
from stoker.train.objectives.gather import gather_rows
from stoker.train.objectives.label_figures import label_figures, report_on, table
from stoker.train.objectives.moderation import MultiLabel
from stoker.train.objectives.objective import UnfitBatch, alone
from support.ranks import run_ranks

CPU = torch.device("cpu")
TEXT = TextTowerSpec(layers=1, width=16, heads=2, ffn_width=24, sequence_tokens=10, bag=True)
IMAGE = ImageTowerSpec(layers=1, width=16, heads=2, ffn_width=24, image_size=8, channels=1, patch=4)
SPEC = ModerationSpec(labels=("rude", "spam"), text=TEXT, image=IMAGE, joint_width=12, groups=("en", "de"))
VOCABULARY = 30


def _model(spec: ModerationSpec = SPEC) -> Moderator:
    model = build_moderation(spec, VOCABULARY)
    materialise(model, 1, CPU)
    return model


def _records(rows: int, seed: int = 3) -> dict[str, Tensor]:
    """Texts that are rude when token 7 is in them; spam when they are, or their picture is, bright."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(8, VOCABULARY, (rows, 10), generator=generator)
    lengths = torch.randint(3, 11, (rows,), generator=generator)
    mask = torch.arange(10) < lengths.unsqueeze(1)
    rude = torch.rand(rows, generator=generator) < 0.4
    tokens[rude, 1] = 7
    bright = torch.rand(rows, generator=generator) < 0.4
    pixels = torch.randn(rows, 1, 8, 8, generator=generator) * 0.3
    pixels[bright] += 1.0
    return {
        "tokens": tokens.masked_fill(~mask, 0),
        "mask": mask,
        "pixels": pixels,
        "labels": torch.stack((rude, bright), dim=1).float(),
        "numbers": torch.arange(rows),
        "groups": torch.arange(rows) % 3 - 1,
    }


@pytest.mark.parametrize("spec", [SPEC, replace(SPEC, image=None), replace(SPEC, text=None, joint_width=0)])
def test_a_built_model_has_the_parameters_that_the_formula_counts(spec: ModerationSpec) -> None:
    model = build_moderation(spec, VOCABULARY)
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    vocabulary = VOCABULARY if spec.text is not None else 0
    assert sum(parameter.numel() for parameter in model.parameters()) == spec.parameters(vocabulary)
    assert len(model.blocks) == sum(tower is not None for tower in (spec.text, spec.image))


def test_padding_changes_nothing() -> None:
    model, records = _model(), _records(6)
    changed = records["tokens"].masked_fill(~records["mask"], 5)
    with torch.no_grad():
        before = model(records["tokens"], records["mask"], records["pixels"])
        after = model(changed, records["mask"], records["pixels"])
    torch.testing.assert_close(before, after)


def test_a_record_without_a_text_is_read_by_its_picture() -> None:
    model, records = _model(), _records(4)
    with torch.no_grad():
        found = model(records["tokens"], torch.zeros(4, 10, dtype=torch.bool), records["pixels"])
    assert found.isfinite().all()
    assert (found[0] - found[1]).abs().max() > 0


def test_both_kinds_of_harm_are_learnt_and_told_by_label_and_group() -> None:
    def train(rank: int) -> Any:
        model, objective = _model(), MultiLabel(SPEC, VOCABULARY)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        for step in range(80):
            batch = _records(32, seed=100 + step)
            objective.check(batch)
            loss = objective.loss(model, batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        heldout = _records(160)
        halves = [{name: column[:80] for name, column in heldout.items()}]
        halves.append({name: column[80:] for name, column in heldout.items()})
        return objective.report(model, halves, alone), objective.evaluate(model, halves, alone)

    report, figures = run_ranks(1, train)[0]
    assert report.calibration_rows == 80
    assert [each.label for each in report.labels] == ["rude", "spam"]
    assert all(each.rows == 80 and each.f1 > 0.9 and each.auroc > 0.95 for each in report.labels)
    assert [each.group for each in report.groups] == ["en", "de"]
    assert sum(each.labels[0].rows for each in report.groups) == pytest.approx(160 / 3, abs=2)
    assert figures["macro_f1"] == report.macro_f1 > 0.9
    assert figures["de.spam.recall"] == report.groups[1].labels[1].recall
    assert figures["loss"] < 0.3
    recalls = [group.labels[0].recall for group in report.groups]
    assert figures["rude.recall_gap"] == pytest.approx(max(recalls) - min(recalls))
    assert "rude" in table(report)[1]


def test_neither_encoder_alone_tells_both() -> None:
    batch = _records(64)
    spec = replace(SPEC, image=None)
    with torch.no_grad():
        logits = _model(spec)(batch["tokens"], batch["mask"])
    assert logits.shape == (64, 2)
    assert MultiLabel(spec, VOCABULARY).evaluate(_model(spec), [batch], alone)["loss"] > 0


def test_a_bag_says_what_its_distinct_tokens_say() -> None:
    tokens = torch.tensor([[7, 3, 7, 7, 5], [2, 9, 9, 0, 0]])
    mask = torch.tensor([[True] * 5, [True, True, True, False, False]])
    bag = Bag(12, 2)
    with torch.no_grad():
        bag.weight.copy_(torch.randn(12, 2, generator=torch.Generator().manual_seed(1)))
        found = bag(tokens, mask)
        nothing = bag(tokens, torch.zeros_like(mask))
    first = 16 * (bag.weight[7] + bag.weight[3] + bag.weight[5]) / 3**0.5
    second = 16 * (bag.weight[2] + bag.weight[9]) / 2**0.5
    torch.testing.assert_close(found, torch.stack((first, second)))
    assert torch.equal(nothing, torch.zeros(2, 2))


def test_a_bag_begins_without_an_opinion() -> None:
    model, records = _model(), _records(6)
    assert model.bag is not None and model.bag.weight.abs().sum() == 0
    inputs = (records["tokens"], records["mask"], records["pixels"])
    with torch.no_grad():
        whole = model(*inputs)
        model.bag = None
        torch.testing.assert_close(model(*inputs), whole)


def test_a_weight_counts_what_is_there_more() -> None:
    batch = _records(40)
    model = _model()
    with torch.no_grad():
        plain = MultiLabel(SPEC, VOCABULARY).loss(model, batch)
        heavy = MultiLabel(replace(SPEC, positive_weight=3.0), VOCABULARY).loss(model, batch)
        logits = model(batch["tokens"], batch["mask"], batch["pixels"])
    extra = -2 * (batch["labels"] * torch.nn.functional.logsigmoid(logits)).mean()
    torch.testing.assert_close(heavy - plain, extra)


def _scores(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    truth = random.random(rows) < 0.3
    return np.round(random.normal(0, 1.5, rows) + 2.0 * truth - 1.0, 1), truth


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_figures_are_those_of_scikit_learn(seed: int) -> None:
    logits, truth = _scores(400, seed)
    calibration = calibrate(logits, truth)
    found = label_figures("x", logits, truth, calibration)
    said = calibration.probabilities(logits) >= calibration.threshold
    assert found.auroc == pytest.approx(roc_auc_score(truth, logits))
    assert found.precision == pytest.approx(precision_score(truth, said))
    assert found.recall == pytest.approx(recall_score(truth, said))
    assert found.f1 == pytest.approx(f1_score(truth, said))
    assert found.precision_low < found.precision < found.precision_high
    bounds = share(int((said & truth).sum()), int(truth.sum()))
    assert (found.recall_low, found.recall_high) == (bounds.low, bounds.high)
    assert found.false_positive_rate == pytest.approx((said & ~truth).sum() / (~truth).sum())


def test_the_threshold_has_the_highest_f1_of_all() -> None:
    logits, truth = _scores(300, 4)
    calibration = calibrate(logits, truth)
    probabilities = calibration.probabilities(logits)
    best = max(f1_score(truth, probabilities >= cut) for cut in np.unique(probabilities))
    assert f1_score(truth, probabilities >= calibration.threshold) == pytest.approx(best)


@pytest.mark.parametrize("target", [0.6, 0.75])
def test_a_target_is_met_with_the_most_of_the_other(target: float) -> None:
    logits, truth = _scores(300, 4)
    cuts = np.unique(logits)
    table_ = [(precision_score(truth, logits >= cut), recall_score(truth, logits >= cut)) for cut in cuts]
    precise = calibrate(logits, truth, ThresholdRule.PRECISION, target)
    said = precise.probabilities(logits) >= precise.threshold
    assert precision_score(truth, said) >= target
    assert recall_score(truth, said) == max(recall for precision, recall in table_ if precision >= target)
    complete = calibrate(logits, truth, ThresholdRule.RECALL, target)
    said = complete.probabilities(logits) >= complete.threshold
    assert recall_score(truth, said) >= target
    assert precision_score(truth, said) == max(precision for precision, recall in table_ if recall >= target)


def test_calibration_mends_scores_that_are_too_sure() -> None:
    random = np.random.default_rng(5)
    honest = random.normal(-1, 2, 6000)
    truth = random.random(6000) < sigmoid(honest)
    boastful = 4 * honest + 3
    found = calibrate(boastful, truth)
    assert found.slope == pytest.approx(0.25, rel=0.1)
    assert found.offset == pytest.approx(-0.75, rel=0.15)
    assert expected_calibration_error(sigmoid(boastful), truth) > 0.1
    assert expected_calibration_error(found.probabilities(boastful), truth) < 0.03
    peer = LogisticRegression(C=1e6).fit(boastful[:, None], truth)
    assert found.slope == pytest.approx(float(peer.coef_[0, 0]), rel=0.01)


def test_the_calibration_error_is_that_of_its_bins() -> None:
    probabilities = np.array([0.05, 0.15, 0.15, 0.95, 1.0])
    truth = np.array([False, True, False, True, True])
    expected = (abs(0 - 0.05) + abs(1 - 0.3) + abs(2 - 1.95)) / 5
    assert expected_calibration_error(probabilities, truth, bins=10) == pytest.approx(expected)


def test_what_is_told_apart_without_a_mistake_stays_finite() -> None:
    logits = np.array([-3.0, -2.0, 2.0, 3.0])
    truth = np.array([False, False, True, True])
    found = calibrate(logits, truth)
    assert math.isfinite(found.slope) and 0 < found.slope < 10
    assert (found.probabilities(logits) >= found.threshold).tolist() == truth.tolist()


@pytest.mark.parametrize("truth", [[True] * 3, [False] * 3])
def test_a_part_of_one_kind_calibrates_nothing(truth: list[bool]) -> None:
    found = calibrate(np.array([1.0, 2.0, 3.0]), np.array(truth))
    assert (found.slope, found.offset, found.threshold) == (1.0, 0.0, 0.5)
    assert math.isnan(auroc(np.array([1.0, 2.0, 3.0]), np.array(truth)))


def test_rows_that_calibrate_are_not_those_that_are_told_of() -> None:
    numbers = np.arange(40)
    truth = (numbers % 4 < 2)[:, None]
    logits = np.where(truth, 1.0, -1.0)
    logits[numbers % 2 == 1] *= -1  # what is told of is always wrong
    report = report_on(logits, truth, np.full(40, -1), numbers, replace(SPEC, labels=("x",), groups=()))
    assert report.calibration_rows == 20
    assert report.labels[0].f1 == 0.0
    assert report.calibrations[0].slope > 0


def test_rows_of_all_ranks_stand_behind_each_other() -> None:
    def gathered(rank: int) -> list[Any]:
        rows = torch.arange(rank, dtype=torch.float64).unsqueeze(1) + 10 * rank
        truth = torch.tensor([True, False][:rank], dtype=torch.bool)
        return [gather_rows(rows).tolist(), gather_rows(truth).tolist()]

    for found in run_ranks(3, gathered):
        assert found == [[[10.0], [20.0], [21.0]], [True, True, False]]


def test_every_rank_tells_the_same_whoever_had_which_rows() -> None:
    objective, records = MultiLabel(SPEC, VOCABULARY), _records(30)

    def figures(rank: int) -> dict[str, float]:
        rows = slice(0, 20) if rank == 0 else slice(20, 30)
        part = {name: column[rows] for name, column in records.items()}
        return objective.evaluate(_model(), [part], gather_rows)

    found = run_ranks(2, figures)
    whole = objective.evaluate(_model(), [records], alone)
    assert found[0] == found[1] == pytest.approx(whole)


def _changed(**columns: Tensor) -> dict[str, Tensor]:
    return {**_records(2), **columns}


@pytest.mark.parametrize(
    ("batch", "expected"),
    [
        (torch.zeros(2, 9).long(), "holds packed tokens"),
        ({"tokens": torch.zeros(2, 10).long()}, "mask, pixels, labels is missing"),
        (_changed(tokens=torch.zeros(2, 9).long()), r"int64 \['rows', 9\]; the model takes int64"),
        (_changed(tokens=torch.full((2, 10), 30)), "the model knows 30 tokens"),
        (_changed(labels=torch.zeros(2, 3)), r"takes float32 \['rows', 2\]"),
        (_changed(labels=torch.full((2, 2), 0.5)), "neither 0 nor 1"),
    ],
)
def test_a_batch_of_something_else_is_refused(batch: Any, expected: str) -> None:
    with pytest.raises(UnfitBatch, match=expected):
        MultiLabel(SPEC, VOCABULARY).check(batch)


def test_sizes_that_do_not_fit_are_refused_before_anything_is_built() -> None:
    with pytest.raises(InvalidModeration, match="neither text nor image"):
        build_moderation(ModerationSpec(), VOCABULARY)


def test_the_family_is_found_by_its_specification() -> None:
    assert family_of(SPEC).name == "moderation"
    assert isinstance(family_of(SPEC).objective(SPEC, Sizes(VOCABULARY)), MultiLabel)
