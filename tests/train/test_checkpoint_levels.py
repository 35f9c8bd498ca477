"""Two levels: copies of sealed checkpoints in a second store, and bringing them back from there."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from stoker.spec.job import CommitRef
from stoker.store.errors import CorruptStream, StoreUnreachable
from stoker.store.objects import ObjectStore
from stoker.store.streams import ObjectSink
from stoker.train.checkpoint_errors import CheckpointLost
from stoker.train.checkpoint_levels import SecondLevel, bring_back, copy_checkpoint, sweep_copies
from stoker.train.commit_log import Retention
from stoker.train.commit_record import Commit
from stoker.train.commit_store import CommitLog, read_commit
from stoker.train.run_objects import RunObjects
from support.s3_servers import MotoServer, moto_server, pointed_at
from support.small_runs import open_objects, small_keys

SECRET = b"a weight nobody may read " * 40_000


@pytest.fixture(scope="module")
def moto() -> Iterator[MotoServer]:
    with moto_server() as server, pointed_at(server):
        yield server


@pytest.fixture(params=["folder", "s3"])
def second(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    """A second store of each kind."""
    if request.param == "folder":
        return ObjectStore.open((tmp_path / "far").as_uri())
    moto: MotoServer = request.getfixturevalue("moto")
    return ObjectStore.open(moto.new_bucket())


@pytest.fixture
def objects(tmp_path: Path) -> Iterator[RunObjects]:
    with open_objects(tmp_path / "near", small_keys()) as found:
        yield found


def commit(log: CommitLog, objects: RunObjects, step: int, retention: Retention) -> CommitRef:
    """A checkpoint of two parts, as ranks would have written them."""
    version = f"{step:032x}"
    prefix = objects.prefix_of(log.state.next_sequence, version)
    parts = tuple(objects.write_part(prefix, version, rank, [b"%d" % step, SECRET]) for rank in (0, 1))
    draft = Commit(
        run=objects.run,
        sequence=0,
        previous="",
        attempt=1,
        token=log.token,
        step=step,
        prefix=prefix,
        version=version,
        parts=parts,
        kept=(),
        metadata={},
        extra={},
    )
    reference = log.commit(draft, retention).reference
    log.sweep()
    return reference


def contents(store: ObjectStore) -> dict[str, bytes]:
    return {key: store.get(key) for key in store.list()}


def test_a_copy_is_the_same_sealed_bytes_and_is_made_once(objects: RunObjects, second: ObjectStore) -> None:
    log = CommitLog.begin(objects, 1, None)
    reference = commit(log, objects, 5, Retention(2))
    sent = copy_checkpoint(objects, second, reference)
    there = contents(second)
    assert there == contents(objects.store)
    assert sent == sum(map(len, there.values())) and not any(SECRET[:32] in data for data in there.values())
    assert copy_checkpoint(objects, second, reference) == 0
    assert read_commit(RunObjects.over(second, objects), reference).step == 5


def test_copies_that_are_no_longer_kept_go_and_those_of_every_nth_step_stay(
    objects: RunObjects, second: ObjectStore
) -> None:
    log = CommitLog.begin(objects, 1, None)
    for step in range(1, 6):
        reference = commit(log, objects, step, Retention(2, every_steps=2))
        copy_checkpoint(objects, second, reference)
        sweep_copies(objects, second, reference)
    assert [kept.step for kept in log.state.live] == [2, 4, 5]
    assert contents(second) == contents(objects.store)


def test_a_lost_first_store_is_filled_from_the_second_and_the_log_goes_on(
    objects: RunObjects, second: ObjectStore, tmp_path: Path
) -> None:
    log = CommitLog.begin(objects, 1, None)
    commit(log, objects, 5, Retention(2))
    reference = commit(log, objects, 10, Retention(2))
    copy_checkpoint(objects, second, reference)
    before = contents(objects.store)
    shutil.rmtree(tmp_path / "near" / "runs")
    assert bring_back(objects, second, reference) > 2 * len(SECRET)
    kept = read_commit(objects, reference)
    assert {key for key in before if "/log/" in key or key.startswith(kept.prefix)} == set(
        contents(objects.store)
    )
    again = CommitLog.begin(objects, 2, reference)
    assert again.state.newest is not None and again.state.newest.step == 10


def test_only_what_is_missing_or_of_another_length_is_brought_back(
    objects: RunObjects, second: ObjectStore, tmp_path: Path
) -> None:
    log = CommitLog.begin(objects, 1, None)
    reference = commit(log, objects, 5, Retention(2))
    copy_checkpoint(objects, second, reference)
    assert bring_back(objects, second, reference) == 0
    first, other = sorted((tmp_path / "near").rglob("part-*"))
    whole = {path: path.read_bytes() for path in (first, other)}
    first.unlink()
    other.write_bytes(whole[other][:-1])
    assert bring_back(objects, second, reference) == sum(map(len, whole.values()))
    assert {path: path.read_bytes() for path in (first, other)} == whole


def test_what_neither_store_has_is_named(objects: RunObjects, second: ObjectStore, tmp_path: Path) -> None:
    log = CommitLog.begin(objects, 1, None)
    reference = commit(log, objects, 5, Retention(2))
    part = next((tmp_path / "near").rglob("part-00001.stk"))
    part.unlink()
    with pytest.raises(CheckpointLost, match=r"step 5 is whole in neither store: .*part-00001\.stk"):
        bring_back(objects, second, reference)
    shutil.rmtree(tmp_path / "near" / "runs")
    with pytest.raises(CheckpointLost, match=r"step 5 is whole in neither store: .*log/00000001\.stk"):
        bring_back(objects, second, reference)


def test_a_part_that_does_not_open_is_not_copied(
    objects: RunObjects, second: ObjectStore, tmp_path: Path
) -> None:
    log = CommitLog.begin(objects, 1, None)
    reference = commit(log, objects, 5, Retention(2))
    part = next((tmp_path / "near").rglob("part-00001.stk"))
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.write_bytes(data)
    with pytest.raises(CorruptStream, match=r"part-00001\.stk"):
        copy_checkpoint(objects, second, reference)
    assert not [key for key in second.list() if "part-00001" in key or "/log/" in key]


class SlowSecond(ObjectStore):
    """A folder that takes nothing before the test lets it, and fails on command."""

    def __init__(self, folder: Path) -> None:
        super().__init__(ObjectStore.open(folder.as_uri())._backend)
        self.let = threading.Event()
        self.broken = False

    def writing(self, key: str) -> ObjectSink:
        """Waits."""
        assert self.let.wait(60), "the test never let it"
        if self.broken:
            raise StoreUnreachable("The far store does not answer.")
        return super().writing(key)


def test_copying_keeps_nobody_and_leaves_out_what_comes_too_fast(objects: RunObjects, tmp_path: Path) -> None:
    log, far = CommitLog.begin(objects, 1, None), SlowSecond(tmp_path / "far")
    with SecondLevel(objects, far, every_steps=2) as level:
        for step in range(1, 11):
            level.committed(commit(log, objects, step, Retention(20)))
        assert level.copied == []
        far.let.set()
        level.wait()
    assert level.copied[-1] == 10 and len(level.copied) <= 3
    assert set(level.copied) <= {2, 4, 6, 8, 10}


def test_a_second_store_that_fails_is_told_and_the_next_copy_is_whole(
    objects: RunObjects, tmp_path: Path
) -> None:
    log, far = CommitLog.begin(objects, 1, None), SlowSecond(tmp_path / "far")
    far.broken = True
    far.let.set()
    warnings: list[str] = []
    with SecondLevel(objects, far, warn=warnings.append) as level:
        level.committed(commit(log, objects, 1, Retention(2)))
        level.wait()
        assert "step 1 was not copied" in warnings[0] and "does not answer" in warnings[0]
        far.broken = False
        level.committed(commit(log, objects, 2, Retention(2)))
        level.wait()
    assert level.copied == [2]
    reference = CommitRef(2, 2, log.state.tip)
    shutil.rmtree(tmp_path / "near" / "runs")
    assert level.bring_back(reference) > 0
    assert read_commit(objects, reference).step == 2
