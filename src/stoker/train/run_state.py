"""What a step changes and a checkpoint holds. See docs/design/train.md, "The life of a rank"."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType

from stoker.core.canonical import JsonValue
from stoker.core.clock import Clock
from stoker.core.events import EventKind, Section
from stoker.feed.stream import BatchStream
from stoker.spec.job import CommitRef, Job
from stoker.spec.layout import CompileUnit
from stoker.train.checkpoint import load_checkpoint
from stoker.train.checkpoint_errors import CheckpointUnfit
from stoker.train.checkpoint_saver import Saved, open_saver
from stoker.train.commit_record import Commit
from stoker.train.commit_store import CommitLog
from stoker.train.device import Arrivals
from stoker.train.objectives.objective import Batch
from stoker.train.parallelize import forget_gathered
from stoker.train.rank_place import RankPlace, seed_step
from stoker.train.run_objects import RunObjects
from stoker.train.schedule import learning_rate_at
from stoker.train.step import StepFigures, train_step
from stoker.train.task import Task
from stoker.train.telemetry import Telemetry, step_fields
from stoker.train.watch.cadence import Cadence
from stoker.train.watch.guard import Decision, Guard
from stoker.train.watch.meter import Meter, SectionTimes
from stoker.train.watch.parts import OwnParts, both, counting_waits
from stoker.train.watch.patience import Patience
from stoker.train.watch.together import digest_over_ranks


class RunState:
    """One run on one rank: weights, optimizer, feed, and what watches over them. All ranks call all of it."""

    def __init__(
        self,
        job: Job,
        place: RankPlace,
        task: Task,
        feed: BatchStream,
        *,
        objects: RunObjects,
        log: CommitLog | None,
        telemetry: Telemetry,
        clock: Clock,
    ) -> None:
        """Rank 0 alone has the `log`."""
        self._job, self._place, self._task, self._feed = job, place, task, feed
        self._objects, self._log = objects, log
        self._telemetry, self._clock = telemetry, clock
        self._model, self._optimizer = task.built.model, task.built.optimizer
        self._data_rank, _ = place.data_share(job.spec.layout)
        self._arrivals = Arrivals(place.device)
        self._shape = task.shape
        self._guard = Guard(job.spec.watch)
        self._patience = Patience(job.spec.watch)
        self.cadence = Cadence(job.spec.train, job.mttf_s)
        self._counting = counting_waits(clock)
        self._parts: OwnParts
        self._last_step = 0
        self._saver = open_saver(
            job.spec.train, objects, place.rank, log, job.attempt, self._tell_saved, clock, job.resume
        )

    def __enter__(self) -> RunState:
        self._saver.__enter__()
        waits = self._counting.__enter__()
        self._parts = OwnParts(self._telemetry, waits, self._place.device, self._clock)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Bring a checkpoint that is under way to its end."""
        self._counting.__exit__(kind, error, trace)
        self._saver.__exit__(kind, error, trace)

    def resume(self) -> int:
        """Load the checkpoint that the ledger recorded; the step it was saved after.

        What is met there is of the checkpoint, so the rank says meanwhile that it is busy with one.
        """
        assert self._job.resume is not None
        self._telemetry.enter(Section.CHECKPOINT)
        record = self._load(self._job.resume)
        self._feed.load_state_dict(_feed_state(record, self._objects.record_key(record.sequence)))
        self._guard.load_state_dict(record.extra.get("guard"))
        self._patience.load_state_dict(record.extra.get("patience"))
        self.cadence.load_state_dict(record.extra.get("cadence"))
        self._telemetry.enter(Section.START_UP)
        return record.step

    def _load(self, reference: CommitRef) -> Commit:
        forget_gathered(self._model)
        return load_checkpoint(self._model, self._optimizer, self._objects, reference, shape=self._shape)

    def step(self, step: int, meter: Meter) -> int:
        """Train on a batch; the step that the weights are at then, which is an earlier one if rolled back."""
        spec = self._job.spec.train
        begun_s, compiled_before_s = self._clock.monotonic_s(), self._compiled_s()
        self._telemetry.enter(Section.DATA, step)
        self._parts.begin(step)
        seed_step(spec.seed, step, self._data_rank)
        self._arrivals.settle()
        batch = self._arrivals.bring(self._task.batch(next(self._feed), step))
        times = SectionTimes(both(self._telemetry.enter, self._parts.enter), self._clock)
        figures = train_step(
            self._model,
            self._optimizer,
            batch,
            spec,
            step,
            loss_of=self._task.loss,
            section=times.enter,
            guard=self._guard,
            before_update=self._saver.settle,
            spread=self._task.built.spread,
        )
        self._parts.end(step)
        self.cadence.took(self._clock.monotonic_s() - begun_s)
        self._last_step = step
        if figures.decision is not Decision.APPLY:
            return self._leave_out(step, batch, figures)
        by_part = self._task.loss_by_part()
        if self._place.leads:
            tokens, step_s = self._task.amount(batch), self._clock.monotonic_s() - begun_s
            fields = step_fields(
                step=step,
                loss=figures.loss,
                lr=learning_rate_at(step, spec),
                grad_norm=figures.grad_norm,
                tokens=tokens,
                step_s=step_s,
                data_wait_s=self._feed.last_wait_s,
            )
            rates = meter.figures(
                tokens=tokens,
                samples=spec.global_batch,
                step_s=step_s,
                parts_s=times.take(),
                device=self._place.device,
            )
            domains = {"loss_of": dict(by_part)} if by_part else {}
            compiled_s = self._compiled_s() - compiled_before_s
            compiled = {"compile_s": round(compiled_s, 6)} if compiled_s > 0 else {}
            self._telemetry.emit(EventKind.STEP, **fields, **rates, **domains, **compiled)
        return step

    def _compiled_s(self) -> float:
        """What this process has spent in torch's compiler so far; 0 where none is asked for."""
        if self._job.spec.layout.compile is CompileUnit.NONE:
            return 0.0
        from torch._dynamo.utils import calculate_time_spent

        return float(calculate_time_spent().get("total_wall_time", 0.0))

    def _leave_out(self, step: int, batch: Batch, figures: StepFigures) -> int:
        """Train no more on this batch, nor, with a roll-back, on those since the last checkpoint."""
        digest = digest_over_ranks(batch)
        if self._place.leads:
            self._telemetry.emit(
                EventKind.BATCH_SKIPPED,
                step=step,
                reason=self._guard.reason,
                loss=figures.loss,
                grad_norm=figures.grad_norm,
                batch_digest=digest,
            )
        if figures.decision is Decision.SKIP:
            return step
        self._telemetry.enter(Section.CHECKPOINT)
        self._saver.wait()
        if self._saver.newest is None:
            raise self._guard.error(step, figures.loss, figures.grad_norm)
        back_to = self._load(
            self._saver.newest
        ).step  # the feed stays where it is: its batches are not drawn again
        if self._place.leads:
            reason = self._guard.reason
            self._telemetry.emit(EventKind.ROLLED_BACK, step=step, to_step=back_to, reason=reason)
        return back_to

    def evaluate(self, step: int) -> bool:
        """Evaluate on the held-out split when it is time; whether the run ends early."""
        if not self._patience.asks(step, self._job.spec.train.steps):
            return False
        enough = self._patience.spent(step, self._task.score(step))
        if enough and self._place.leads:
            best = {"best_step": self._patience.best_step, "best": self._patience.best}
            self._telemetry.emit(EventKind.STOPPED_EARLY, step=step, **best)
        return enough

    def save(self, step: int) -> None:
        """Save a checkpoint, or begin to; older ones are removed that are no longer kept."""
        self._telemetry.enter(Section.CHECKPOINT)
        begun = self._place.leads and not self._job.spec.train.checkpoint_async
        if begun:
            self._telemetry.emit(EventKind.CHECKPOINT_STARTED, step=step)
        extra = {
            "shape": self._shape,
            "feed": self._feed.state_dict(),
            "guard": self._guard.state_dict(),
            "patience": self._patience.state_dict(),
            "cadence": self.cadence.state_dict(),
        }
        begun_s = self._clock.monotonic_s()
        stall_s = self._saver.save(self._model, self._optimizer, step, extra)
        changed = self.cadence.saved(step, self._clock.monotonic_s() - begun_s)
        if changed and self._place.leads:
            self._telemetry.emit(EventKind.CHECKPOINT_INTERVAL, step=step, **self.cadence.figures())
        if stall_s is not None and self._place.leads:
            self._telemetry.emit(EventKind.CHECKPOINT_STARTED, step=step, stall_s=round(stall_s, 6))

    def finish(self) -> None:
        """Until the last checkpoint is committed."""
        self._parts.tell(self._last_step)
        self._telemetry.enter(Section.CHECKPOINT)
        self._saver.wait()

    def _tell_saved(self, saved: Saved) -> None:
        reference = saved.committed.reference
        self._telemetry.emit(
            EventKind.CHECKPOINT_COMMITTED,
            step=reference.step,
            sequence=reference.sequence,
            digest=reference.digest,
            stall_s=round(saved.stall_s, 6),
            whole_s=round(saved.whole_s, 6),
            background=saved.background,
            bytes=saved.committed.sealed_bytes,
        )


def _feed_state(record: Commit, place: str) -> Mapping[str, JsonValue]:
    state = record.extra.get("feed")
    if not isinstance(state, Mapping):
        raise CheckpointUnfit(f"{place} holds no state of the feed.")
    return state
