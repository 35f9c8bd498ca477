"""The Conformer hears no padding, its features are those of plain numpy, and CTC is learnt and read."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from stoker.spec.speech import InvalidSpeech, SpeechSpec, Units
from stoker.train.families import Sizes, family_of
from stoker.train.models.initialise import materialise
from stoker.train.models.log_mel import LogMel, mel_bands
from stoker.train.models.speech import Conformer, build_speech
from stoker.train.objectives.objective import UnfitBatch, alone
from stoker.train.objectives.speech import Ctc, hidden_parts
from stoker.train.objectives.transcripts import collapse, edits, spell, written
from support.ranks import run_ranks

CPU = torch.device("cpu")
SPEC = SpeechSpec(
    symbols=("left", "right", "stop"),
    units=Units.WORDS,
    sample_rate=4000,
    mel_bins=20,
    layers=2,
    width=16,
    heads=2,
    ffn_width=32,
    kernel=7,
)


def _model(spec: SpeechSpec = SPEC) -> Conformer:
    model = build_speech(spec)
    materialise(model, 1, CPU)
    return model


def _waves(*lengths: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    waves = torch.randn(len(lengths), max(lengths), generator=generator) * 0.1
    return waves, torch.tensor(lengths)


def _plain_log_mel(wave: np.ndarray, spec: SpeechSpec) -> np.ndarray:
    """The features written a second time, a frame and a band at a time, in double precision."""
    size, hop = spec.window_samples, spec.hop_samples
    fft = 2
    while fft < size:
        fft *= 2
    wave = np.concatenate([wave, np.zeros(max(0, size - len(wave)))])
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)

    def mel(hertz: float) -> float:
        return 2595 * np.log10(1 + hertz / 700)

    low, high = mel(spec.mel_low_hz), mel(spec.high_hz)
    edges = [
        700 * (10 ** ((low + (high - low) * band / (spec.mel_bins + 1)) / 2595) - 1)
        for band in range(spec.mel_bins + 2)
    ]
    rows = []
    for start in range(0, len(wave) - size + 1, hop):
        angles = np.outer(np.arange(fft // 2 + 1), np.arange(size)) * (2j * np.pi / fft)
        power = np.abs((np.exp(-angles) * (wave[start : start + size] * hann)).sum(axis=1)) ** 2
        row = []
        for band in range(spec.mel_bins):
            left, middle, right = edges[band : band + 3]
            total = 0.0
            for place, value in enumerate(power):
                hertz = place * spec.sample_rate / fft
                if left < hertz <= middle:
                    total += value * (hertz - left) / (middle - left)
                elif middle < hertz < right:
                    total += value * (right - hertz) / (right - middle)
            row.append(np.log(total + 1e-6))
        rows.append(row)
    table = np.array(rows)
    return (table - table.mean(axis=0)) / (table.std(axis=0) + 1e-3)


def test_features_are_those_of_plain_numpy() -> None:
    waves, lengths = _waves(1500, 907, 60)
    features, frames = LogMel(SPEC)(waves, lengths)
    for row in range(3):
        expected = _plain_log_mel(waves[row, : int(lengths[row])].double().numpy(), SPEC)
        assert int(frames[row]) == len(expected) == SPEC.frames(int(lengths[row]))
        np.testing.assert_allclose(features[row, : len(expected)], expected, rtol=2e-3, atol=2e-3)
        assert features[row, len(expected) :].abs().sum() == 0


def test_a_tone_is_in_its_band() -> None:
    bands = mel_bands(SPEC)
    assert bands.shape == (65, 20)
    peaks = bands.argmax(dim=0) * SPEC.sample_rate / 128
    time = torch.arange(4000) / SPEC.sample_rate
    for band in (5, 12, 18):
        wave = torch.sin(2 * torch.pi * peaks[band] * time)
        pieces = wave.unfold(0, 100, 40) * torch.hann_window(100)
        power = torch.fft.rfft(pieces, n=128).abs().square() @ bands
        assert abs(int(power.mean(dim=0).argmax()) - band) <= 1


def test_silence_has_finite_features() -> None:
    features, _ = LogMel(SPEC)(torch.zeros(1, 800), torch.tensor([800]))
    assert features.abs().max() < 0.01


def test_what_is_behind_a_clips_end_changes_nothing() -> None:
    model, features = _model(), LogMel(SPEC)
    waves, lengths = _waves(1500, 1111)
    noisy = waves.clone()
    noisy[1, 1111:] = 5.0
    with torch.no_grad():
        together = model(*features(noisy, lengths))
        alone_ = model(*features(waves[1:, :1111], lengths[1:]))
    positions = SPEC.positions(1111)
    assert together.shape == (2, SPEC.positions(1500), 4)
    assert alone_.shape == (1, positions, 4)
    torch.testing.assert_close(together[1:, :positions], alone_, rtol=1e-4, atol=1e-5)


def test_a_built_model_has_the_parameters_that_the_formula_counts() -> None:
    for spec in (SPEC, SpeechSpec(), replace(SPEC, mel_bins=21, kernel=3)):
        model = build_speech(spec)
        assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
        assert sum(parameter.numel() for parameter in model.parameters()) == spec.parameters()


def test_sizes_that_do_not_fit_are_refused_before_anything_is_built() -> None:
    with pytest.raises(InvalidSpeech, match="kernel is 8"):
        build_speech(replace(SPEC, kernel=8))


def _tones(rows: int, seed: int = 5) -> dict[str, Tensor]:
    """Clips of one or two tones, each tone a word."""
    generator = torch.Generator().manual_seed(seed)
    hertz = torch.tensor([300.0, 700.0, 1300.0])
    time = torch.arange(1200) / SPEC.sample_rate
    waves = torch.randn(rows, 2600, generator=generator) * 0.02
    labels, lengths, counts = torch.zeros(rows, 2, dtype=torch.int64), [], []
    for row in range(rows):
        words = torch.randint(0, 3, (1 + row % 2,), generator=generator).tolist()
        if len(words) == 2 and words[0] == words[1]:
            words[1] = (words[1] + 1) % 3
        for place, word in enumerate(words):
            waves[row, place * 1200 : place * 1200 + 1200] += torch.sin(2 * torch.pi * hertz[word] * time)
            labels[row, place] = word
        lengths.append(1300 * len(words))
        counts.append(len(words))
    return {
        "waves": waves,
        "lengths": torch.tensor(lengths),
        "labels": labels,
        "label_lengths": torch.tensor(counts),
    }


def test_keywords_are_learnt_and_read() -> None:
    heldout = _tones(40, seed=6)
    objective = Ctc(SPEC)
    objective.check(heldout)

    def train(rank: int) -> Any:
        model = _model()
        optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
        losses = []
        for step in range(120):
            loss = objective.loss(model, _tones(16, seed=100 + step))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        figures = objective.evaluate(model, [heldout], alone)
        return losses, figures, objective.transcripts(model, heldout["waves"][:9], heldout["lengths"][:9])

    losses, figures, read = run_ranks(1, train)[0]
    assert losses[-1] < 0.2 * losses[0]
    assert figures["exact"] > 0.8
    assert figures["word_error_rate"] == figures["symbol_error_rate"] < 0.2
    wanted = [
        written(labels[:count].tolist(), SPEC)
        for labels, count in zip(heldout["labels"][:9], heldout["label_lengths"][:9].tolist(), strict=True)
    ]
    assert sum(one == two for one, two in zip(read, wanted, strict=True)) >= 7


def test_the_loss_is_the_sum_over_all_ways_to_say_it() -> None:
    spec = replace(SPEC, symbols=("a", "b"), units=Units.CHARACTERS)
    answers = torch.randn(1, 3, 3, generator=torch.Generator().manual_seed(2))

    class Says(torch.nn.Module):
        def forward(self, features: Tensor, frames: Tensor) -> Tensor:
            return answers

    samples = spec.window_samples + 8 * spec.hop_samples
    assert spec.positions(samples) == 3
    batch = {
        "waves": torch.zeros(1, samples),
        "lengths": torch.tensor([samples]),
        "labels": torch.tensor([[0, 1]]),
        "label_lengths": torch.tensor([2]),
    }
    shares = answers[0].softmax(-1).tolist()
    total = sum(
        shares[0][one] * shares[1][two] * shares[2][three]
        for one in range(3)
        for two in range(3)
        for three in range(3)
        if collapse([one, two, three], 2) == [0, 1]
    )
    assert Ctc(spec).loss(Says(), batch).item() == pytest.approx(-np.log(total) / 2, rel=1e-5)


def test_greedy_reading_drops_repeats_and_blanks() -> None:
    assert collapse([9, 1, 1, 9, 1, 2, 2, 9, 9, 3], 9) == [1, 1, 2, 3]
    assert collapse([9, 9], 9) == []


@pytest.mark.parametrize(
    ("found", "wanted", "distance"),
    [("", "", 0), ("abc", "abc", 0), ("", "abc", 3), ("kitten", "sitting", 3), ("flaw", "lawn", 2)],
)
def test_edits_are_levenshteins(found: str, wanted: str, distance: int) -> None:
    assert edits(found, wanted) == edits(wanted, found) == distance


def test_error_rates_are_edits_over_what_was_said() -> None:
    spec = replace(SPEC, symbols=tuple("abc "), units=Units.CHARACTERS)
    blank = spec.blank
    spoken = [[0, 1, 3, 2, blank], [0, blank, 0, blank, 1]]  # "ab c" and "aab"
    answers = torch.nn.functional.one_hot(torch.tensor(spoken), 5).float() * 20

    class Says(torch.nn.Module):
        def forward(self, features: Tensor, frames: Tensor) -> Tensor:
            return answers

    samples = spec.window_samples + 16 * spec.hop_samples
    assert spec.positions(samples) == 5
    batch = {
        "waves": torch.zeros(2, samples),
        "lengths": torch.full((2,), samples),
        "labels": torch.tensor([[0, 1, 3, 2], [0, 1, 1, 0]]),
        "label_lengths": torch.tensor([4, 3]),
    }
    figures = Ctc(spec).evaluate(Says(), [batch], alone)
    assert figures["exact"] == 0.5
    assert figures["symbol_error_rate"] == pytest.approx(1 / 7)
    assert figures["word_error_rate"] == pytest.approx(1 / 3)


def test_transcripts_are_spelt() -> None:
    characters = SpeechSpec()
    assert written(spell("Don't  stop", characters), characters) == "don't stop"
    assert spell("left STOP left", SPEC) == [0, 2, 0]
    with pytest.raises(UnfitBatch, match="character number 3 is none of the model's 28 symbols") as caught:
        spell("top-secret", characters)
    assert "secret" not in caught.value.message
    with pytest.raises(UnfitBatch, match="word number 1"):
        spell("left up", SPEC)


def _changed(**columns: Tensor) -> dict[str, Tensor]:
    return {**_tones(2), **columns}


@pytest.mark.parametrize(
    ("batch", "expected"),
    [
        ({"pixels": torch.zeros(2, 1, 8, 8)}, "The dataset has pixels"),
        (_changed(labels=torch.tensor([[3, 0], [0, 0]])), "numbers from 3 to 3; the model knows 3 labels"),
        (_changed(lengths=torch.tensor([2601, 9])), "lengths goes from 9 to 2601; it must be 1 to 2600"),
        (_changed(label_lengths=torch.tensor([0, 1])), "label_lengths goes from 0 to 1"),
        (_changed(lengths=torch.tensor([1300, 200])), "Clip 1 of a batch has 200 samples, 1 positions"),
        (
            _changed(
                labels=torch.ones(2, 2, dtype=torch.int64),
                label_lengths=torch.tensor([2, 2]),
                lengths=torch.tensor([340, 2600]),
            ),
            "its transcript of 2 symbols needs 3",
        ),
    ],
)
def test_a_batch_of_something_else_is_refused(batch: dict[str, Tensor], expected: str) -> None:
    with pytest.raises(UnfitBatch, match=expected):
        Ctc(SPEC).check(batch)


def test_the_family_is_found_by_its_specification() -> None:
    assert family_of(SPEC).name == "speech"
    assert isinstance(family_of(SPEC).objective(SPEC, Sizes()), Ctc)


def test_what_is_hidden_follows_from_the_clips_number_and_is_of_the_size_that_was_said() -> None:
    spec = replace(SPEC, band_masks=1, band_mask_bins=6, time_masks=2, time_mask_share=0.2)
    frames = torch.tensor([40, 20] * 200)
    features = torch.ones(400, 40, 20)
    numbers = torch.arange(400)
    found = hidden_parts(features, frames, numbers, spec)
    assert torch.equal(hidden_parts(features[7:8], frames[7:8], numbers[7:8], spec), found[7:8])
    bands = (found == 0).all(dim=1)
    assert bands.sum(dim=1).max() == 6 and bands.sum(dim=1).min() == 0
    assert bands.any(dim=0).all()
    times = (found == 0).all(dim=2)
    assert times[::2].sum(dim=1).max() <= 2 * 8 and times[1::2].sum(dim=1).max() <= 2 * 4
    assert not times[1::2, 20:].any()  # behind a clip's end there is nothing to hide
    assert times[::2].any(dim=0).all()


def test_parts_are_hidden_in_training_and_not_in_an_evaluation() -> None:
    spec, batch = replace(SPEC, band_masks=1, band_mask_bins=6, time_masks=2), _tones(6)
    seen: list[Tensor] = []

    class Listens(torch.nn.Module):
        def forward(self, features: Tensor, frames: Tensor) -> Tensor:
            seen.append(features)
            return torch.zeros(6, spec.positions(2600), 4)

    numbered = {**batch, "numbers": torch.arange(6)}
    Ctc(spec).loss(Listens(), numbered)
    Ctc(spec).evaluate(Listens(), [batch], alone)
    Ctc(SPEC).loss(Listens(), batch)
    assert torch.equal(seen[1], seen[2])
    assert (seen[0] == 0).sum() > (seen[1] == 0).sum()
    with pytest.raises(UnfitBatch, match="numbers is missing"):
        Ctc(spec).check(batch)
