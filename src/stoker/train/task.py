"""What a run learns from what: the seam between an attempt and a family. See docs/design/train.md."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from stoker.core.canonical import JsonValue
from stoker.feed.stream import BatchStream
from stoker.train.objectives.objective import Batch
from stoker.train.parallelize import Spread
from stoker.train.watch.meter import Meter


@dataclass(frozen=True, slots=True)
class Built:
    """A model on its ranks and its optimizer; `spread` where the layout is more than shards.

    `asked` gives whole logits, for evaluation.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    spread: Spread | None
    asked: nn.Module


class Task(Protocol):
    """One run's model, data and figures, on one rank. Made before keys are asked for; closed at the end."""

    @property
    def built(self) -> Built:
        """The model, laid over the ranks, with its first weights."""
        ...

    @property
    def shape(self) -> JsonValue:
        """What a checkpoint is of: two models of one shape have the same tensors and compute the same."""
        ...

    @property
    def parameters(self) -> int:
        """How many numbers are trained, over all ranks."""
        ...

    @property
    def meter(self) -> Meter:
        """What a step's time means."""
        ...

    @property
    def loss(self) -> Callable[[nn.Module, Any], Tensor]:
        """The mean loss of a batch's rows."""
        ...

    def feed(self) -> BatchStream:
        """This rank's share of every global batch; the caller closes it."""
        ...

    def batch(self, drawn: Any, step: int) -> Batch:
        """What was drawn from the feed for step `step`, as the loss takes it."""
        ...

    def loss_by_part(self) -> Mapping[str, float]:
        """Of the latest step: the mean loss of each dataset's rows; empty where there is one."""
        ...

    def amount(self, batch: Batch) -> int:
        """How many tokens the global batch has of which this is a share; of records, how many records."""
        ...

    def score(self, step: int) -> float:
        """Evaluate on the held-out split within the run and tell it; less is better, on every rank alike."""
        ...

    def finish(self) -> None:
        """Evaluate at the end of the run, and tell what the run file asks for."""
        ...
