"""Checkpoints on real ranks: exact on any world size, and refused when anything was changed."""

from __future__ import annotations

import pickle
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.distributed.checkpoint.metadata import MetadataIndex
from torch.distributed.checkpoint.planner import SavePlan, WriteItem, WriteItemType

from stoker.core.errors import StokerError
from stoker.keys.refs import KekRef
from stoker.spec.job import CommitRef
from stoker.store.errors import SwappedStream
from stoker.store.header import MAX_HEADER_BYTES, parse_header
from stoker.store.objects import ObjectStore
from stoker.train.checkpoint import load_checkpoint, save_checkpoint
from stoker.train.checkpoint_errors import BadCommitLog, CheckpointUnfit, NonFiniteState
from stoker.train.checkpoint_state import scalars_of, tensors_of
from stoker.train.checkpoint_writer import CheckpointWriter
from stoker.train.commit_record import Commit
from stoker.train.commit_store import CommitLog, read_commit
from stoker.train.run_objects import RunObjects
from support.ranks import run_ranks
from support.sealed_samples import MemoryKeys
from support.small_runs import (
    KEK,
    REVIEW_DIGEST,
    RUN,
    SPEC,
    open_objects,
    small_keys,
    small_model,
    take_steps,
    whole_state,
    wider,
)

Saved = tuple[CommitRef, dict[str, torch.Tensor], list[float]]


def save_and_go_on(folder: Path, keys: MemoryKeys, rank: int) -> Saved | None:
    """Three steps, a checkpoint, three more steps; what was saved, and the losses of the later steps."""
    with open_objects(folder, keys) as objects:
        log = CommitLog.begin(objects, 1, None) if rank == 0 else None
        model, optimizer = small_model()
        take_steps(model, optimizer, 1, 3)
        committed = save_checkpoint(
            model, optimizer, objects, rank=rank, log=log, attempt=1, step=3, keep=2, extra={"note": "kept"}
        )
        state = whole_state(tensors_of(model, optimizer))
        losses = take_steps(model, optimizer, 4, 6)
    return (committed.reference, state, losses) if committed else None


@dataclass
class SavedRuns:
    """Runs that have saved once, one for each world size; each test works on its own copy."""

    folder: Path
    keys: MemoryKeys
    saved: dict[int, Saved]

    def copy(self, folder: Path, world_size: int) -> Saved:
        shutil.copytree(self.folder / str(world_size), folder, dirs_exist_ok=True)
        return self.saved[world_size]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> SavedRuns:
    """A run of one rank and a run of two."""
    made = SavedRuns(tmp_path_factory.mktemp("runs"), small_keys(), {})
    for world_size in (1, 2):
        folder = made.folder / str(world_size)
        saved = run_ranks(world_size, partial(save_and_go_on, folder, made.keys))[0]
        assert saved is not None
        made.saved[world_size] = saved
    return made


@pytest.mark.parametrize(("first", "second"), [(2, 2), (2, 1), (1, 2)])
def test_a_checkpoint_loads_exactly_on_another_world_size(
    runs: SavedRuns, tmp_path: Path, first: int, second: int
) -> None:
    reference, state, losses = runs.copy(tmp_path, first)
    keys = runs.keys

    def resume(rank: int) -> tuple[dict[str, torch.Tensor], list[float], object]:
        with open_objects(tmp_path, keys) as objects:
            model, optimizer = small_model(seed=99)
            record = load_checkpoint(model, optimizer, objects, reference)
            loaded = whole_state(tensors_of(model, optimizer))
            return loaded, take_steps(model, optimizer, 4, 6), record.extra["note"]

    for loaded, resumed_losses, note in run_ranks(second, resume):
        assert note == "kept"
        assert loaded.keys() == state.keys()
        for name, tensor in state.items():
            assert torch.equal(loaded[name], tensor), name
        if first == second:
            assert resumed_losses == losses
        else:
            assert resumed_losses == pytest.approx(losses, rel=1e-5)


def test_atk_049_parts_and_records_hold_no_pickle_and_are_read_by_name(
    runs: SavedRuns, tmp_path: Path
) -> None:
    reference, state, _ = runs.copy(tmp_path, 2)
    keys = runs.keys
    with open_objects(tmp_path, keys) as objects:
        record = read_commit(objects, reference)
        plain = [objects.read_part(part, record.version, number) for number, part in enumerate(record.parts)]
    assert len(plain) == 2
    for part in plain:
        with pytest.raises((pickle.UnpicklingError, EOFError, ValueError, IndexError, KeyError)):
            pickle.loads(bytes(part))
    assert record.step == 3
    assert set(record.metadata["tensors"]) == set(state)  # type: ignore[arg-type]


class Trap:
    """What a crafted file would run."""

    def __init__(self, sprung: Path) -> None:
        self.sprung = sprung

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (self.sprung,)  # type: ignore[return-value]


def test_a_crafted_pickle_in_the_place_of_a_part_or_a_record_is_never_run(
    runs: SavedRuns, tmp_path: Path
) -> None:
    reference, *_ = runs.copy(tmp_path, 1)
    sprung = tmp_path / "sprung"
    crafted = pickle.dumps(Trap(sprung))
    pickle.loads(crafted)
    assert sprung.exists(), "the trap works"
    sprung.unlink()
    (part,) = tmp_path.rglob("part-00000.stk")
    record = next(path for path in tmp_path.rglob("*.stk") if path.stem == f"{reference.sequence:08d}")
    for path in (part, record):
        whole = path.read_bytes()
        for planted in (crafted, crafted.ljust(len(whole), b".")):
            path.write_bytes(planted)
            for name, message in run_ranks(1, loader(tmp_path, runs.keys, reference)):
                assert name in {"TruncatedStream", "NotSealed", "BadCommitLog"}
                assert str(path.relative_to(tmp_path)) in message
        path.write_bytes(whole)
    assert not sprung.exists()


def test_settings_of_the_optimizer_come_back(runs: SavedRuns, tmp_path: Path) -> None:
    reference, *_ = runs.copy(tmp_path, 1)
    keys = runs.keys

    def resume(rank: int) -> tuple[object, object]:
        with open_objects(tmp_path, keys) as objects:
            model, optimizer = small_model()
            record = load_checkpoint(model, optimizer, objects, reference)
            return record.extra["optimizer_groups"], scalars_of(model, optimizer)

    ((saved, loaded),) = run_ranks(1, resume)
    assert loaded == saved


def test_only_as_many_checkpoints_stay_as_are_wanted_and_the_older_go_after_a_newer_commit(
    tmp_path: Path,
) -> None:
    keys = small_keys()

    def run(rank: int) -> list[tuple[list[int], int]]:
        seen = []
        with open_objects(tmp_path, keys) as objects:
            log = CommitLog.begin(objects, 1, None) if rank == 0 else None
            model, optimizer = small_model()
            for step in range(1, 5):
                take_steps(model, optimizer, step, step)
                save_checkpoint(
                    model, optimizer, objects, rank=rank, log=log, attempt=1, step=step, keep=2, extra={}
                )
                if log is not None:
                    before = len(list(objects.checkpoint_prefixes()))
                    log.sweep()
                    assert len(list(objects.checkpoint_prefixes())) == len(log.state.live)
                    seen.append(([kept.step for kept in log.state.live], before))
        return seen

    assert run_ranks(2, run)[0] == [([1], 1), ([1, 2], 2), ([2, 3], 3), ([3, 4], 3)]


def raised_by(rank_function: Callable[[int], object]) -> Callable[[int], tuple[str, str]]:
    """The class and the message of the error that a rank raises."""

    def run(rank: int) -> tuple[str, str]:
        try:
            rank_function(rank)
        except StokerError as error:
            return type(error).__name__, error.message
        return "", ""

    return run


def loader(folder: Path, keys: MemoryKeys, reference: CommitRef) -> Callable[[int], tuple[str, str]]:
    def run(rank: int) -> None:
        with open_objects(folder, keys) as objects:
            model, optimizer = small_model()
            load_checkpoint(model, optimizer, objects, reference)

    return raised_by(run)


def test_another_model_is_refused_and_the_tensor_named(runs: SavedRuns, tmp_path: Path) -> None:
    reference, *_ = runs.copy(tmp_path, 1)
    keys = runs.keys

    def run(rank: int) -> None:
        with open_objects(tmp_path, keys) as objects:
            model, optimizer = small_model(wider(SPEC))
            load_checkpoint(model, optimizer, objects, reference)

    ((name, message),) = run_ranks(1, raised_by(run))
    assert name == CheckpointUnfit.__name__
    assert "feed_forward" in message


def test_a_changed_byte_in_one_ranks_part_is_refused_by_all_ranks_and_named(
    runs: SavedRuns, tmp_path: Path
) -> None:
    reference, *_ = runs.copy(tmp_path, 2)
    keys = runs.keys
    (part,) = tmp_path.rglob("part-00001.stk")
    flip(part, part.stat().st_size // 2)
    for name, message in run_ranks(2, loader(tmp_path, keys, reference)):
        assert name == "CorruptStream"
        assert "part-00001.stk" in message


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1 << (position % 8)
    path.write_bytes(data)


def whole_reading(objects: RunObjects, reference: CommitRef) -> None:
    """What loading does before any tensor is touched, without ranks: for many tries in one process."""
    record = read_commit(objects, reference)
    for number, part in enumerate(record.parts):
        objects.read_part(part, record.version, number)


def test_a_flipped_byte_anywhere_in_a_part_or_a_record_is_refused_and_named(
    runs: SavedRuns, tmp_path: Path
) -> None:
    reference, *_ = runs.copy(tmp_path, 1)
    keys = runs.keys
    (part,) = tmp_path.rglob("part-00000.stk")
    record = next(path for path in tmp_path.rglob("*.stk") if path.stem == f"{reference.sequence:08d}")
    chance = random.Random(3)
    with open_objects(tmp_path, keys) as objects:
        whole_reading(objects, reference)
        for path in (part, record):
            size = path.stat().st_size
            header = range(min(size, 420))
            elsewhere = [chance.randrange(size) for _ in range(120)]
            for position in [*header, *elsewhere, size - 1]:
                flip(path, position)
                with pytest.raises(StokerError) as caught:
                    whole_reading(objects, reference)
                assert str(path.relative_to(tmp_path)) in caught.value.message
                flip(path, position)
        whole_reading(objects, reference)


@pytest.mark.parametrize("change", ["cut", "longer", "gone"])
def test_a_part_or_a_record_of_another_length_is_refused_and_named(
    runs: SavedRuns, tmp_path: Path, change: str
) -> None:
    reference, *_ = runs.copy(tmp_path, 1)
    keys = runs.keys
    (part,) = tmp_path.rglob("part-00000.stk")
    record = next(path for path in tmp_path.rglob("*.stk") if path.stem == f"{reference.sequence:08d}")
    for path in (part, record):
        whole = path.read_bytes()
        if change == "gone":
            path.unlink()
        else:
            path.write_bytes(whole[:-1] if change == "cut" else whole + b"\0")
        with open_objects(tmp_path, keys) as objects, pytest.raises(StokerError) as caught:
            whole_reading(objects, reference)
        assert str(path.relative_to(tmp_path)) in caught.value.message
        path.write_bytes(whole)


def test_a_part_of_another_checkpoint_in_its_place_is_refused(runs: SavedRuns, tmp_path: Path) -> None:
    reference, *_ = runs.copy(tmp_path / "one", 1)
    runs.copy(tmp_path / "two", 2)
    (part,) = (tmp_path / "one").rglob("part-00000.stk")
    (other,) = (tmp_path / "two").rglob("part-00000.stk")
    part.write_bytes(other.read_bytes())
    with open_objects(tmp_path / "one", runs.keys) as objects, pytest.raises(StokerError) as caught:
        whole_reading(objects, reference)
    assert type(caught.value).__name__ in {"SwappedStream", "TruncatedStream"}
    assert "part-00000.stk" in caught.value.message


def test_a_part_that_was_sealed_again_under_the_same_label_is_refused(
    runs: SavedRuns, tmp_path: Path
) -> None:
    reference, *_ = runs.copy(tmp_path, 1)
    with open_objects(tmp_path, runs.keys) as objects:
        record = read_commit(objects, reference)
        (part,) = record.parts
        plain = objects.read_part(part, record.version, 0)
        (tmp_path / part.key).unlink()
        again = objects.write_part(record.prefix, record.version, 0, [plain])
        assert again.object_bytes == part.object_bytes
        with pytest.raises(SwappedStream, match=part.key):
            whole_reading(objects, reference)


def test_a_record_under_another_runs_key_is_refused_though_this_reader_could_open_it(tmp_path: Path) -> None:
    other = KekRef("run/another", 1)
    keys = MemoryKeys(KEK, other)
    store = ObjectStore.open(tmp_path.as_uri())
    with RunObjects(store, keys, run=RUN, kek=other, review_digest=REVIEW_DIGEST) as planted:
        log = CommitLog.begin(planted, 1, None)
    with (
        open_objects(tmp_path, keys) as objects,
        pytest.raises(SwappedStream, match="sealed under run/another#1"),
    ):
        objects.read_record(0)
    assert log.state.next_sequence == 1


def test_atk_049_an_item_that_would_be_pickled_is_refused(tmp_path: Path) -> None:
    with open_objects(tmp_path, small_keys()) as objects:
        writer = CheckpointWriter(objects, 0)
        item = WriteItem(MetadataIndex("optimizer/lr"), WriteItemType.BYTE_IO)
        with pytest.raises(CheckpointUnfit, match="'optimizer/lr' is no tensor"):
            writer.prepare_local_plan(SavePlan([item]))


def test_a_rolled_back_or_replaced_record_is_refused_and_named(runs: SavedRuns, tmp_path: Path) -> None:
    reference, *_ = runs.copy(tmp_path, 1)
    keys = runs.keys
    with open_objects(tmp_path, keys) as objects:
        for wrong, message in (
            (replace(reference, sequence=7), "00000007.stk is missing"),
            (replace(reference, digest="0" * 64), "where the ledger recorded 0000000000000000"),
            (replace(reference, step=4), "the ledger recorded step 4"),
        ):
            with pytest.raises(BadCommitLog, match=message):
                read_commit(objects, wrong)
        fence = tmp_path / objects.record_key(0)
        record = tmp_path / objects.record_key(reference.sequence)
        record.write_bytes(fence.read_bytes())
        with pytest.raises(BadCommitLog, match="where the ledger recorded"):
            read_commit(objects, reference)


def test_a_fence_is_no_checkpoint(tmp_path: Path) -> None:
    keys = small_keys()
    with open_objects(tmp_path, keys) as objects:
        log = CommitLog.begin(objects, 1, None)
        with pytest.raises(BadCommitLog, match="is a fence"):
            read_commit(objects, CommitRef(0, 0, log.state.tip))


def test_a_value_that_is_no_tensor_is_refused_on_all_ranks_and_leaves_nothing(tmp_path: Path) -> None:
    keys = small_keys()

    def run(rank: int) -> None:
        with open_objects(tmp_path, keys) as objects:
            log = CommitLog.begin(objects, 1, None) if rank == 0 else None
            model, optimizer = small_model()
            take_steps(model, optimizer, 1, 1)
            parameter = next(iter(optimizer.state))
            optimizer.state[parameter]["note"] = "text"
            save_checkpoint(
                model, optimizer, objects, rank=rank, log=log, attempt=1, step=1, keep=2, extra={}
            )

    for name, message in run_ranks(2, raised_by(run)):
        assert name == CheckpointUnfit.__name__
        assert "'note'" in message
    assert not list(tmp_path.rglob("part-*"))


def test_weights_that_are_not_finite_are_not_saved_over_good_ones(tmp_path: Path) -> None:
    keys = small_keys()

    def run(rank: int) -> None:
        with open_objects(tmp_path, keys) as objects:
            log = CommitLog.begin(objects, 1, None) if rank == 0 else None
            model, optimizer = small_model()
            if rank == 1:
                with torch.no_grad():
                    next(model.parameters()).to_local()[0, 0] = torch.inf  # type: ignore[operator]
            save_checkpoint(
                model, optimizer, objects, rank=rank, log=log, attempt=1, step=1, keep=2, extra={}
            )

    for name, message in run_ranks(2, raised_by(run)):
        assert name == NonFiniteState.__name__
        assert "'model/embedding.weight'" in message
    assert not list(tmp_path.rglob("part-*"))


def test_the_record_names_every_part_with_its_length_and_its_headers_digest(
    runs: SavedRuns, tmp_path: Path
) -> None:
    reference, *_ = runs.copy(tmp_path, 2)
    keys = runs.keys
    with open_objects(tmp_path, keys) as objects:
        record = read_commit(objects, reference)
    assert isinstance(record, Commit)
    for part in record.parts:
        data = (tmp_path / part.key).read_bytes()
        assert parse_header(data[:MAX_HEADER_BYTES], len(data), part.key).digest.hex() == part.header_digest
        assert len(data) == part.object_bytes
