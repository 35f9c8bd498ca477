"""What a vision model learns: a picture's class, or the patches that it does not see. See families.md."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from stoker.spec.vision import VisionSpec
from stoker.train.models.encoder import patches_of
from stoker.train.objectives.objective import (
    Batch,
    Gather,
    check_labels,
    check_shape,
    columns_of,
    counted_rows,
)
from stoker.train.objectives.sample_random import noise

PIXELS = (torch.float32, torch.bfloat16)


class Classify:
    """Mean cross-entropy of a picture's class.

    Columns: `pixels` `[rows, channels, size, size]`, `labels` int64 `[rows]`.
    """

    def __init__(self, spec: VisionSpec) -> None:
        self._spec = spec

    def check(self, batch: Batch) -> None:
        """Raise UnfitBatch unless pictures and labels are of the model's sizes."""
        columns = columns_of(batch, "vision", "pixels", "labels")
        _check_pixels(columns, self._spec)
        check_shape("labels", columns["labels"], (), (torch.int64,))
        check_labels("labels", columns["labels"], self._spec.classes)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The mean over the batch, an fp32 scalar in nats."""
        columns = columns_of(batch, "vision", "pixels", "labels")
        logits = model(columns["pixels"]).float()
        return functional.cross_entropy(logits, columns["labels"], label_smoothing=self._spec.label_smoothing)

    def evaluate(self, model: nn.Module, batches: Iterable[Batch], gather: Gather) -> dict[str, float]:
        """`loss` in nats and `accuracy`, the share of pictures whose likeliest class is theirs."""
        losses, right = [], []
        with torch.no_grad():
            for batch in batches:
                columns = columns_of(batch, "vision", "pixels", "labels")
                logits = model(columns["pixels"]).float().cpu()
                labels = columns["labels"].cpu()
                counted = counted_rows(columns, len(labels))
                losses.append(functional.cross_entropy(logits, labels, reduction="none")[counted])
                right.append((logits.argmax(dim=1) == labels)[counted])
        return {
            "loss": float(gather(torch.cat(losses)).double().mean()),
            "accuracy": float(gather(torch.cat(right)).double().mean()),
        }


class MaskedPatches:
    """Mean squared error of hidden patches, each normalised by its mean and deviation (He et al. 2021).

    Which patches are hidden is a function of a row's `numbers`, int64 `[rows]`, its place in the run's
    stream: the same on every layout, another in every epoch.
    """

    def __init__(self, spec: VisionSpec) -> None:
        self._spec = spec

    def check(self, batch: Batch) -> None:
        """Raise UnfitBatch unless pictures are of the model's size."""
        columns = columns_of(batch, "vision", "pixels", "numbers")
        _check_pixels(columns, self._spec)
        check_shape("numbers", columns["numbers"], (), (torch.int64,))

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The mean over the hidden patches of the batch, an fp32 scalar."""
        return self._by_row(model, batch).mean()

    def evaluate(self, model: nn.Module, batches: Iterable[Batch], gather: Gather) -> dict[str, float]:
        """`loss`: as in training, where 1 is what guessing each patch's mean gives."""
        losses = []
        with torch.no_grad():
            for batch in batches:
                rows = self._by_row(model, batch).cpu()
                assert isinstance(batch, Mapping)
                losses.append(rows[counted_rows(batch, len(rows))])
        return {"loss": float(gather(torch.cat(losses)).double().mean())}

    def kept(self, numbers: Tensor) -> Tensor:
        """The patches that are seen, int64 `[rows, kept_patches]`, in the order of the picture."""
        order = noise(numbers, self._spec.picture.patches).argsort(dim=1, stable=True)
        return order[:, : self._spec.kept_patches].sort(dim=1).values

    def _by_row(self, model: nn.Module, batch: Batch) -> Tensor:
        columns = columns_of(batch, "vision", "pixels", "numbers")
        pixels, kept = columns["pixels"], self.kept(columns["numbers"])
        guessed = model(pixels, kept).float()
        patches = patches_of(pixels.float(), self._spec.patch)
        mean, deviation = patches.mean(dim=-1, keepdim=True), patches.std(dim=-1, keepdim=True)
        errors = (guessed - (patches - mean) / (deviation + 1e-3)).square().mean(dim=-1)
        hidden = torch.ones_like(errors).scatter(1, kept, 0.0)
        by_row: Tensor = (errors * hidden).sum(dim=1) / hidden.sum(dim=1)
        return by_row


def _check_pixels(columns: Mapping[str, Tensor], spec: VisionSpec) -> None:
    check_shape("pixels", columns["pixels"], (spec.channels, spec.image_size, spec.image_size), PIXELS)
