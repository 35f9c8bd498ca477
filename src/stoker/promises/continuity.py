"""Promise 6: a run goes on from its last commit, in the same order, with each sample once."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

import numpy as np

from stoker.core.errors import StokerError
from stoker.core.events import Event, EventKind
from stoker.feed.dataset import Dataset
from stoker.feed.feed import DEFAULT_WINDOW_CHUNKS, Feed
from stoker.feed.order import Order
from stoker.feed.record_batch import RecordBatch
from stoker.fleet.attempt_lock import held_lock, lock_is_free
from stoker.fleet.run_folder import RunFolder
from stoker.ledger.records import DatasetRecord, RunOutcome
from stoker.promises.house import OpenHouse
from stoker.promises.promise import Check, PromiseReport, judged
from stoker.promises.runs import ToldRun, unreadable

_SAME_LOSS: Final = 1e-6
_GLOBAL_BATCH: Final = 12
_BATCHES: Final = 3
_MAX_COUNTED: Final = 1 << 20


def check_continuity(house: OpenHouse, runs: tuple[ToldRun, ...]) -> PromiseReport:
    """Judge every run's steps across its attempts, then deal one stream to other numbers of ranks."""
    checks: list[Check] = []
    if runs:
        checks += [_steps(runs), _abandoned(house, runs)]
    things = house.ledger.catalogue.datasets()
    live = [each for each in things if not house.is_lost(house.sealed_dataset(each))]
    if live:
        checks += _order(house, live[-1])
    if not checks:
        return judged(6, [], missing="No run has trained yet and there is no dataset to deal.")
    return judged(6, checks)


def _steps(runs: tuple[ToldRun, ...]) -> Check:
    wrong = unreadable(runs)
    restarts = again = 0
    for run in runs:
        if run.problem:
            continue
        story = _Story(run)
        wrong += [f"run {run.id} {problem}" for problem in story.problems()]
        restarts, again = restarts + story.restarts, again + story.again
    seen = (
        f"{restarts} restarts, each right after the last commit; {again} steps done again gave the same loss"
    )
    return Check(f"steps of {len(runs)} runs across their attempts", not wrong, "; ".join(wrong[:5]) or seen)


class _Story:
    """One run's steps, held against what the ledger recorded of its commits and of its end."""

    def __init__(self, run: ToldRun) -> None:
        self.restarts = 0
        self.again = 0
        self._run = run
        self._losses: dict[int, float] = {}
        self._due = 1
        self._told: set[tuple[int, int, str]] = set()

    def problems(self) -> Iterator[str]:
        """What does not fit, in the order in which it was told."""
        kinds = (EventKind.ATTEMPT_STARTED, EventKind.CHECKPOINT_COMMITTED, EventKind.STEP)
        for event in self._run.of_kind(*kinds):
            if event.kind is EventKind.ATTEMPT_STARTED:
                yield from self._start(event)
            elif event.rank == 0 and event.kind is EventKind.STEP:
                yield from self._step(event)
            elif event.rank == 0:
                step = int(event.number("step"))
                self._told.add((int(event.number("sequence")), step, event.text("digest")))
                if step != self._due - 1:
                    yield f"committed step {step} where step {self._due - 1} was done"
        for record in self._run.checkpoints:
            if (record.sequence, record.step, record.digest) not in self._told:
                yield f"never told of the checkpoint of step {record.step} that the ledger recorded"
        yield from self._end()

    def _start(self, event: Event) -> Iterator[str]:
        """The resume point is the last checkpoint that the ledger recorded of earlier attempts."""
        resume = int(event.number("resume_step"))
        self.restarts += event.attempt > 1
        earlier = [each.step for each in self._run.checkpoints if each.attempt < event.attempt]
        last = earlier[-1] if earlier else 0
        if resume != last:
            yield f"went on from step {resume} in attempt {event.attempt}, last commit {last}"
        self._due = resume + 1

    def _step(self, event: Event) -> Iterator[str]:
        step, loss = int(event.number("step")), event.number("loss")
        if step != self._due:
            yield f"did step {step} where {self._due} was due"
        self._due = step + 1
        if step in self._losses:
            self.again += 1
            before = self._losses[step]
            same = math.isclose(loss, before, rel_tol=_SAME_LOSS) or (math.isnan(loss) and math.isnan(before))
            if not same:
                yield f"gave the loss {before} in step {step}, then {loss}"
        self._losses[step] = loss

    def _end(self) -> Iterator[str]:
        planned = self._run.spec.train.steps
        if self._run.record.outcome is not RunOutcome.FINISHED:
            return
        if self._due - 1 != planned:
            yield f"is recorded as finished after step {self._due - 1} of {planned}"
        if not self._run.checkpoints or self._run.checkpoints[-1].step != planned:
            yield f"is recorded as finished without a checkpoint of step {planned}"


def _abandoned(house: OpenHouse, runs: tuple[ToldRun, ...]) -> Check:
    """A run that says it goes on has a supervisor, or processes that wait for the next one."""
    abandoned = [
        str(run.id)
        for run in runs
        if run.record.outcome is RunOutcome.RUNNING
        and held_lock(RunFolder.of(house.home.runs_dir, run.id)) is None
        and lock_is_free(house.home.locks_dir / f"run-{run.id}.lock")
    ]
    seen = "none is abandoned"
    if abandoned:
        seen = f"abandoned: {', '.join(abandoned)}; go on with: stoker run resume"
    return Check("runs that say they are running", not abandoned, seen)


def _order(house: OpenHouse, record: DatasetRecord) -> list[Check]:
    """The newest readable dataset, dealt to 1, 2, 3 and 4 ranks in turn; and its first epoch, counted."""
    tried = f"the order of {record.name} dealt to 1, 2, 3 and 4 ranks"
    try:
        dataset = house.dataset(record)
        streams = [_deal(dataset, world_size) for world_size in (1, 2, 3, 4)]
    except StokerError as error:
        return [Check(tried, False, error.message)]
    same = all(np.array_equal(streams[0], stream) for stream in streams[1:])
    word = "the same" if same else "not the same"
    return [Check(tried, same, f"{_BATCHES * _GLOBAL_BATCH} samples, {word} stream"), _epoch(dataset, record)]


def _deal(dataset: Dataset, world_size: int) -> np.ndarray:
    feeds = [
        Feed(dataset, global_batch=_GLOBAL_BATCH, seed=7, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    try:
        batches = [np.concatenate([_seen(feed.next_array()) for feed in feeds]) for _ in range(_BATCHES)]
        return np.concatenate(batches)
    finally:
        for feed in feeds:
            feed.close()


def _seen(batch: np.ndarray | RecordBatch) -> np.ndarray:
    """What tells one batch from another: tokens, or of records their numbers."""
    return batch.numbers if isinstance(batch, RecordBatch) else batch


def _epoch(dataset: Dataset, record: DatasetRecord) -> Check:
    """No sample twice and, when the epoch is short enough to be counted whole, none left out."""
    reader = dataset.split("train")
    order = Order.of(reader, _GLOBAL_BATCH, DEFAULT_WINDOW_CHUNKS, seed=7)
    count = min(reader.samples, _MAX_COUNTED)
    numbers = order.numbers(np.arange(count, dtype=np.int64))
    inside = bool(numbers.min() >= 0 and numbers.max() < reader.samples)
    once = inside and np.unique(numbers).size == count
    whole = "its whole epoch" if count == reader.samples else f"the first of {reader.samples:,}"
    seen = f"{count:,} samples, {whole}: each {'once' if once else 'not once'}"
    return Check(f"samples of {record.name} in an epoch", once, seen)
