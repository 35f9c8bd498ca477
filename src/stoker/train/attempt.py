"""One life of a run inside one rank: build, resume, step, save, evaluate. See docs/design/train.md.

Everything that touches the world comes in as an argument, so the same code runs under a launcher and, with
several ranks forked, in a test.
"""

from __future__ import annotations

from collections.abc import Sequence

from stoker.core.clock import Clock
from stoker.core.events import EventKind, Section
from stoker.feed.mixture import MixturePart
from stoker.spec.job import Job
from stoker.train.commit_store import CommitLog
from stoker.train.device import settle_arithmetic
from stoker.train.float8 import require_hardware
from stoker.train.memory import Memory
from stoker.train.rank_place import RankPlace
from stoker.train.records_task import Records, RecordsTask
from stoker.train.run_objects import RunObjects
from stoker.train.run_state import RunState
from stoker.train.save_ask import Asked, nobody_asks
from stoker.train.task import Task
from stoker.train.telemetry import Telemetry
from stoker.train.text_task import TextTask, TrainingDataset


def run_attempt(
    job: Job,
    place: RankPlace,
    *,
    objects: RunObjects,
    dataset: TrainingDataset | Records,
    parts: Sequence[MixturePart] = (),
    telemetry: Telemetry,
    clock: Clock,
    asked: Asked = nobody_asks,
) -> None:
    """Take the run from where `job.resume` says to its last step, and evaluate it.

    All ranks call it, with a process group in place. `parts` are those of a mixture, in the order of
    `job.parts`, the first over `dataset`; without them the run reads `dataset` alone. A decoder learns from
    the samples of a dataset, every other family from Records. After each step `asked` is asked on all ranks
    alike whether a checkpoint is due out of turn. Raises NonFiniteLoss, Fenced, OutOfMemory, and what the
    store, the keys, the feed and the checkpoints raise; checkpoints committed before an error stay.
    """
    telemetry.enter(Section.START_UP)
    train = job.spec.train
    settle_arithmetic(train.seed, job.spec.launch.threads_per_rank, deterministic=train.deterministic)
    require_hardware(train, place.device)
    memory = Memory(job.spec, place.device)
    with memory.explained():
        task = task_of(job, place, dataset, parts, telemetry, clock)
    memory.holds(task.built.model, task.built.optimizer)
    # Fenced before the checkpoint is read: from here on no older attempt can commit or delete anything.
    log = CommitLog.begin(objects, job.attempt, job.resume) if place.leads else None
    with (
        memory.explained(),
        task.feed() as feed,
        RunState(job, place, task, feed, objects=objects, log=log, telemetry=telemetry, clock=clock) as state,
    ):
        step = state.resume() if job.resume is not None else 0
        state.cadence.begin(step)
        meter = task.meter
        facts = {"resume_step": step, "parameters": task.parameters, **meter.facts()}
        telemetry.emit(EventKind.RANK_READY, device=str(place.device), **facts)
        enough = False
        while step < job.spec.train.steps and not enough:
            step = state.step(step + 1, meter)
            enough = state.evaluate(step)
            due = state.cadence.due(step) or step == job.spec.train.steps
            if asked(place.device) or due or enough:
                state.save(step)
        state.finish()
    task.finish()
    telemetry.enter(Section.DONE)


def task_of(
    job: Job,
    place: RankPlace,
    dataset: TrainingDataset | Records,
    parts: Sequence[MixturePart],
    telemetry: Telemetry,
    clock: Clock,
) -> Task:
    """What the run file asks for: a decoder on text, or a model of another family on records."""
    if isinstance(dataset, Records):
        return RecordsTask(job, place, dataset, telemetry, clock)
    return TextTask(job, place, dataset, parts, telemetry, clock)
