"""Saving in the background: the copy is of its moment, one at a time, and errors reach every rank."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as distributed

from stoker.core.clock import SystemClock
from stoker.core.errors import DiskFull, StokerError
from stoker.core.events import EventKind
from stoker.keys.refs import KekRef
from stoker.spec.job import CommitRef
from stoker.store.objects import ObjectStore
from stoker.store.streams import ObjectSink
from stoker.train.checkpoint import load_checkpoint
from stoker.train.checkpoint_errors import Fenced, NonFiniteState
from stoker.train.checkpoint_pieces import Piece
from stoker.train.checkpoint_saver import BackgroundSaver, Saved, SavePlace, Saver, StandingSaver
from stoker.train.checkpoint_staging import HostBuffers
from stoker.train.checkpoint_state import tensors_of
from stoker.train.commit_log import Retention
from stoker.train.commit_store import CommitLog
from stoker.train.run_objects import RunObjects
from support.ranks import RankFailed, run_ranks
from support.run_places import RUN_SPEC, Killed, RunPlace
from support.sealed_samples import MemoryKeys
from support.small_runs import (
    KEK,
    REVIEW_DIGEST,
    RUN,
    open_objects,
    small_keys,
    small_model,
    take_steps,
    whole_state,
)


class HeldStore(ObjectStore):
    """A folder whose parts are not written before the test lets them."""

    def __init__(self, folder: Path) -> None:
        super().__init__(ObjectStore.open(folder.as_uri())._backend)
        self.let = threading.Event()
        self.asked = threading.Event()

    def writing(self, key: str) -> ObjectSink:
        """Waits."""
        self.asked.set()
        assert self.let.wait(60), "the test never let it"
        return super().writing(key)


@contextmanager
def saving(
    kind: type[BackgroundSaver] | type[StandingSaver],
    objects: RunObjects,
    rank: int,
    *,
    attempt: int = 1,
    told: Callable[[Saved], None] = lambda saved: None,
) -> Iterator[Saver]:
    """A saver of a fresh attempt."""
    log = CommitLog.begin(objects, attempt, None) if rank == 0 else None
    with kind(SavePlace(objects, rank, log, attempt, Retention(2), told, SystemClock())) as saver:
        yield saver


def held_objects(store: HeldStore, keys: MemoryKeys, kek: KekRef = KEK) -> RunObjects:
    return RunObjects(store, keys, run=RUN, kek=kek, review_digest=REVIEW_DIGEST)


def loaded(folder: Path, keys: MemoryKeys, reference: CommitRef) -> dict[str, torch.Tensor]:
    """What a fresh process would have from that checkpoint."""
    with open_objects(folder, keys) as objects:
        model, optimizer = small_model(seed=99)
        load_checkpoint(model, optimizer, objects, reference)
        return whole_state(tensors_of(model, optimizer))


def test_what_is_saved_is_the_state_at_the_call_whatever_the_next_steps_change(tmp_path: Path) -> None:
    keys = small_keys()

    def run(rank: int) -> bool:
        store = HeldStore(tmp_path)
        with held_objects(store, keys) as objects, saving(BackgroundSaver, objects, rank) as saver:
            model, optimizer = small_model()
            take_steps(model, optimizer, 1, 2)
            at_the_call = whole_state(tensors_of(model, optimizer))
            saver.save(model, optimizer, 2, {})
            assert store.asked.wait(60)
            take_steps(model, optimizer, 3, 5)
            later = whole_state(tensors_of(model, optimizer))
            assert saver.newest is None
            store.let.set()
            saver.wait()
            assert saver.newest is not None and saver.newest.step == 2
            found = loaded(tmp_path, keys, saver.newest)
        changed = [name for name in later if not torch.equal(later[name], at_the_call[name])]
        assert len(changed) > len(later) // 2
        return all(torch.equal(found[name], at_the_call[name]) for name in at_the_call)

    assert run_ranks(2, run) == [True, True]


def test_training_in_the_background_and_standing_still_save_the_same(tmp_path: Path) -> None:
    keys = small_keys()

    def run(kind: type[BackgroundSaver] | type[StandingSaver], rank: int) -> Any:
        told: list[int] = []
        folder = tmp_path / kind.__name__
        with open_objects(folder, keys) as objects:
            model, optimizer = small_model()
            with saving(
                kind, objects, rank, told=lambda saved: told.append(saved.committed.reference.step)
            ) as saver:
                losses = []
                for step in range(1, 6):
                    losses += take_steps(model, optimizer, step, step)
                    saver.save(model, optimizer, step, {"note": step})
                saver.wait()
                reference = saver.newest
            assert reference is not None
            distributed.barrier()  # rank 0 sweeps after the others have heard
            distributed.barrier()  # rank 0 removes old ones after the others have heard
            prefixes = len(list(objects.checkpoint_prefixes()))
            return losses, told, prefixes, loaded(folder, keys, reference)

    background = run_ranks(2, partial(run, BackgroundSaver))
    standing = run_ranks(2, partial(run, StandingSaver))
    for rank, (one, other) in enumerate(zip(background, standing, strict=True)):
        assert one[0] == other[0]
        assert one[1] == other[1] == ([1, 2, 3, 4, 5] if rank == 0 else [])
        assert one[2] == other[2] == 2
        assert all(torch.equal(one[3][name], other[3][name]) for name in other[3])


def test_the_next_save_waits_for_the_one_under_way_and_no_more_are_held(tmp_path: Path) -> None:
    keys = small_keys()

    def run(rank: int) -> list[int]:
        store, told = HeldStore(tmp_path), []
        with held_objects(store, keys) as objects:
            model, optimizer = small_model()
            with saving(
                BackgroundSaver, objects, rank, told=lambda saved: told.append(saved.committed.reference.step)
            ) as saver:
                take_steps(model, optimizer, 1, 1)
                saver.save(model, optimizer, 1, {})
                assert store.asked.wait(60)
                let_later = threading.Timer(0.5, store.let.set)
                let_later.start()
                # Without the wait, the copy of step 1 would be overwritten while it is sealed.
                saver.save(model, optimizer, 2, {})
                assert store.let.is_set() and told == [1]
        return told

    assert run_ranks(1, run) == [[1, 2]]


def test_host_memory_is_used_again_and_holds_copies_that_do_not_change_with_the_tensors() -> None:
    buffers = HostBuffers()
    tensors = [torch.randn(7, 5), torch.randn(3).bfloat16(), torch.tensor(1.5), torch.arange(4).view(2, 2).T]
    pieces = [Piece(str(n), (0,) * each.dim(), tuple(each.shape), each) for n, each in enumerate(tensors)]
    before = [each.clone() for each in tensors]
    copies = buffers.copies_of(pieces).whole()
    places = [copy.data.data_ptr() for copy in copies]
    for each in tensors:
        each.zero_()
    assert all(torch.equal(copy.data, kept) for copy, kept in zip(copies, before, strict=True))
    assert [(copy.name, copy.offsets) for copy in copies] == [(piece.name, piece.offsets) for piece in pieces]
    again = buffers.copies_of(pieces).whole()
    assert [copy.data.data_ptr() for copy in again] == places
    assert all(not copy.data.any() for copy in again)
    (larger,) = buffers.copies_of([Piece("w", (0, 0), (100, 100), torch.ones(100, 100))]).whole()
    assert larger.data.sum() == 10_000


def failing(folder: Path, keys: MemoryKeys, spoil: Callable[..., None], rank: int) -> tuple[str, str, int]:
    """What the wait after a failed save raises on a rank, and how many checkpoints are there then."""
    with open_objects(folder, keys) as objects:
        model, optimizer = small_model()
        try:
            with saving(BackgroundSaver, objects, rank) as saver:
                take_steps(model, optimizer, 1, 1)
                saver.save(model, optimizer, 1, {})
                saver.wait()
                take_steps(model, optimizer, 2, 2)
                spoil(model, objects, rank)
                saver.save(model, optimizer, 2, {})
                saver.wait()
        except StokerError as error:
            distributed.barrier()
            return type(error).__name__, error.message, len(list(objects.checkpoint_prefixes()))
    return "", "", 0


def not_finite(model: Any, objects: RunObjects, rank: int) -> None:
    if rank == 1:
        with torch.no_grad():
            next(model.parameters()).to_local()[0, 0] = torch.nan


def test_weights_that_are_not_finite_are_refused_on_all_ranks_and_the_last_checkpoint_stays(
    tmp_path: Path,
) -> None:
    for name, message, checkpoints in run_ranks(2, partial(failing, tmp_path, small_keys(), not_finite)):
        assert (name, checkpoints) == (NonFiniteState.__name__, 1)
        assert "'model/embedding.weight'" in message


def fenced(model: Any, objects: RunObjects, rank: int) -> None:
    if rank == 0:
        CommitLog.begin(objects, 2, None)


def test_an_attempt_that_was_fenced_meanwhile_ends_on_all_ranks_and_leaves_no_part(tmp_path: Path) -> None:
    for name, message, checkpoints in run_ranks(2, partial(failing, tmp_path, small_keys(), fenced)):
        assert (name, checkpoints) == (Fenced.__name__, 1)
        assert "Attempt 2" in message


def full(model: Any, objects: RunObjects, rank: int) -> None:
    if rank == 1:

        def refuse(key: str) -> ObjectSink:
            raise DiskFull(f"No space is left on the file system that holds {key}.")

        objects._store.writing = refuse  # type: ignore[method-assign]


def test_a_disk_that_is_full_for_one_rank_is_told_to_all_and_what_was_saved_stays(
    tmp_path: Path,
) -> None:
    for name, message, checkpoints in run_ranks(2, partial(failing, tmp_path, small_keys(), full)):
        assert (name, checkpoints) == (DiskFull.__name__, 1)
        assert "part-00001.stk" in message


def test_a_save_under_way_is_brought_to_its_end_when_training_fails(tmp_path: Path) -> None:
    keys = small_keys()

    def run(rank: int) -> int:
        with open_objects(tmp_path, keys) as objects:
            model, optimizer = small_model()
            told: list[CommitRef] = []
            with (
                pytest.raises(ZeroDivisionError),
                saving(
                    BackgroundSaver, objects, rank, told=lambda saved: told.append(saved.committed.reference)
                ) as saver,
            ):
                take_steps(model, optimizer, 1, 1)
                saver.save(model, optimizer, 1, {})
                raise ZeroDivisionError
            return len(told)

    assert run_ranks(2, run) == [1, 0]


def told_losses(place: RunPlace) -> dict[int, float]:
    return {
        int(event.number("step")): event.number("loss")
        for event in place.told
        if event.kind is EventKind.STEP
    }


def told_commits(place: RunPlace) -> list[CommitRef]:
    return [
        CommitRef(int(event.number("sequence")), int(event.number("step")), event.text("digest"))
        for event in place.told
        if event.kind is EventKind.CHECKPOINT_COMMITTED
    ]


def test_a_run_that_saves_in_the_background_has_the_same_losses_and_resumes_exactly(tmp_path: Path) -> None:
    evaluate = replace(RUN_SPEC.evaluate, baselines=False, sample_tokens=0, exposure_candidates=0)
    still = replace(RUN_SPEC, evaluate=evaluate)
    beside = replace(still, train=replace(still.train, checkpoint_async=True))
    straight = RunPlace.make(tmp_path / "straight")
    straight.attempt(spec=still)
    place = RunPlace.make(tmp_path / "beside")
    place.attempt(spec=beside)
    assert told_losses(place) == told_losses(straight)
    assert [commit.step for commit in told_commits(place)] == [3, 6, 8]
    begun = [event for event in place.told if event.kind is EventKind.CHECKPOINT_STARTED]
    assert [event.number("stall_s") >= 0 for event in begun] == [True] * 3

    killed = RunPlace.make(tmp_path / "killed")
    with pytest.raises(RankFailed, match=Killed.__name__):
        killed.attempt(spec=beside, die_after=5)
    (reference,) = told_commits(killed)
    assert reference.step == 3
    killed.attempt(reference, spec=beside)
    resumed = told_losses(killed)
    assert resumed == {step: told_losses(straight)[step] for step in range(4, RUN_SPEC.train.steps + 1)}
