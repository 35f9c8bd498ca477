"""From the parts of a committed checkpoint into a model's own tensors, on any world size.

A part is opened whole and compared with its record before a byte of it is parsed; the parts that this rank
needs no piece of are shared out among the ranks and verified too. See docs/design/train.md.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex, TensorStorageMetadata
from torch.distributed.checkpoint.planner import LoadItemType, LoadPlan, LoadPlanner, ReadItem
from torch.distributed.checkpoint.storage import StorageReader
from torch.futures import Future

from stoker.train.checkpoint_errors import BadCheckpointPart, CheckpointUnfit
from stoker.train.checkpoint_metadata import chunk_name, decode_metadata
from stoker.train.commit_record import Commit
from stoker.train.run_objects import RunObjects
from stoker.train.tensor_file import TensorEntry, parse_header, tensor_at


class CheckpointReader(StorageReader):
    """Reads one committed checkpoint. Raises BadCommitLog at once when its metadata does not hold."""

    def __init__(self, objects: RunObjects, commit: Commit, rank: int, world_size: int) -> None:
        self._objects = objects
        self._commit = commit
        self._rank = rank
        self._world_size = world_size
        # Decoded here: inside DCP an error of this call would be swallowed and reported as another one.
        self._metadata = decode_metadata(
            commit.metadata, len(commit.parts), objects.record_key(commit.sequence)
        )

    @property
    def tensors(self) -> Mapping[str, TensorStorageMetadata]:
        """What the checkpoint holds, by name."""
        described = self._metadata.state_dict_metadata
        return {name: item for name, item in described.items() if isinstance(item, TensorStorageMetadata)}

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """Nothing is kept from one reading to the next."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """What the record says that the parts hold."""
        return self._metadata

    def set_up_storage_reader(
        self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any
    ) -> None:
        """Nothing: every rank reads the record itself."""

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        """Refuse what DCP would have to unpickle; the metadata cannot even name it."""
        assert all(item.type is LoadItemType.TENSOR for item in plan.items)
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        """As DCP planned it."""
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Open every part that is needed here, or is this rank's to verify, and copy the pieces."""
        wanted: dict[int, list[ReadItem]] = defaultdict(list)
        for item in plan.items:
            wanted[self._metadata.storage_data[item.storage_index]].append(item)
        for number in range(len(self._commit.parts)):
            if number in wanted or number % self._world_size == self._rank:
                self._read_part(number, wanted.get(number, []), planner)
        future: Future[None] = Future()
        future.set_result(None)
        return future

    def _read_part(self, number: int, items: list[ReadItem], planner: LoadPlanner) -> None:
        part = self._commit.parts[number]
        data = self._objects.read_part(part, self._commit.version, rank_of(part.key))
        entries, start = parse_header(data, part.key)
        self._compare(entries, number)
        for item in items:
            entry = entries[chunk_name(item.storage_index)]
            piece = _narrow(tensor_at(data, start, entry), item)
            target = planner.resolve_tensor(item).detach()
            if target.dtype != piece.dtype or target.shape != piece.shape:
                raise CheckpointUnfit(
                    f"{part.key}: {item.storage_index.fqn!r} is {piece.dtype} {list(piece.shape)}, "
                    f"the run's is {target.dtype} {list(target.shape)}."
                )
            target.copy_(piece)
            planner.commit_tensor(item, target)

    def _compare(self, entries: Mapping[str, TensorEntry], number: int) -> None:
        """The part must hold exactly the pieces that the record says, each of its type and size."""
        place = self._commit.parts[number].key
        expected = {}
        for name, tensor in self.tensors.items():
            for chunk in tensor.chunks:
                index = MetadataIndex(name, chunk.offsets)
                if self._metadata.storage_data[index] == number:
                    expected[chunk_name(index)] = (tensor.properties.dtype, tuple(chunk.sizes))
        found = {name: (entry.dtype, entry.shape) for name, entry in entries.items()}
        if found != expected:
            odd = sorted(
                name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name)
            )
            raise BadCheckpointPart(f"{place}: {odd[0][:80]!a} is not as the record says.")

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        """No: this reader is never chosen by a path."""
        return False


def rank_of(key: str) -> int:
    """The rank in a part's name `PREFIX/part-RRRRR.stk`. Raises BadCheckpointPart on another name."""
    name = key.rpartition("/")[2]
    digits = name.removeprefix("part-").removesuffix(".stk")
    if name != f"part-{digits}.stk" or not digits.isdecimal() or len(digits) > 9:
        raise BadCheckpointPart(f"{key[:200]!a} is no name of a part.")
    return int(digits)


def _narrow(tensor: Tensor, item: ReadItem) -> Tensor:
    for dimension, (offset, length) in enumerate(zip(item.storage_offsets, item.lengths, strict=True)):
        tensor = tensor.narrow(dimension, offset, length)
    return tensor
