"""Real processes that outlive their attempt, and a disk that fills: no harm to the checkpoints that stand."""

from __future__ import annotations

import multiprocessing
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as distributed

from stoker.core.errors import DiskFull, StokerError
from stoker.spec.job import CommitRef
from stoker.train.checkpoint import load_checkpoint, save_checkpoint
from stoker.train.checkpoint_errors import Fenced
from stoker.train.commit_log import Retention
from stoker.train.commit_record import Commit
from stoker.train.commit_store import CommitLog, read_commit
from support.ranks import run_ranks
from support.sealed_samples import MemoryKeys
from support.small_runs import open_objects, small_keys, small_model, take_steps

FORK = multiprocessing.get_context("fork")


@contextmanager
def alone() -> Iterator[None]:
    """A process group of this process only."""
    torch.set_num_threads(1)
    store = distributed.HashStore()
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        yield
    finally:
        distributed.destroy_process_group()


def save(log: CommitLog, objects: Any, model: Any, optimizer: Any, attempt: int, step: int) -> CommitRef:
    committed = save_checkpoint(
        model, optimizer, objects, rank=0, log=log, attempt=attempt, step=step, keep=2, extra={}
    )
    assert committed is not None
    return committed.reference


def orphan(folder: Path, keys: MemoryKeys, link: Any) -> None:
    """Attempt 1: saves, is left behind for a while, and then tries to save again."""
    with alone(), open_objects(folder, keys) as objects:
        log = CommitLog.begin(objects, 1, None)
        model, optimizer = small_model()
        take_steps(model, optimizer, 1, 3)
        link.send(save(log, objects, model, optimizer, 1, 3))
        assert link.recv() == "go on"
        take_steps(model, optimizer, 4, 6)
        try:
            save(log, objects, model, optimizer, 1, 6)
        except StokerError as error:
            link.send((type(error).__name__, error.message))
        else:
            link.send(("", ""))


def successor(folder: Path, keys: MemoryKeys, reference: CommitRef, link: Any) -> None:
    """Attempt 2: takes over, goes on from the checkpoint, saves."""
    with alone(), open_objects(folder, keys) as objects:
        log = CommitLog.begin(objects, 2, reference)
        model, optimizer = small_model()
        load_checkpoint(model, optimizer, objects, reference)
        take_steps(model, optimizer, 4, 5)
        link.send(save(log, objects, model, optimizer, 2, 5))


@contextmanager
def process(target: Callable[..., None], *arguments: Any) -> Iterator[Any]:
    """A forked process with a pipe to it; ended afterwards."""
    here, there = FORK.Pipe()
    child = FORK.Process(target=target, args=(*arguments, there))
    child.start()
    there.close()
    try:
        yield here
    finally:
        child.kill()
        child.join()


def receive(link: Any) -> Any:
    assert link.poll(60), "the process said nothing"
    return link.recv()


def test_an_orphan_of_an_older_attempt_can_neither_commit_nor_be_read(tmp_path: Path) -> None:
    keys = small_keys()
    with process(orphan, tmp_path, keys) as old:
        first = receive(old)
        with process(successor, tmp_path, keys, first) as new:
            second = receive(new)
        old.send("go on")
        name, message = receive(old)
    assert name == Fenced.__name__
    assert "Attempt 2" in message and "step 6" in message
    with open_objects(tmp_path, keys) as objects:
        assert [read_commit(objects, ref).step for ref in (first, second)] == [3, 5]
        prefixes = {read_commit(objects, ref).prefix for ref in (first, second)}
        assert set(objects.checkpoint_prefixes()) == prefixes


def test_a_record_that_an_orphan_writes_without_asking_is_ignored(tmp_path: Path) -> None:
    keys = small_keys()
    with process(orphan, tmp_path, keys) as old:
        first = receive(old)
        with process(successor, tmp_path, keys, first) as new:
            second = receive(new)
    with open_objects(tmp_path, keys) as objects:
        stale = read_commit(objects, first)
        log = CommitLog.begin(objects, 3, second)
        forged = replace(stale, sequence=log.state.next_sequence, previous=log.state.tip, step=99)
        objects.write_record(forged)
        log = CommitLog.begin(objects, 4, second)
        assert log.state.ignored == (forged.sequence,)
        assert log.state.newest is not None and log.state.newest.step == 5


def test_an_attempt_with_an_old_number_may_not_begin(tmp_path: Path) -> None:
    keys = small_keys()
    with open_objects(tmp_path, keys) as objects:
        CommitLog.begin(objects, 3, None)
        for attempt in (1, 3):
            with pytest.raises(Fenced, match=f"Attempt 3 .* attempt {attempt} may not begin"):
                CommitLog.begin(objects, attempt, None)


def test_two_processes_that_begin_the_same_attempt_get_one_log(tmp_path: Path) -> None:
    keys = small_keys()

    def begin(rank: int) -> str:
        with open_objects(tmp_path, keys) as objects:
            distributed.barrier()
            try:
                CommitLog.begin(objects, 1, None)
            except Fenced:
                return "fenced"
            return "holds"

    assert sorted(run_ranks(2, begin)) == ["fenced", "holds"]


def test_a_commit_whose_answer_was_lost_is_found_again_and_not_repeated(tmp_path: Path) -> None:
    keys = small_keys()
    with open_objects(tmp_path, keys) as objects:
        log = CommitLog.begin(objects, 1, None)
        draft = Commit(
            run=objects.run,
            sequence=0,
            previous="",
            attempt=1,
            token=log.token,
            step=4,
            prefix=objects.prefix_of(1, "a" * 32),
            version="a" * 32,
            parts=(),
            kept=(),
            metadata={},
            extra={},
        )
        # What a retrying client does: the store has the record, the caller never heard.
        objects.write_record(replace(draft, sequence=1, previous=log.state.tip))
        committed = log.commit(draft, Retention(2))
        assert committed.reference.sequence == 1
        assert read_commit(objects, committed.reference).step == 4
        assert objects.read_record(2) is None


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 384 KiB: two checkpoints of the small model fit, three do not."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=384k,mode=700", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_leaves_the_last_good_checkpoint_and_no_half_written_part(tiny_disk: Path) -> None:
    keys = small_keys()

    def fill(rank: int) -> tuple[str, str, list[CommitRef], bool]:
        saved: list[CommitRef] = []
        with open_objects(tiny_disk, keys) as objects:
            log = CommitLog.begin(objects, 1, None) if rank == 0 else None
            model, optimizer = small_model()
            try:
                for step in range(1, 9):
                    take_steps(model, optimizer, step, step)
                    committed = save_checkpoint(
                        model, optimizer, objects, rank=rank, log=log, attempt=1, step=step, keep=9, extra={}
                    )
                    if committed is not None:
                        saved.append(committed.reference)
            except DiskFull as error:
                distributed.barrier()
                live = {kept.prefix for kept in log.state.live} if log else set()
                clean = rank != 0 or set(objects.checkpoint_prefixes()) == live
                return type(error).__name__, error.message, saved, clean
        return "", "", saved, False

    results = run_ranks(2, fill)
    for name, message, _, clean in results:
        assert name == DiskFull.__name__
        assert str(tiny_disk) in message
        assert clean
    saved = results[0][2]
    assert 1 <= len(saved) < 8

    def load(rank: int) -> int:
        with open_objects(tiny_disk, keys) as objects:
            model, optimizer = small_model()
            return load_checkpoint(model, optimizer, objects, saved[-1]).step

    assert run_ranks(2, load) == [saved[-1].step] * 2
