"""What a speech model learns: the symbols of a clip, in order, by CTC. See docs/design/families.md."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from stoker.spec.speech import SpeechSpec
from stoker.train.models.log_mel import LogMel
from stoker.train.objectives.objective import (
    Batch,
    Gather,
    UnfitBatch,
    check_labels,
    check_shape,
    columns_of,
    counted_rows,
)
from stoker.train.objectives.sample_random import noise
from stoker.train.objectives.transcripts import collapse, edits, written

COLUMNS = ("waves", "lengths", "labels", "label_lengths")


class Ctc:
    """Connectionist temporal classification (Graves et al. 2006): nats for each symbol of a transcript.

    Columns: `waves` fp32 `[rows, samples]` with `lengths` int64 `[rows]`; `labels` int64 `[rows, most]`, the
    numbers of symbols, with `label_lengths` int64 `[rows]`. To hide parts of clips in training `numbers`
    int64 `[rows]` too, each row's place in the run's stream.
    """

    def __init__(self, spec: SpeechSpec) -> None:
        self._spec = spec
        self._columns = (*COLUMNS, "numbers") if spec.hides else COLUMNS
        self._features = LogMel(spec)

    def check(self, batch: Batch) -> None:
        """Raise UnfitBatch unless clips are long enough for their transcripts, and symbols the model's."""
        columns = columns_of(batch, "speech", *self._columns)
        check_shape("waves", columns["waves"], (-1,), (torch.float32,))
        check_shape("labels", columns["labels"], (-1,), (torch.int64,))
        for name, of in (("lengths", "waves"), ("label_lengths", "labels")):
            check_shape(name, columns[name], (), (torch.int64,))
            least, most = int(columns[name].min()), int(columns[name].max())
            if not 1 <= least <= most <= columns[of].shape[1]:
                raise UnfitBatch(
                    f"Column {name} goes from {least} to {most}; it must be 1 to {columns[of].shape[1]}, "
                    f"what {of} has.",
                    hint="Leave empty clips and transcripts out in preparation.",
                )
        for row, (labels, length) in enumerate(_labels(columns)):
            check_labels("labels", torch.tensor(labels), len(self._spec.symbols))
            positions = self._spec.positions(length)
            needed = len(labels) + sum(one == two for one, two in itertools.pairwise(labels))
            if positions < needed:
                raise UnfitBatch(
                    f"Clip {row} of a batch has {length} samples, {positions} positions; its transcript of "
                    f"{len(labels)} symbols needs {needed}, one each and one between equal neighbours.",
                    hint="Leave such records out in preparation, or lower speech.hop_s.",
                )

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The mean over rows of nats per symbol, an fp32 scalar."""
        columns = columns_of(batch, "speech", *self._columns)
        features, frames = self._features(columns["waves"], columns["lengths"])
        if self._spec.hides:
            features = hidden_parts(features, frames, columns["numbers"], self._spec)
        logits = model(features, frames).float()
        return self._by_row(logits, _positions(frames), columns).mean()

    def evaluate(self, model: nn.Module, batches: Iterable[Batch], gather: Gather) -> dict[str, float]:
        """`loss`; `exact`, the share of transcripts without a mistake; error rates of greedy reading.

        `symbol_error_rate` is the edits over the symbols of all transcripts (characters: CER),
        `word_error_rate` the same of words (WER).
        """
        rows = []
        with torch.no_grad():
            for batch in batches:
                columns = columns_of(batch, "speech", *COLUMNS)
                logits, positions = self._answers(model, columns)
                losses = self._by_row(logits, positions, columns).cpu()
                found = self._row_figures(logits.argmax(dim=-1).cpu(), positions.cpu(), columns)
                table = torch.cat((losses.double().unsqueeze(1), found), dim=1)
                rows.append(table[counted_rows(columns, len(table))])
        table = gather(torch.cat(rows))
        loss, exact = table[:, :2].mean(dim=0).tolist()
        wrong, symbols, wrong_words, words = table[:, 2:].sum(dim=0).tolist()
        return {
            "loss": loss,
            "exact": exact,
            "symbol_error_rate": wrong / max(1.0, symbols),
            "word_error_rate": wrong_words / max(1.0, words),
        }

    def transcripts(self, model: nn.Module, waves: Tensor, lengths: Tensor) -> list[str]:
        """What a model reads in clips, greedily."""
        with torch.no_grad():
            logits, positions = self._answers(model, {"waves": waves, "lengths": lengths})
        return [
            written(self._read(row, int(count)), self._spec)
            for row, count in zip(logits.argmax(dim=-1).cpu(), positions.tolist(), strict=True)
        ]

    def _answers(self, model: nn.Module, columns: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Logits fp32 `[rows, positions, classes]`, and how many positions of each row are there."""
        # Features are made here and not in the model: in bf16 they would lose what is quiet.
        features, frames = self._features(columns["waves"], columns["lengths"])
        return model(features, frames).float(), _positions(frames)

    def _by_row(self, logits: Tensor, positions: Tensor, columns: Mapping[str, Tensor]) -> Tensor:
        labels, counts = columns["labels"], columns["label_lengths"]
        home = logits.device
        if home.type != "cpu" and torch.are_deterministic_algorithms_enabled():
            # Its backward pass has no deterministic kernel on CUDA; beside the encoder this is little work.
            logits, labels, positions, counts = (each.cpu() for each in (logits, labels, positions, counts))
        losses = functional.ctc_loss(
            logits.log_softmax(dim=-1).transpose(0, 1),
            labels,
            positions,
            counts,
            blank=self._spec.blank,
            reduction="none",
        )
        return (losses / counts).to(home)

    def _row_figures(self, likeliest: Tensor, positions: Tensor, columns: Mapping[str, Tensor]) -> Tensor:
        """fp64 `[rows, 5]`: exact, edits and length in symbols, edits and length in words."""
        figures = []
        for row, count, (wanted, _) in zip(likeliest, positions.tolist(), _labels(columns), strict=True):
            found = self._read(row, count)
            words = [written(symbols, self._spec).split() for symbols in (found, wanted)]
            figures.append([found == wanted, edits(found, wanted), len(wanted), edits(*words), len(words[1])])
        return torch.tensor(figures, dtype=torch.float64)

    def _read(self, likeliest: Tensor, positions: int) -> list[int]:
        return collapse(likeliest[:positions].tolist(), self._spec.blank)


def hidden_parts(features: Tensor, frames: Tensor, numbers: Tensor, spec: SpeechSpec) -> Tensor:
    """Features `[rows, frames, mel_bins]` with some bands and some times at 0, their mean (Park et al. 2019).

    Which, follows from each row's number; widths and places are drawn evenly, the width from 0.
    """
    drawn = noise(numbers, 2 * (spec.band_masks + spec.time_masks))
    bins = torch.arange(spec.mel_bins, device=features.device)
    times = torch.arange(features.shape[1], device=features.device)
    all_bins = torch.full_like(frames, spec.mel_bins)
    most_frames = (frames * spec.time_mask_share).long()
    hidden = torch.zeros_like(features, dtype=torch.bool)
    for mask in range(spec.band_masks + spec.time_masks):
        of_bands = mask < spec.band_masks
        length = all_bins if of_bands else frames
        most = torch.full_like(frames, spec.band_mask_bins) if of_bands else most_frames
        width = drawn[:, 2 * mask] % (most + 1)
        start = (drawn[:, 2 * mask + 1] % (length - width + 1)).unsqueeze(1)
        places = bins if of_bands else times
        run = (places >= start) & (places < start + width.unsqueeze(1))
        hidden |= run.unsqueeze(1) if of_bands else run.unsqueeze(2)
    return features.masked_fill(hidden, 0.0)


def _positions(frames: Tensor) -> Tensor:
    """How many positions the encoder gives for so many frames."""
    return (((frames + 1) // 2) + 1) // 2


def _labels(columns: Mapping[str, Tensor]) -> Iterable[tuple[list[int], int]]:
    """Each row's symbols, and its clip's samples."""
    for labels, count, length in zip(
        columns["labels"].tolist(),
        columns["label_lengths"].tolist(),
        columns["lengths"].tolist(),
        strict=True,
    ):
        yield labels[:count], length
