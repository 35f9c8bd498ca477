"""A decoder that learns the next token of packed text. See docs/design/train.md."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import torch
import torch.distributed as distributed
from torch import Tensor, nn

from stoker.core.canonical import JsonValue
from stoker.core.clock import Clock
from stoker.feed.feed import Feed
from stoker.feed.mixture import Mixture, MixturePart
from stoker.feed.source import SampleDataset
from stoker.feed.stream import BatchStream
from stoker.spec.job import Job
from stoker.spec.layout import CompileUnit, Recompute
from stoker.train.device import HOST, pins_batches, weights_device
from stoker.train.ending import end_run, tell_evaluation
from stoker.train.evaluate import evaluate_model
from stoker.train.exchange.read import load_first_weights
from stoker.train.families import Sizes, shape_of
from stoker.train.loss import RowLosses, next_token_loss
from stoker.train.models.decoder import build_model
from stoker.train.models.initialise import materialise
from stoker.train.objectives.objective import Batch
from stoker.train.optimizer import build_optimizer
from stoker.train.parallel.mesh import Meshes
from stoker.train.parallel.passes import Asked
from stoker.train.parallelize import spread
from stoker.train.rank_place import RankPlace
from stoker.train.task import Built
from stoker.train.telemetry import Telemetry
from stoker.train.token_bytes import TokenBytes
from stoker.train.watch.meter import Meter, peak_of

TOKENIZER: Final = "tokenizer"


class TrainingDataset(SampleDataset, Protocol):
    """What an attempt needs of a dataset beside its splits."""

    def artefact(self, name: str) -> bytearray:
        """A sealed artefact of the dataset, opened whole."""
        ...


class TextTask:
    """`parts` are those of a mixture, in the order of `job.parts`, the first over `dataset`."""

    def __init__(
        self,
        job: Job,
        place: RankPlace,
        dataset: TrainingDataset,
        parts: Sequence[MixturePart],
        telemetry: Telemetry,
        clock: Clock,
    ) -> None:
        self._job, self._place, self._dataset, self._parts = job, place, dataset, parts
        self._telemetry, self._clock = telemetry, clock
        self._tokenizer = dataset.artefact(TOKENIZER)
        self._token_bytes = TokenBytes.parse(self._tokenizer)
        self._vocabulary = len(self._token_bytes.table)
        self._sequence_tokens = dataset.split("train").sample_tokens - 1
        # A head inside a compiled whole has no place to put them.
        compiled = job.spec.layout.compile is CompileUnit.WHOLE
        self._row_losses = RowLosses() if parts and not compiled else None
        self.built = self._build()
        self._feed: BatchStream | None = None

    def _build(self) -> Built:
        spec, layout = self._job.spec, self._job.spec.layout
        world_size = self._place.world_size
        layout.validate(
            spec.model, self._vocabulary, self._sequence_tokens, spec.train.global_batch, world_size
        )
        device = self._place.device
        meshes = Meshes.build(layout, device.type, world_size)
        laid = spread(build_model(spec.model, self._vocabulary), meshes, spec)
        model = materialise(laid.model, spec.train.seed, device, weights=weights_device(layout, device))
        if spec.train.init_from and self._job.resume is None:
            load_first_weights(
                model,
                spec.model,
                self._vocabulary,
                Path(spec.train.init_from),
                digest=self._job.init_digest,
                tokenizer_json=bytes(self._tokenizer).decode(),
                verifies=self._place.leads,
            )
        optimizer = build_optimizer(model, spec.train, device)
        if self._row_losses is not None:
            laid.keep_rows(self._row_losses)
        if layout.plain:
            return Built(model, optimizer, None, model)
        return Built(model, optimizer, laid, Asked(laid))

    @property
    def shape(self) -> JsonValue:
        """The decoder's sizes and its vocabulary."""
        return shape_of(self._job.spec.model, Sizes(self._vocabulary))

    @property
    def parameters(self) -> int:
        """By the formula."""
        return self._job.spec.model.parameters(self._vocabulary)

    @property
    def meter(self) -> Meter:
        """By tokens; rank 0 alone tells, so the others need no peak."""
        spec = self._job.spec.model
        sizes = (self._vocabulary, self._sequence_tokens)
        again = {
            Recompute.FULL: spec.recomputed_flops_per_token(self._sequence_tokens),
            Recompute.BUDGET: None,
        }
        return Meter(
            flops_per_token=spec.training_flops_per_token(*sizes),
            recomputed_per_token=again.get(self._job.spec.layout.recompute, 0.0),
            peak=peak_of(self._place.device, self._job.spec.train.precision) if self._place.leads else None,
            devices=self._place.world_size,
        )

    @property
    def loss(self) -> Callable[[nn.Module, Any], Tensor]:
        """Of each next token, in nats."""
        return next_token_loss

    def feed(self) -> BatchStream:
        """Of the dataset, or of the mixture."""
        train, clock = self._job.spec.train, self._clock
        rank, world_size = self._place.data_share(self._job.spec.layout)
        if self._parts:
            self._feed = Mixture(
                self._parts,
                global_batch=train.global_batch,
                seed=train.seed,
                rank=rank,
                world_size=world_size,
                reuse_batches=self._place.device != HOST,
                pin_memory=pins_batches(self._job.spec.launch, self._place.device),
                clock=clock,
            )
            return self._feed
        return Feed(
            self._dataset,
            global_batch=train.global_batch,
            seed=train.seed,
            rank=rank,
            world_size=world_size,
            reuse_batches=self._place.device != HOST,
            pin_memory=pins_batches(self._job.spec.launch, self._place.device),
            clock=clock,
        )

    def batch(self, drawn: Any, step: int) -> Batch:
        """As it was drawn: int64 `[rows, sequence_tokens + 1]`."""
        tokens: Tensor = drawn
        if self._row_losses is not None:
            self._row_losses.take()  # of a step before that was left out
        return tokens

    def loss_by_part(self) -> Mapping[str, float]:
        """Of the latest step: the mean loss of each dataset's rows, over all ranks that have any."""
        if not isinstance(self._feed, Mixture) or self._row_losses is None:
            return {}
        rows = self._row_losses.take()
        names = [part.dataset for part in self._job.parts]
        of = torch.from_numpy(self._feed.sources.astype(np.int64))
        told = torch.zeros(2, len(names), dtype=torch.float64)
        if rows is not None:  # of a pipeline's ranks those with the last stage have them
            told[0].index_add_(0, of, rows.double().cpu())
            told[1].index_add_(0, of, torch.ones(len(of), dtype=torch.float64))
        if distributed.is_initialized():
            distributed.all_reduce(told)
        return {name: float(told[0, at] / told[1, at]) for at, name in enumerate(names) if told[1, at]}

    def amount(self, batch: Batch) -> int:
        """The predicted tokens of the global batch."""
        return self._job.spec.train.global_batch * self._sequence_tokens

    @property
    def _rows(self) -> int:
        """How many samples a rank evaluates at once: as many as it trains on."""
        return max(1, self._job.spec.train.global_batch // self._place.data_share(self._job.spec.layout)[1])

    def score(self, step: int) -> float:
        """Bits per byte of the held-out split."""
        heldout = self._dataset.split("heldout")
        found = evaluate_model(
            self.built.asked,
            heldout,
            self._token_bytes,
            rows=self._rows,
            clock=self._clock,
            section=self._telemetry.enter,
            device=self._place.device,
        )
        heldout.wipe()
        if self._place.leads:
            tell_evaluation(found, self._telemetry, step=step)
        return found.bits_per_byte

    def finish(self) -> None:
        """Bits per byte beside the baselines, exposure, a redacted sample."""
        others = zip(self._job.parts[1:], self._parts[1:], strict=True)
        end_run(
            self.built.asked,
            self._dataset,
            self._tokenizer,
            self._token_bytes,
            spec=self._job.spec,
            others={named.dataset: part.dataset for named, part in others},
            rows=self._rows,
            leads=self._place.leads,
            telemetry=self._telemetry,
            clock=self._clock,
            device=self._place.device,
        )
