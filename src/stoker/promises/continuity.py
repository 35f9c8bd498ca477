"""Promise 6: a run goes on from its last commit, in the same order, with each sample once."""

from __future__ import annotations

import math

import numpy as np

from stoker.core.errors import StokerError
from stoker.core.events import EventKind
from stoker.feed.dataset import Dataset
from stoker.feed.feed import Feed
from stoker.fleet.attempt import lock_is_free
from stoker.fleet.run_folder import RunFolder
from stoker.intake.review import review_digest
from stoker.ledger.records import DatasetRecord, RunOutcome
from stoker.promises.house import OpenHouse
from stoker.promises.promise import Check, PromiseReport, judged
from stoker.promises.runs import ToldRun, unreadable

_SAME_LOSS = 1e-6
_GLOBAL_BATCH = 12
_BATCHES = 3


def check_continuity(house: OpenHouse, runs: tuple[ToldRun, ...]) -> PromiseReport:
    """Judge every run's steps across its attempts, then deal one stream to other numbers of ranks."""
    checks: list[Check] = []
    if runs:
        checks.append(_steps(runs))
        abandoned = [
            str(run.id)
            for run in runs
            if run.record.outcome is RunOutcome.RUNNING
            and lock_is_free(RunFolder.of(house.home.runs_dir, run.id).attempt_lock)
        ]
        seen = (
            f"abandoned: {', '.join(abandoned)}; go on with: stoker run resume"
            if abandoned
            else "none is abandoned"
        )
        checks.append(Check("runs that say they are running", not abandoned, seen))
    live = [each for each in house.ledger.catalogue.datasets() if _readable(house, each)]
    if live:
        checks.append(_same_stream(house, live[-1]))
    if not checks:
        return judged(6, [], missing="No run has trained yet and there is no dataset to deal.")
    return judged(6, checks)


def _steps(runs: tuple[ToldRun, ...]) -> Check:
    wrong = unreadable(runs)
    restarts = redone = 0
    for run in runs:
        losses: dict[int, float] = {}
        committed, expected = {0}, 1
        for event in run.of_kind(EventKind.ATTEMPT_STARTED, EventKind.CHECKPOINT_COMMITTED, EventKind.STEP):
            if event.kind is EventKind.CHECKPOINT_COMMITTED:
                committed.add(int(event.number("step")))
            elif event.kind is EventKind.ATTEMPT_STARTED:
                resume = int(event.number("resume_step"))
                restarts += resume > 0
                if resume != max(committed):
                    wrong.append(f"run {run.id} went on from step {resume}, last commit {max(committed)}")
                expected = resume + 1
            elif event.rank == 0:
                step, loss = int(event.number("step")), event.number("loss")
                if step != expected:
                    wrong.append(f"run {run.id} did step {step} where {expected} was due")
                expected = step + 1
                if step in losses:
                    redone += 1
                    if not math.isclose(loss, losses[step], rel_tol=_SAME_LOSS):
                        wrong.append(f"run {run.id}: step {step} gave {losses[step]}, then {loss}")
                losses[step] = loss
    seen = f"{restarts} resumes, each right after its commit; {redone} steps done again gave the same loss"
    return Check(f"steps of {len(runs)} runs across their attempts", not wrong, "; ".join(wrong[:5]) or seen)


def _readable(house: OpenHouse, record: DatasetRecord) -> bool:
    expired = house.clock.now_s() >= record.expires_s
    return not expired and not house.ledger.catalogue.is_tombstoned(record.kek)


def _same_stream(house: OpenHouse, record: DatasetRecord) -> Check:
    """Global batches dealt to 1, 2, 3 and 4 ranks, in turn, on one state."""
    dataset = Dataset.open(
        house.store,
        None,
        name=record.name,
        version=record.version,
        root=record.root,
        public_key=house.backend.signer("manifest").public_key,
        keys=house.keys,
        review_digest=review_digest(house.ledger.catalogue.review(record.review)),
    )
    tried = f"the order of {record.name} dealt to 1, 2, 3 and 4 ranks"
    try:
        streams = [_deal(dataset, world_size) for world_size in (1, 2, 3, 4)]
    except StokerError as error:
        return Check(tried, False, error.message)
    same = all(np.array_equal(streams[0], stream) for stream in streams[1:])
    return Check(
        tried, same, f"{_BATCHES * _GLOBAL_BATCH} samples, {'the same' if same else 'not the same'} stream"
    )


def _deal(dataset: Dataset, world_size: int) -> np.ndarray:
    feeds = [
        Feed(dataset, global_batch=_GLOBAL_BATCH, seed=7, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    try:
        batches = [np.concatenate([feed.next_array() for feed in feeds]) for _ in range(_BATCHES)]
        return np.concatenate(batches)
    finally:
        for feed in feeds:
            feed.close()
