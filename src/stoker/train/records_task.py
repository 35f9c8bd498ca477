"""A model of another family that learns from records. See docs/design/records-run.md."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from stoker.core.canonical import JsonValue
from stoker.core.clock import Clock
from stoker.core.events import EventKind, Section
from stoker.feed.dataset import Dataset
from stoker.feed.decode import decoded
from stoker.feed.feed import Feed
from stoker.feed.record_batch import NUMBER_KEY
from stoker.feed.source import FeedDataset
from stoker.feed.stream import BatchStream
from stoker.spec.job import Job
from stoker.spec.layout import Recompute
from stoker.spec.model import ModelSpec
from stoker.spec.run import RunSpec
from stoker.spec.speech import SpeechSpec
from stoker.store.record_schema import RecordSchema
from stoker.train.columns import Columns, RecordsSpec, clip_samples, columns_for, decoding_of
from stoker.train.device import HOST, Arrivals, pins_batches, weights_device
from stoker.train.families import Sizes, family_of, shape_of
from stoker.train.models.initialise import materialise
from stoker.train.objectives.gather import gather_rows
from stoker.train.objectives.objective import Batch, UnfitBatch
from stoker.train.optimizer import build_optimizer
from stoker.train.parallel.mesh import Meshes
from stoker.train.parallel.passes import AskedEncoder
from stoker.train.parallelize import spread
from stoker.train.rank_place import RankPlace
from stoker.train.task import Built
from stoker.train.telemetry import Telemetry
from stoker.train.text_task import TOKENIZER
from stoker.train.token_bytes import TokenBytes
from stoker.train.watch.meter import Meter, peak_of

CLASSES: Final = "classes"


@dataclass(frozen=True, slots=True)
class Records:
    """A dataset of records, and the same as a feed takes it: with its files decoded."""

    dataset: Dataset
    fed: FeedDataset


@contextmanager
def records_of(spec: RunSpec, dataset: Dataset) -> Iterator[Records]:
    """Begin decoding what the model needs. Enter it before keys are opened and threads are begun.

    Raises UnfitBatch where the dataset holds packed text, NotDecodable where a field is missing.
    """
    trained = spec.trained
    assert not isinstance(trained, ModelSpec)
    if not isinstance(dataset.superblock.schema, RecordSchema):
        raise UnfitBatch(
            f"[{family_of(trained).name}] learns from records, and {dataset.superblock.subject} holds text.",
            hint="Name a dataset whose recipe has records.parts, or train a [model].",
        )
    decoding = decoding_of(trained, spec.reading)
    if decoding is None:
        yield Records(dataset, dataset)
        return
    with decoded(dataset, decoding) as fed:
        yield Records(dataset, fed)


class RecordsTask:
    """Every rank has the whole of each row it works on; with tp several work on the same rows."""

    def __init__(
        self, job: Job, place: RankPlace, records: Records, telemetry: Telemetry, clock: Clock
    ) -> None:
        trained = job.spec.trained
        assert not isinstance(trained, ModelSpec)
        self._spec: RecordsSpec = trained
        self._job, self._place, self._records = job, place, records
        self._telemetry, self._clock = telemetry, clock
        self._share = place.data_share(job.spec.layout)
        vocabulary = self._vocabulary()
        self._sizes = Sizes(vocabulary)
        self._family = family_of(trained)
        self._objective = self._family.objective(trained, self._sizes)
        self._columns: Callable[[Any, Tensor], Columns] = columns_for(trained, self._classes())
        self._checked = False
        self.built = self._build()

    def _artefact(self, name: str) -> bytearray | None:
        dataset = self._records.dataset
        return None if dataset.superblock.artefact(name) is None else dataset.artefact(name)

    def _vocabulary(self) -> int:
        tokenizer = self._artefact(TOKENIZER)
        return 0 if tokenizer is None else len(TokenBytes.parse(tokenizer).table)

    def _classes(self) -> Sequence[str]:
        found = self._artefact(CLASSES)
        return () if found is None else tuple(json.loads(found))

    def _build(self) -> Built:
        spec = self._job.spec
        spec.layout.validate(self._spec, None, None, spec.train.global_batch, self._place.world_size)
        device = self._place.device
        meshes = Meshes.build(spec.layout, device.type, self._place.world_size)
        laid = spread(self._family.build(self._spec, self._sizes), meshes, spec)
        model = materialise(laid.model, spec.train.seed, device, weights=weights_device(spec.layout, device))
        optimizer = build_optimizer(model, spec.train, device)
        # Every rank of tp has whole logits, so without a pipeline the model can be asked as it is.
        asked = model if laid.encoder_pipeline is None else AskedEncoder(laid)
        return Built(model, optimizer, None if spec.layout.plain else laid, asked)

    @property
    def shape(self) -> JsonValue:
        """The family, its sizes and the vocabulary."""
        return shape_of(self._spec, self._sizes)

    @property
    def parameters(self) -> int:
        """Of the whole model."""
        whole = self._family.build(self._spec, self._sizes)  # on the meta device; a rank may have a part
        return sum(parameter.numel() for parameter in whole.parameters())

    @property
    def meter(self) -> Meter:
        """By records."""
        spec = self._spec
        if isinstance(spec, SpeechSpec):
            flops = spec.training_flops_per_sample(clip_samples(spec, self._job.spec.reading))
        else:
            flops = spec.training_flops_per_sample()
        leads = self._place.leads
        peak = peak_of(self._place.device, self._job.spec.train.precision) if leads else None
        # A forward pass is a third of what training costs; see docs/design/spec.md.
        again = {Recompute.FULL: flops / 3, Recompute.BUDGET: None}
        return Meter(flops, again.get(self._job.spec.layout.recompute, 0.0), peak, self._place.world_size)

    @property
    def loss(self) -> Callable[[nn.Module, Any], Tensor]:
        """The objective's."""
        return self._objective.loss

    def feed(self) -> BatchStream:
        """Of the dataset's training split."""
        return self._feed("train", self._job.spec.train.seed)

    def _feed(self, split: str, seed: int) -> Feed:
        rank, world_size = self._share
        return Feed(
            self._records.fed,
            split=split,
            global_batch=self._job.spec.train.global_batch,
            seed=seed,
            rank=rank,
            world_size=world_size,
            reuse_batches=self._place.device != HOST,
            pin_memory=pins_batches(self._job.spec.launch, self._place.device),
            clock=self._clock,
        )

    def _places(self, step: int) -> Tensor:
        """Where the rows of this rank's share stand in the stream of all samples; steps count from 1."""
        rank, world_size = self._share
        batch = self._job.spec.train.global_batch
        rows = batch // world_size
        return torch.arange(rows) + (step - 1) * batch + rank * rows

    def batch(self, drawn: Any, step: int) -> Batch:
        """Its columns. Raises UnfitBatch, at the first batch of an attempt at the latest for whole fields."""
        columns = self._columns(drawn, self._places(step))
        if not self._checked:
            self._objective.check(columns)
            self._checked = True
        return columns

    def loss_by_part(self) -> Mapping[str, float]:
        """There is one dataset."""
        return {}

    def amount(self, batch: Batch) -> int:
        """The records of the global batch."""
        return self._job.spec.train.global_batch

    def score(self, step: int) -> float:
        """The objective's loss on the held-out split."""
        return self._evaluated(step=step)["loss"]

    def finish(self) -> None:
        """The objective's figures on the held-out split."""
        if self._job.spec.evaluate.heldout:
            self._evaluated()

    def _evaluated(self, **more: JsonValue) -> dict[str, float]:
        model = self.built.asked
        samples = self._records.fed.split("heldout").samples
        training = model.training
        model.eval()
        figures = self._objective.evaluate(model, self._heldout(samples), gather_rows)
        model.train(training)
        for name, value in figures.items() if self._place.leads else ():
            self._telemetry.emit(EventKind.FIGURE, name=name, value=value, rows=samples, **more)
        return figures

    def _heldout(self, samples: int) -> Iterator[Batch]:
        """The held-out split once, over all ranks; what fills the last batch up does not count."""
        arrivals = Arrivals(self._place.device)
        with self._feed("heldout", 0) as feed:
            for step in range(1, -(-samples // self._job.spec.train.global_batch) + 1):
                self._telemetry.enter(Section.EVALUATE)
                arrivals.settle()
                drawn = next(feed)
                columns = self._columns(drawn, drawn[NUMBER_KEY])
                yield arrivals.bring({**columns, "counted": self._places(step) < samples})
