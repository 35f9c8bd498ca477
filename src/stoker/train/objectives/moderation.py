"""What a moderation model learns: each label of a record by itself. See docs/design/families.md."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from stoker.spec.moderation import ModerationSpec
from stoker.train.objectives.label_figures import ModerationReport, finite, report_on
from stoker.train.objectives.objective import (
    Batch,
    Gather,
    UnfitBatch,
    check_labels,
    check_shape,
    columns_of,
    counted_rows,
)
from stoker.train.objectives.vision import PIXELS


class MultiLabel:
    """Mean binary cross-entropy over rows and labels, in nats.

    Columns: `tokens` int64 and `mask` bool `[rows, sequence_tokens]` where the model has a text encoder,
    `pixels` `[rows, channels, size, size]` where it has an image encoder, `labels` fp32 `[rows, labels]` of 0
    and 1. An evaluation needs `numbers` int64 `[rows]` too, and uses `groups` int64 `[rows]` if it is there.
    """

    def __init__(self, spec: ModerationSpec, vocabulary: int) -> None:
        self._spec = spec
        self._vocabulary = vocabulary
        self._inputs = (
            *(("tokens", "mask") if spec.text is not None else ()),
            *(("pixels",) if spec.image is not None else ()),
        )

    def check(self, batch: Batch) -> None:
        """Raise UnfitBatch unless texts, pictures and labels are of the model's sizes."""
        columns = self._columns(batch)
        text, image = self._spec.text, self._spec.image
        if text is not None:
            check_shape("tokens", columns["tokens"], (text.sequence_tokens,), (torch.int64,))
            check_shape("mask", columns["mask"], (text.sequence_tokens,), (torch.bool,))
            check_labels("tokens", columns["tokens"], self._vocabulary)
        if image is not None:
            shape = (image.channels, image.image_size, image.image_size)
            check_shape("pixels", columns["pixels"], shape, PIXELS)
        labels = columns["labels"]
        check_shape("labels", labels, (len(self._spec.labels),), (torch.float32,))
        if not bool(((labels == 0) | (labels == 1)).all()):
            raise UnfitBatch(
                "Column labels holds a value that is neither 0 nor 1.",
                hint="Give each record 1 for every label that it has.",
            )

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The mean over the batch, an fp32 scalar."""
        columns = self._columns(batch)
        logits = self._logits(model, columns)
        weight = torch.tensor(self._spec.positive_weight, device=logits.device)
        return functional.binary_cross_entropy_with_logits(logits, columns["labels"], pos_weight=weight)

    def evaluate(self, model: nn.Module, batches: Iterable[Batch], gather: Gather) -> dict[str, float]:
        """The figures of `report` by name, and `loss` over all rows, those of the calibration too."""
        loss, report = self._measured(model, batches, gather)
        return {"loss": loss, **finite(report.flat())}

    def report(self, model: nn.Module, batches: Iterable[Batch], gather: Gather) -> ModerationReport:
        """Thresholds from rows with an even number; figures of all other rows, by label and by group."""
        return self._measured(model, batches, gather)[1]

    def _measured(
        self, model: nn.Module, batches: Iterable[Batch], gather: Gather
    ) -> tuple[float, ModerationReport]:
        rows = []
        with torch.no_grad():
            for batch in batches:
                columns = columns_of(batch, "moderation", *self._inputs, "labels", "numbers")
                logits = self._logits(model, columns).cpu()
                groups = columns.get("groups", torch.full_like(columns["numbers"], -1)).cpu()
                sides = torch.stack((groups, columns["numbers"].cpu()), dim=1)
                table = torch.cat((logits.double(), columns["labels"].cpu().double()), dim=1)
                counted = counted_rows(columns, len(table))
                rows.append((table[counted], sides[counted]))
        table = gather(torch.cat([each for each, _ in rows]))
        sides = gather(torch.cat([each for _, each in rows]))
        logits, labels = table.chunk(2, dim=1)
        loss = float(functional.binary_cross_entropy_with_logits(logits, labels))
        groups, numbers = sides.numpy().T
        return loss, report_on(logits.numpy(), labels.numpy() > 0.5, groups, numbers, self._spec)

    def _columns(self, batch: Batch) -> Mapping[str, Tensor]:
        return columns_of(batch, "moderation", *self._inputs, "labels")

    def _logits(self, model: nn.Module, columns: Mapping[str, Tensor]) -> Tensor:
        logits: Tensor = model(**{name: columns[name] for name in self._inputs}).float()
        return logits
