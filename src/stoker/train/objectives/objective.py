"""The shape of an objective, and what a batch must be to be one of its. See docs/design/families.md."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor, nn

from stoker.core.errors import StokerError

Batch: TypeAlias = "Tensor | Mapping[str, Tensor]"
"""Tokens int64 `[rows, sequence_tokens + 1]` of a decoder; of all others columns by name, `[rows, …]`."""

Gather: TypeAlias = Callable[[Tensor], Tensor]
"""One rank's rows to all ranks' rows, one behind the other; every rank calls it as often."""


class UnfitBatch(StokerError):
    """A batch that is not what the model's family takes: another modality, size, type or range of labels."""

    exit_code = 110


class Objective(Protocol):
    """A loss and figures. It knows nothing of how the model is spread, and calls its `forward` alone."""

    def check(self, batch: Batch) -> None:
        """Raise UnfitBatch when this batch, still in the host's memory, cannot be one of this objective's."""
        ...

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The mean over the batch's rows, an fp32 scalar; every rank has as many rows."""
        ...

    def evaluate(self, model: nn.Module, batches: Iterable[Batch], gather: Gather) -> dict[str, float]:
        """Figures by name over all ranks' batches, the same on every rank.

        Every rank brings as many batches, since each forward pass gathers parameters from all. In a batch
        of columns, `counted` bool `[rows]` says which rows count; a rank with fewer samples fills up.
        """
        ...


def columns_of(batch: Batch, place: str, *names: str) -> Mapping[str, Tensor]:
    """The batch as columns that has all of `names`, of as many rows. Raises UnfitBatch."""
    if isinstance(batch, Tensor):
        raise UnfitBatch(
            f"[{place}] takes columns {', '.join(names)}, and this dataset holds packed tokens.",
            hint="Name a dataset of records that has these fields, or train a [model].",
        )
    missing = [name for name in names if name not in batch]
    if missing:
        raise UnfitBatch(
            f"[{place}] takes columns {', '.join(names)}; {', '.join(missing)} is missing. "
            f"The dataset has {', '.join(sorted(batch)) or 'none'}.",
            hint="Name a dataset whose records have these fields.",
        )
    rows = {name: len(batch[name]) for name in names}
    if len(set(rows.values())) > 1:
        raise UnfitBatch(f"The columns of a batch have different numbers of rows: {rows}.")
    return batch


def check_shape(name: str, tensor: Tensor, expected: tuple[int, ...], kinds: tuple[torch.dtype, ...]) -> None:
    """Raise UnfitBatch unless `tensor` is `[rows, *expected]` (-1: any) of one of `kinds`."""
    found = tuple(tensor.shape[1:])
    fits = len(found) == len(expected) and all(
        wanted in (-1, size) for wanted, size in zip(expected, found, strict=True)
    )
    if not fits or tensor.dtype not in kinds:
        words = " or ".join(str(kind).removeprefix("torch.") for kind in kinds)
        raise UnfitBatch(
            f"Column {name} is {str(tensor.dtype).removeprefix('torch.')} {['rows', *found]}; "
            f"the model takes {words} {['rows', *expected]}.",
            hint="Change the model's sizes, or prepare the dataset for them.",
        )


def check_labels(name: str, labels: Tensor, classes: int) -> None:
    """Raise UnfitBatch unless all of `labels` are 0 to `classes` - 1."""
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise UnfitBatch(
            f"Column {name} holds numbers from {int(labels.min())} to {int(labels.max())}; "
            f"the model knows {classes} {name}, 0 to {classes - 1}.",
            hint=f"Give the model as many {name} as the dataset has.",
        )


def alone(rows: Tensor) -> Tensor:
    """The `Gather` of a process without peers."""
    return rows


def counted_rows(batch: Mapping[str, Any], rows: int) -> Tensor:
    """Which of the batch's rows count, bool `[rows]`."""
    counted = batch.get("counted")
    return torch.ones(rows, dtype=torch.bool) if counted is None else counted.bool().cpu()
