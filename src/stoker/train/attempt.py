"""One life of a run inside one rank: build, resume, step, save, evaluate. See docs/design/train.md.

Everything that touches the world comes in as an argument, so the same code runs under a launcher and, with
several ranks forked, in a test.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import torch
import torch.distributed as distributed
from torch import Tensor, nn
from torch.utils import deterministic

from stoker.core.canonical import JsonValue
from stoker.core.clock import Clock
from stoker.core.events import EventKind, Section
from stoker.feed.feed import Feed
from stoker.feed.mixture import Mixture, MixturePart
from stoker.feed.source import SampleDataset
from stoker.feed.stream import BatchStream
from stoker.spec.job import CommitRef, Job
from stoker.spec.layout import Recompute
from stoker.train.checkpoint import load_checkpoint, save_checkpoint
from stoker.train.checkpoint_errors import CheckpointUnfit
from stoker.train.commit_record import Commit
from stoker.train.commit_store import CommitLog
from stoker.train.ending import end_run, tell_evaluation
from stoker.train.evaluate import evaluate_model
from stoker.train.models.decoder import build_model
from stoker.train.models.initialise import materialise
from stoker.train.optimizer import build_optimizer
from stoker.train.parallel.mesh import Meshes, data_rank_of
from stoker.train.parallel.passes import Asked
from stoker.train.parallelize import Spread, forget_gathered, spread
from stoker.train.run_objects import RunObjects
from stoker.train.schedule import learning_rate_at
from stoker.train.step import StepFigures, train_step
from stoker.train.telemetry import Telemetry, step_fields
from stoker.train.token_bytes import TokenBytes
from stoker.train.watch.guard import Decision, Guard
from stoker.train.watch.meter import Meter, SectionTimes, peak_of
from stoker.train.watch.patience import Patience
from stoker.train.watch.together import digest_over_ranks, told_to_all

TOKENIZER: Final = "tokenizer"
DEVICE: Final = torch.device("cpu")


class TrainingDataset(SampleDataset, Protocol):
    """What an attempt needs of a dataset beside its splits."""

    def artefact(self, name: str) -> bytearray:
        """A sealed artefact of the dataset, opened whole."""
        ...


@dataclass(frozen=True, slots=True)
class RankPlace:
    """Which of how many ranks this is."""

    rank: int
    world_size: int

    @property
    def leads(self) -> bool:
        """Rank 0 alone writes the commit log and tells of steps."""
        return self.rank == 0


def run_attempt(
    job: Job,
    place: RankPlace,
    *,
    objects: RunObjects,
    dataset: TrainingDataset,
    parts: Sequence[MixturePart] = (),
    telemetry: Telemetry,
    clock: Clock,
) -> None:
    """Take the run from where `job.resume` says to its last step, and evaluate it.

    All ranks call it, with a process group in place. `parts` are those of a mixture, in the order of
    `job.parts`, the first over `dataset`; without them the run reads `dataset` alone. Raises NonFiniteLoss,
    Fenced, and what the store, the keys, the feed and the checkpoints raise; checkpoints committed before an
    error stay.
    """
    telemetry.enter(Section.START_UP)
    make_deterministic(job.spec.train.seed, job.spec.launch.threads_per_rank)
    tokenizer = dataset.artefact(TOKENIZER)
    token_bytes = TokenBytes.parse(tokenizer)
    # Fenced before the checkpoint is read: from here on no older attempt can commit or delete anything.
    log = CommitLog.begin(objects, job.attempt, job.resume) if place.leads else None
    vocabulary, sequence_tokens = len(token_bytes.table), dataset.split("train").sample_tokens - 1
    built = _build(job, place, vocabulary, sequence_tokens)
    with _feed(job, place, dataset, parts, clock) as feed:
        state = _RunState(job, place, objects, log, built, feed, vocabulary)
        done = state.resume() if job.resume is not None else 0
        parameters = job.spec.model.parameters(vocabulary)
        meter = _meter(job, place, vocabulary, sequence_tokens)
        telemetry.emit(EventKind.RANK_READY, resume_step=done, parameters=parameters, **meter.facts())
        step = done
        while step < job.spec.train.steps:
            step = state.step(step + 1, telemetry, clock, meter)
            enough = state.evaluate(step, dataset, token_bytes, telemetry, clock)
            if enough or step % job.spec.train.checkpoint_every_steps == 0 or step == job.spec.train.steps:
                state.save(step, telemetry, clock)
            if enough:
                break
    end_run(
        built.asked,
        dataset,
        tokenizer,
        token_bytes,
        spec=job.spec,
        others={named.dataset: part.dataset for named, part in zip(job.parts[1:], parts[1:], strict=True)},
        rows=_rows(job, place),
        leads=place.leads,
        telemetry=telemetry,
        clock=clock,
    )
    telemetry.enter(Section.DONE)


def make_deterministic(seed: int, threads: int) -> None:
    """The same bits on every run: fixed threads, no nondeterministic kernel, a known random state."""
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    # Only debugging needs memory to be filled before it is written.
    deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a property
    torch.manual_seed(seed)


def seed_step(seed: int, step: int, rank: int) -> None:
    """Put torch's generators where step `step` finds them in every life of the run, on this rank.

    The state of a generator is thus a function of three numbers and needs no place in a checkpoint.
    """
    digest = hashlib.sha256(f"stoker step {seed}/{step}/{rank}".encode()).digest()
    torch.manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def _feed(
    job: Job, place: RankPlace, dataset: TrainingDataset, parts: Sequence[MixturePart], clock: Clock
) -> BatchStream:
    """This rank's share of the run's batches."""
    batch, seed = job.spec.train.global_batch, job.spec.train.seed
    rank, world_size = _data_share(job, place)
    if parts:
        return Mixture(parts, global_batch=batch, seed=seed, rank=rank, world_size=world_size, clock=clock)
    return Feed(dataset, global_batch=batch, seed=seed, rank=rank, world_size=world_size, clock=clock)


def _meter(job: Job, place: RankPlace, vocabulary: int, sequence_tokens: int) -> Meter:
    """What steps are measured by; rank 0 alone tells, so the others need no peak."""
    spec = job.spec.model
    again = job.spec.layout.recompute is Recompute.FULL
    return Meter(
        flops_per_token=spec.training_flops_per_token(vocabulary, sequence_tokens),
        recomputed_per_token=spec.forward_flops_per_token(vocabulary, sequence_tokens) if again else 0.0,
        peak=peak_of(DEVICE, job.spec.train.precision) if place.leads else None,
        devices=place.world_size,
    )


@dataclass(frozen=True, slots=True)
class _Built:
    """A model on its ranks and its optimizer; `spread` where the layout is more than shards.

    `asked` gives whole logits, for evaluation.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    spread: Spread | None
    asked: nn.Module


def _build(job: Job, place: RankPlace, vocabulary: int, sequence_tokens: int) -> _Built:
    spec, layout = job.spec, job.spec.layout
    layout.validate(spec.model, vocabulary, sequence_tokens, spec.train.global_batch, place.world_size)
    meshes = Meshes.build(layout, DEVICE.type, place.world_size)
    laid = spread(build_model(spec.model, vocabulary), meshes, spec)
    model = materialise(laid.model, spec.train.seed, DEVICE)
    optimizer = build_optimizer(model, spec.train)
    if layout.plain:
        return _Built(model, optimizer, None, model)
    return _Built(model, optimizer, laid, Asked(laid))


def _data_share(job: Job, place: RankPlace) -> tuple[int, int]:
    """Which of how many shares of each global batch this rank works on."""
    layout = job.spec.layout.resolved(place.world_size)
    return data_rank_of(layout, place.rank, place.world_size), layout.data_ranks


def _rows(job: Job, place: RankPlace) -> int:
    """How many samples a rank evaluates at once: as many as it trains on."""
    return max(1, job.spec.train.global_batch // _data_share(job, place)[1])


class _RunState:
    """What a step changes and a checkpoint holds."""

    def __init__(
        self,
        job: Job,
        place: RankPlace,
        objects: RunObjects,
        log: CommitLog | None,
        built: _Built,
        feed: BatchStream,
        vocabulary: int,
    ) -> None:
        self._job = job
        self._place = place
        self._objects = objects
        self._log = log
        self._built = built
        self._model = built.model
        self._optimizer = built.optimizer
        self._feed = feed
        self._shape: JsonValue = {"model": job.spec.model.shape(), "vocabulary": vocabulary}
        self._guard = Guard(job.spec.watch)
        self._patience = Patience(job.spec.watch)
        self._last = job.resume
        """The newest checkpoint of this run; every rank knows it."""

    def resume(self) -> int:
        """Load the checkpoint that the ledger recorded; the step it was saved after."""
        assert self._last is not None
        record = self._load(self._last)
        self._feed.load_state_dict(_feed_state(record, self._objects.record_key(record.sequence)))
        self._guard.load_state_dict(record.extra.get("guard"))
        self._patience.load_state_dict(record.extra.get("patience"))
        return record.step

    def _load(self, reference: CommitRef) -> Commit:
        forget_gathered(self._model)
        return load_checkpoint(
            self._model,
            self._optimizer,
            self._objects,
            reference,
            rank=self._place.rank,
            world_size=self._place.world_size,
            shape=self._shape,
        )

    def step(self, step: int, telemetry: Telemetry, clock: Clock, meter: Meter) -> int:
        """Train on a batch; the step that the weights are at then, which is an earlier one if rolled back."""
        begun_s = clock.monotonic_s()
        telemetry.enter(Section.DATA, step)
        seed_step(self._job.spec.train.seed, step, _data_share(self._job, self._place)[0])
        batch = next(self._feed)
        spec = self._job.spec.train
        times = SectionTimes(telemetry.enter, clock)
        figures = train_step(
            self._model,
            self._optimizer,
            batch,
            spec,
            step,
            section=times.enter,
            guard=self._guard,
            spread=self._built.spread,
        )
        if figures.decision is not Decision.APPLY:
            return self._leave_out(step, batch, figures, telemetry)
        if self._place.leads:
            tokens, step_s = spec.global_batch * (batch.shape[1] - 1), clock.monotonic_s() - begun_s
            fields = step_fields(
                step=step,
                loss=figures.loss,
                lr=learning_rate_at(step, spec),
                grad_norm=figures.grad_norm,
                tokens=tokens,
                step_s=step_s,
                data_wait_s=self._feed.last_wait_s,
            )
            rates = meter.figures(tokens=tokens, step_s=step_s, parts_s=times.take(), device=DEVICE)
            telemetry.emit(EventKind.STEP, **fields, **rates)
        return step

    def _leave_out(self, step: int, batch: Tensor, figures: StepFigures, telemetry: Telemetry) -> int:
        """Train no more on this batch, nor, with a roll-back, on those since the last checkpoint."""
        digest = digest_over_ranks(batch)
        if self._place.leads:
            telemetry.emit(
                EventKind.BATCH_SKIPPED,
                step=step,
                reason=self._guard.reason,
                loss=figures.loss,
                grad_norm=figures.grad_norm,
                batch_digest=digest,
            )
        if figures.decision is Decision.SKIP:
            return step
        if self._last is None:
            raise self._guard.error(step, figures.loss, figures.grad_norm)
        telemetry.enter(Section.CHECKPOINT)
        back_to = self._load(self._last).step  # the feed stays where it is: its batches are not drawn again
        if self._place.leads:
            telemetry.emit(EventKind.ROLLED_BACK, step=step, to_step=back_to, reason=self._guard.reason)
        return back_to

    def evaluate(
        self, step: int, dataset: TrainingDataset, token_bytes: TokenBytes, telemetry: Telemetry, clock: Clock
    ) -> bool:
        """Evaluate on the held-out split when it is time; whether the run ends early."""
        if not self._patience.asks(step, self._job.spec.train.steps):
            return False
        rows = _rows(self._job, self._place)
        heldout = dataset.split("heldout")
        found = evaluate_model(
            self._built.asked, heldout, token_bytes, rows=rows, clock=clock, section=telemetry.enter
        )
        heldout.wipe()
        enough = self._patience.spent(step, found.bits_per_byte)
        if self._place.leads:
            tell_evaluation(found, telemetry, step=step)
            if enough:
                best = {"best_step": self._patience.best_step, "best_bits_per_byte": self._patience.best_bits}
                telemetry.emit(EventKind.STOPPED_EARLY, step=step, **best)
        return enough

    def save(self, step: int, telemetry: Telemetry, clock: Clock) -> None:
        """Commit a checkpoint and remove those that are no longer kept; training stands still meanwhile."""
        begun_s = clock.monotonic_s()
        telemetry.enter(Section.CHECKPOINT)
        if self._place.leads:
            telemetry.emit(EventKind.CHECKPOINT_STARTED, step=step)
        committed = save_checkpoint(
            self._model,
            self._optimizer,
            self._objects,
            rank=self._place.rank,
            log=self._log,
            attempt=self._job.attempt,
            step=step,
            keep=self._job.spec.train.keep_checkpoints,
            extra={
                "shape": self._shape,
                "feed": self._feed.state_dict(),
                "guard": self._guard.state_dict(),
                "patience": self._patience.state_dict(),
            },
        )
        self._last = told_to_all(committed.reference if committed else None)
        if committed is None or self._log is None:
            return
        try:
            self._log.sweep()
        finally:
            telemetry.emit(
                EventKind.CHECKPOINT_COMMITTED,
                step=step,
                sequence=committed.reference.sequence,
                digest=committed.reference.digest,
                stall_s=round(clock.monotonic_s() - begun_s, 6),
                bytes=committed.sealed_bytes,
            )


def _feed_state(record: Commit, place: str) -> Mapping[str, JsonValue]:
    state = record.extra.get("feed")
    if not isinstance(state, Mapping):
        raise CheckpointUnfit(f"{place} holds no state of the feed.")
    return state


def leave_process_group() -> None:
    """End the process group, if there is one; peers that are still working would see a lost connection."""
    if distributed.is_initialized():
        distributed.destroy_process_group()
