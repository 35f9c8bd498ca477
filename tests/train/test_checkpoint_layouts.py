"""Checkpoints across layouts: whatever the meshes and placements, every element comes back to its place."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import (
    DeviceMesh,
    DTensor,
    Partial,
    Placement,
    Replicate,
    Shard,
    distribute_tensor,
)
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset
from torch.distributed.tensor.placement_types import _StridedShard

from stoker.spec.job import CommitRef
from stoker.train.checkpoint import load_checkpoint, save_checkpoint, save_pieces
from stoker.train.checkpoint_errors import CheckpointUnfit
from stoker.train.checkpoint_pieces import (
    PieceLoadPlanner,
    PieceSavePlanner,
    division_order,
    pieces_of,
    place_of,
)
from stoker.train.checkpoint_reader import CheckpointReader
from stoker.train.checkpoint_state import tensors_of
from stoker.train.checkpoint_writer import SMALL_BYTES, check_finite, divided
from stoker.train.commit_log import Retention
from stoker.train.commit_store import CommitLog, read_commit
from support.ranks import run_ranks
from support.sealed_samples import MemoryKeys
from support.small_runs import open_objects, small_keys

SHAPES: Mapping[str, tuple[int, ...]] = {
    "even": (8, 6),
    "uneven vocabulary": (13, 5),
    "one row": (1, 7),
    "vector": (11,),
    "experts": (4, 3, 5),
    "nothing": (0, 3),
    "scalar": (),
}
Layout = tuple[tuple[int, ...], dict[str, Sequence[Placement]]]


def numbered(shape: tuple[int, ...]) -> Tensor:
    """A tensor whose elements all differ."""
    return torch.arange(1, 1 + torch.Size(shape).numel(), dtype=torch.float32).reshape(shape)


def rows(*each: int) -> Layout:
    """All axes divide the first dimension."""
    return each, {name: [Shard(0)] * len(each) for name, shape in SHAPES.items() if shape}


def mixed(placements: Sequence[Placement], *each: int) -> Layout:
    """These placements for what has two dimensions, none for the rest."""
    return each, {name: placements for name, shape in SHAPES.items() if len(shape) >= 2}


LAYOUTS: dict[str, Layout] = {
    "one rank": ((1,), {}),
    "fsdp": rows(4),
    "fsdp of two": rows(2),
    "hsdp": mixed([Replicate(), Shard(0)], 2, 2),
    "columns": mixed([Shard(1)], 4),
    "rows and columns": mixed([Shard(0), Shard(1)], 2, 2),
    "columns and columns": mixed([Shard(1), Shard(1)], 2, 2),
    "rows in rows": rows(2, 2),
    "experts": ((2, 2), {"experts": [Shard(0), Shard(2)], "even": [Replicate(), Shard(1)]}),
    "replicated": mixed([Replicate()], 3),
}


def laid_out(layout: Layout, fill: bool) -> dict[str, Tensor]:
    """Every tensor of SHAPES under a layout, with its numbers or with zeros."""
    mesh_shape, placements = layout
    mesh = init_device_mesh("cpu", mesh_shape)
    found = {}
    for name, shape in SHAPES.items():
        whole = numbered(shape) if fill else torch.zeros(shape)
        found[name] = distribute_tensor(whole, mesh, placements[name]) if name in placements else whole
    return found


def save_under(folder: Path, keys: MemoryKeys, layout: Layout, rank: int) -> CommitRef | None:
    with open_objects(folder, keys) as objects:
        log = CommitLog.begin(objects, 1, None) if rank == 0 else None
        tensors = laid_out(layout, fill=True)
        done = save_pieces(
            lambda: list(pieces_of(tensors, most_bytes=48)),
            objects,
            rank=rank,
            log=log,
            attempt=1,
            step=1,
            retention=Retention(2),
            extra=dict,
        )
        return done and done.reference


def load_under(folder: Path, keys: MemoryKeys, reference: CommitRef, layout: Layout, rank: int) -> list[str]:
    """The tensors that do not come back exactly."""
    with open_objects(folder, keys) as objects:
        tensors = laid_out(layout, fill=False)
        reader = CheckpointReader(objects, read_commit(objects, reference))
        load({}, storage_reader=reader, planner=PieceLoadPlanner(list(pieces_of(tensors))))
        return [
            name
            for name, tensor in tensors.items()
            if not torch.equal(
                tensor.full_tensor() if isinstance(tensor, DTensor) else tensor, numbered(SHAPES[name])
            )
        ]


def world(layout: Layout) -> int:
    return torch.Size(layout[0]).numel()


@dataclass
class Saved:
    """Where each layout's checkpoint is, and how the ledger would name it."""

    folder: Path
    keys: MemoryKeys
    references: dict[str, CommitRef]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """A checkpoint of every layout; each world size forks once."""
    found = Saved(tmp_path_factory.mktemp("layouts"), small_keys(), {})
    for ranks in (1, 2, 3, 4):
        names = [name for name, layout in LAYOUTS.items() if world(layout) == ranks]

        def save_all(rank: int, names: list[str] = names) -> list[CommitRef | None]:
            return [save_under(found.folder / name, found.keys, LAYOUTS[name], rank) for name in names]

        for name, reference in zip(names, run_ranks(ranks, save_all)[0], strict=True):
            assert reference is not None
            found.references[name] = reference
    return found


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_a_checkpoint_of_any_layout_loads_exactly_on_every_other(saved: Saved, ranks: int) -> None:
    others = [layout for layout in LAYOUTS.values() if world(layout) == ranks]
    assert others and len(saved.references) == len(LAYOUTS)

    def load_all(rank: int) -> dict[str, list[list[str]]]:
        return {
            name: [load_under(saved.folder / name, saved.keys, reference, other, rank) for other in others]
            for name, reference in saved.references.items()
        }

    for found in run_ranks(ranks, load_all):
        assert found == {name: [[] for _ in others] for name in LAYOUTS}


def test_a_part_that_no_rank_needs_is_verified_too(saved: Saved, tmp_path: Path) -> None:
    shutil.copytree(saved.folder / "fsdp", tmp_path, dirs_exist_ok=True)
    part = next(tmp_path.rglob("part-00002.stk"))
    data = bytearray(part.read_bytes())
    data[-20] ^= 1
    part.write_bytes(data)

    def load_nothing(rank: int) -> str:
        with open_objects(tmp_path, saved.keys) as objects:
            reader = CheckpointReader(objects, read_commit(objects, saved.references["fsdp"]))
            try:
                load({}, storage_reader=reader, planner=PieceLoadPlanner([]))
            except CheckpointException as together:
                return str(together.failures)
        return ""

    for said in run_ranks(2, load_nothing):
        assert "part-00002.stk" in said and "CorruptStream" in said


class Rows(nn.Module):
    """One matrix."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)


def strided(mesh: DeviceMesh, height: int) -> DTensor:
    """FSDP over tensor parallelism, as the engine spreads a vocabulary: `_StridedShard` and `Shard`."""
    whole = numbered((height, 3))
    model = Rows(distribute_tensor(whole, mesh["tp"], [Shard(0)]))
    fully_shard(model, mesh=mesh["dp"])
    assert isinstance(model.weight, DTensor)
    return model.weight


@pytest.mark.parametrize("height", [8, 7, 5, 3])
def test_the_rows_of_fsdp_over_tensor_parallelism_are_saved_as_what_they_are(
    tmp_path: Path, height: int
) -> None:
    keys = small_keys()

    def save_strided(rank: int) -> tuple[str, Any]:
        mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
        try:
            weight = strided(mesh, height)
        except (NotImplementedError, AssertionError, ValueError, RuntimeError) as error:
            return f"torch refuses: {error}"[:60], None
        (piece,) = list(pieces_of({"w": weight})) or [None]
        _, offsets = compute_local_shape_and_global_offset(
            weight.shape, weight.device_mesh, weight.placements
        )
        assert piece is None or piece.offsets == tuple(offsets), "torch's own reckoning, where there is one"
        if piece is not None:
            begin = piece.offsets[0]
            expected = numbered((height, 3))[begin : begin + len(piece.data)]
            assert torch.equal(piece.data, expected), (rank, begin, piece.data)
        with open_objects(tmp_path, keys) as objects:
            log = CommitLog.begin(objects, 1, None) if rank == 0 else None
            done = save_pieces(
                lambda: list(pieces_of({"w": weight})),
                objects,
                rank=rank,
                log=log,
                attempt=1,
                step=1,
                retention=Retention(2),
                extra=dict,
            )
        return str(weight.placements), done and done.reference

    said, reference = run_ranks(4, save_strided)[0]
    assert reference is not None, said
    assert "_StridedShard" in said or "StridedShard" in said or said.startswith("(_S"), said

    def load_whole(rank: int) -> bool:
        with open_objects(tmp_path, keys) as objects:
            tensors = {"w": torch.zeros(height, 3)}
            reader = CheckpointReader(objects, read_commit(objects, reference))
            load({}, storage_reader=reader, planner=PieceLoadPlanner(list(pieces_of(tensors))))
            return torch.equal(tensors["w"], numbered((height, 3)))

    assert run_ranks(1, load_whole) == [True]


def test_axes_divide_in_the_order_in_which_shards_were_made() -> None:
    strided_by_2, strided_by_4 = _StridedShard(0, split_factor=2), _StridedShard(0, split_factor=4)
    assert division_order("w", [Shard(0), Shard(0)], (2, 2)) == [0, 1]
    assert division_order("w", [strided_by_2, Shard(0)], (2, 2)) == [1, 0]
    assert division_order("w", [Replicate(), strided_by_2, Shard(0)], (2, 2, 2)) == [2, 1]
    assert division_order("w", [strided_by_4, Shard(0), Shard(0)], (2, 2, 2)) == [1, 2, 0]
    assert division_order("w", [strided_by_4, strided_by_2, Shard(0)], (2, 2, 2)) == [2, 1, 0]
    with pytest.raises(CheckpointUnfit, match=r"'w' is laid out as .* has no order"):
        division_order("w", [_StridedShard(0, split_factor=3), Shard(0)], (2, 2))
    with pytest.raises(CheckpointUnfit, match=r"'w' is laid out as P.*, which a checkpoint cannot hold"):
        division_order("w", [Partial()], (2,))


def test_a_shard_that_is_no_rectangle_of_its_tensor_is_refused_and_named() -> None:
    def refused(rank: int) -> str:
        mesh = init_device_mesh("cpu", (2,))
        odd = DTensor.from_local(
            torch.zeros(3 if rank else 1, 2), mesh, [Shard(0)], run_check=False, shape=(4, 2), stride=(2, 1)
        )
        try:
            place_of("model/odd", odd)
        except CheckpointUnfit as error:
            return error.message
        return ""

    for message in run_ranks(2, refused):
        assert "'model/odd' is laid out as" in message and "[2, 2] of [4, 2]" in message


def test_large_pieces_are_divided_by_rows_and_parts_hold_no_more_than_their_share() -> None:
    pieces = list(pieces_of({"w": numbered((10, 4)), "v": numbered((3,)), "s": numbered(())}, most_bytes=64))
    assert [(piece.name, piece.offsets, tuple(piece.data.shape)) for piece in pieces] == [
        ("w", (0, 0), (4, 4)),
        ("w", (4, 0), (4, 4)),
        ("w", (8, 0), (2, 4)),
        ("v", (0,), (3,)),
        ("s", (), ()),
    ]
    planner = PieceSavePlanner(lambda: pieces)
    planner.set_up_planner({}, None, True)
    plan = planner.create_local_plan()
    parts = divided(plan.items, most_bytes=128)
    assert [[item.index.fqn for item in part] for part in parts] == [["w", "w"], ["w", "v", "s"]]
    assert [len(part) for part in divided(plan.items, most_bytes=1)] == [1, 1, 1, 1, 1]
    assert divided([]) == []


def test_small_pieces_share_a_part_so_that_who_needs_a_counter_opens_no_large_one() -> None:
    large = SMALL_BYTES // 4 + 1
    tensors = {
        "w": numbered((large,)),
        "step": numbered(()),
        "v": numbered((large,)),
        "gain": numbered((large - 1,)),
    }
    planner = PieceSavePlanner(lambda: list(pieces_of(tensors)))
    planner.set_up_planner({}, None, True)
    parts = divided(planner.create_local_plan().items)
    assert [[item.index.fqn for item in part] for part in parts] == [["step", "gain"], ["w", "v"]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.float16])
def test_a_sum_that_overflows_is_no_infinite_weight(dtype: torch.dtype) -> None:
    most = torch.finfo(dtype).max
    pieces = {piece.index: piece.data for piece in pieces_of({"w": torch.full((64,), most, dtype=dtype)})}
    check_finite(pieces)
    for value in (torch.inf, -torch.inf, torch.nan):
        wrong = torch.full((64,), most, dtype=dtype)
        wrong[7] = value
        with pytest.raises(Exception, match="'w' holds NaN or infinite values"):
            check_finite({piece.index: piece.data for piece in pieces_of({"w": wrong})})


def staged(stages: Sequence[int]) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A model that has these stages alone, by their names in the whole one, after a step of AdamW."""
    model = nn.Module()
    model.blocks = nn.ModuleDict()
    for stage in stages:
        block = nn.Linear(3, 2 + stage)
        for parameter in block.parameters():
            with torch.no_grad():
                parameter.copy_(numbered(tuple(parameter.shape)) * (stage + 1))
            parameter.grad = torch.ones_like(parameter)
        model.blocks[str(stage)] = block
    named = list(model.named_parameters())
    matrices = [parameter for _, parameter in named if parameter.dim() == 2]
    vectors = [parameter for _, parameter in named if parameter.dim() == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.5)
    optimizer.step()
    return model, optimizer


@pytest.mark.parametrize(("saving", "loading"), [(2, 1), (1, 2), (2, 2)])
def test_stages_of_a_pipeline_are_saved_together_and_loaded_apart(
    tmp_path: Path, saving: int, loading: int
) -> None:
    keys, all_stages = small_keys(), [0, 1]

    def save(rank: int) -> CommitRef | None:
        with open_objects(tmp_path, keys) as objects:
            log = CommitLog.begin(objects, 1, None) if rank == 0 else None
            model, optimizer = staged(all_stages if saving == 1 else [rank])
            done = save_checkpoint(
                model, optimizer, objects, rank=rank, log=log, attempt=1, step=1, keep=2, extra={}
            )
            return done and done.reference

    reference = run_ranks(saving, save)[0]
    assert reference is not None

    def restore(rank: int) -> list[str]:
        stages = all_stages if loading == 1 else [rank]
        expected = {name: value.clone() for name, value in tensors_of(*staged(stages)).items()}
        model, optimizer = staged(stages)
        with torch.no_grad():
            for tensor in tensors_of(model, optimizer).values():
                tensor.zero_()
        optimizer.param_groups[0]["lr"] = 7.0
        with open_objects(tmp_path, keys) as objects:
            load_checkpoint(model, optimizer, objects, reference)
        assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.5]
        found = tensors_of(model, optimizer)
        assert found.keys() == expected.keys() and len(found) == 8 * len(stages)
        return [name for name in found if not torch.equal(found[name], expected[name])]

    assert run_ranks(loading, restore) == [[]] * loading


def test_a_stage_that_nobody_loads_is_named(tmp_path: Path) -> None:
    keys = small_keys()

    def run(rank: int) -> str:
        with open_objects(tmp_path, keys) as objects:
            log = CommitLog.begin(objects, 1, None)
            done = save_checkpoint(
                *staged([0, 1]), objects, rank=0, log=log, attempt=1, step=1, keep=2, extra={}
            )
            assert done is not None
            try:
                load_checkpoint(*staged([0]), objects, done.reference)
            except CheckpointUnfit as error:
                return error.message
        return ""

    assert "'model/blocks.1.bias' is only in the checkpoint" in run_ranks(1, run)[0]
