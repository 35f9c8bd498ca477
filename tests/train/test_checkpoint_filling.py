"""Pieces of a part come to their places exactly, and only from a part that is as its record says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest
import torch
from torch.distributed.checkpoint.metadata import MetadataIndex
from torch.distributed.checkpoint.planner import LoadItemType, ReadItem

from stoker.core.errors import StokerError
from stoker.store.errors import CorruptStream
from stoker.train.checkpoint_errors import BadCheckpointPart, CheckpointUnfit
from stoker.train.checkpoint_filling import Room, Wanted, fill
from stoker.train.checkpoint_metadata import chunk_name
from stoker.train.commit_record import Part
from stoker.train.run_objects import RunObjects
from stoker.train.tensor_file import Described, file_header, tensor_file
from support.small_runs import open_objects, small_keys

VERSION = "0" * 31 + "1"
MIB = 1 << 20


@pytest.fixture
def objects(tmp_path: Path) -> Iterator[RunObjects]:
    with open_objects(tmp_path, small_keys()) as opened:
        yield opened


def index_of(name: str, dimensions: int) -> MetadataIndex:
    return MetadataIndex(name, torch.Size([0] * dimensions))


def some() -> dict[str, torch.Tensor]:
    """Several chunks of a MiB each, borders inside and between tensors."""
    generator = torch.Generator().manual_seed(5)
    return {
        "wide": torch.randn(640, 1024, generator=generator),
        "narrow": torch.randn(700, 1024, generator=generator).to(torch.bfloat16),
        "counter": torch.tensor(7.0),
        "none": torch.empty(0, 3),
        "flags": torch.randint(0, 2, (1234,), generator=generator).bool(),
    }


def named(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {chunk_name(index_of(name, tensor.dim())): tensor for name, tensor in tensors.items()}


def expected_of(tensors: Mapping[str, torch.Tensor]) -> dict[str, Described]:
    return {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in named(tensors).items()}


def written(objects: RunObjects, tensors: Mapping[str, torch.Tensor]) -> Part:
    prefix = objects.prefix_of(1, VERSION)
    return objects.write_part(prefix, VERSION, 0, tensor_file(named(tensors)))


def wanting(name: str, target: torch.Tensor, begin: Sequence[int] | None = None) -> Wanted:
    """All of `target` from the piece `name`, there from `begin`."""
    index = index_of(name, target.dim())
    offsets = torch.Size(begin or [0] * target.dim())
    return Wanted(
        ReadItem(LoadItemType.TENSOR, index, torch.Size([0] * target.dim()), index, offsets, target.shape),
        target,
    )


def test_pieces_that_are_wanted_whole_come_exactly(objects: RunObjects) -> None:
    tensors = some()
    part = written(objects, tensors)
    targets = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
    fill(objects, part, VERSION, expected_of(tensors), [wanting(*item) for item in targets.items()], Room())
    for name, tensor in tensors.items():
        assert torch.equal(targets[name], tensor), name


def test_pieces_that_are_wanted_whole_go_through_no_other_memory(
    objects: RunObjects, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = some()
    part = written(objects, tensors)
    monkeypatch.setattr(Room, "of", lambda self, length: pytest.fail(f"{length} bytes of room"))
    targets = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
    fill(objects, part, VERSION, expected_of(tensors), [wanting(*item) for item in targets.items()], Room())
    assert torch.equal(targets["wide"], tensors["wide"])


def test_what_is_not_wanted_stays_away_and_what_is_wanted_in_part_comes_in_part(objects: RunObjects) -> None:
    tensors = some()
    part = written(objects, tensors)
    rows, turned, narrow = (
        torch.zeros(100, 1024),
        torch.zeros(1024, 640).t(),
        torch.zeros_like(tensors["narrow"]),
    )
    room = Room()
    fill(objects, part, VERSION, expected_of(tensors), [wanting("narrow", narrow)], room)
    fill(objects, part, VERSION, expected_of(tensors), [wanting("wide", rows, (30, 0))], room)
    fill(objects, part, VERSION, expected_of(tensors), [wanting("wide", turned)], room)
    fill(objects, part, VERSION, expected_of(tensors), [], room)
    assert torch.equal(narrow, tensors["narrow"])
    assert torch.equal(rows, tensors["wide"][30:130])
    assert torch.equal(turned, tensors["wide"])


@pytest.mark.parametrize("wanted", ["all", "one", "rows", "none"])
def test_a_changed_byte_is_refused_whatever_is_wanted_and_what_it_became_reaches_nobody(
    objects: RunObjects, tmp_path: Path, wanted: str
) -> None:
    tensors = some()
    part = written(objects, tensors)
    path = tmp_path / part.key
    whole = bytearray(path.read_bytes())
    for position in (len(whole) // 2, len(whole) - 5):
        whole[position] ^= 4
        path.write_bytes(whole)
        targets = {name: torch.ones_like(tensor) for name, tensor in tensors.items()}
        asked = {
            "all": [wanting(*item) for item in targets.items()],
            "one": [wanting("wide", targets["wide"])],
            "rows": [wanting("wide", targets["wide"][:10])],
            "none": [],
        }[wanted]
        with pytest.raises(CorruptStream, match=part.key):
            fill(objects, part, VERSION, expected_of(tensors), asked, Room())
        for name, target in targets.items():
            known = (target == tensors[name]) | (target == 0) | (target == 1)
            assert bool(known.all()), f"{name} holds what nobody wrote"
        whole[position] ^= 4


def test_a_part_in_another_order_than_ours_is_read_as_it_says(objects: RunObjects) -> None:
    first, second = torch.arange(300_000.0), -torch.arange(300_000.0)
    tensors = {"a": first, "b": second}
    size = first.nbytes
    header = {
        name: {"dtype": "F32", "shape": [300_000], "data_offsets": [begin, begin + size]}
        for name, begin in (("b@0", 0), ("a@0", size))
    }
    pieces = [file_header(header), second.numpy().data.cast("B"), first.numpy().data.cast("B")]
    part = objects.write_part(objects.prefix_of(1, VERSION), VERSION, 0, pieces)
    targets = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
    fill(objects, part, VERSION, expected_of(tensors), [wanting(*item) for item in targets.items()], Room())
    assert torch.equal(targets["a"], first)
    assert torch.equal(targets["b"], second)


@pytest.mark.parametrize("change", ["name", "type", "shape", "more"])
def test_a_part_that_holds_something_else_than_its_record_says_is_refused(
    objects: RunObjects, change: str
) -> None:
    tensors = {"a": torch.arange(12.0).reshape(3, 4), "b": torch.arange(5.0)}
    part = written(objects, tensors)
    said = {
        "name": {"a": tensors["a"], "c": tensors["b"]},
        "type": {"a": tensors["a"], "b": tensors["b"].to(torch.int32)},
        "shape": {"a": tensors["a"].reshape(4, 3), "b": tensors["b"]},
        "more": {"a": tensors["a"]},
    }[change]
    targets = {name: torch.zeros_like(tensor) for name, tensor in said.items()}
    with pytest.raises(BadCheckpointPart, match="is not as the record says"):
        fill(objects, part, VERSION, expected_of(said), [wanting(*item) for item in targets.items()], Room())


def test_a_target_of_another_type_or_shape_is_refused(objects: RunObjects) -> None:
    tensors = {"a": torch.arange(12.0).reshape(3, 4)}
    part = written(objects, tensors)
    for target in (torch.zeros(3, 4, dtype=torch.float64), torch.zeros(3, 2).expand(3, 2)):
        item = wanting("a", target)
        if target.shape != (3, 2):
            with pytest.raises(CheckpointUnfit, match=r"'a' is torch\.float32"):
                fill(objects, part, VERSION, expected_of(tensors), [item], Room())
        else:
            fill(objects, part, VERSION, expected_of(tensors), [item], Room())
            assert torch.equal(target, tensors["a"][:, :2])


def test_a_part_of_another_length_than_recorded_is_refused(objects: RunObjects, tmp_path: Path) -> None:
    tensors = some()
    part = written(objects, tensors)
    path = tmp_path / part.key
    path.write_bytes(path.read_bytes()[:-MIB])
    targets = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
    with pytest.raises(StokerError, match=part.key):
        fill(
            objects, part, VERSION, expected_of(tensors), [wanting(*item) for item in targets.items()], Room()
        )
