"""From the parts of a committed checkpoint into a model's own tensors, on any world size.

A part is opened whole and compared with its record before a byte of it is parsed; the parts that no rank
needs a piece of are shared out among the ranks and verified too. See docs/design/train.md.
"""

from __future__ import annotations

import mmap
import os
from collections import defaultdict, deque
from collections.abc import Mapping
from concurrent.futures import Future as ConcurrentFuture
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Final, TypeAlias

import torch
from torch import Tensor
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex, TensorStorageMetadata
from torch.distributed.checkpoint.planner import LoadItemType, LoadPlan, LoadPlanner, ReadItem
from torch.distributed.checkpoint.storage import StorageReader
from torch.futures import Future

from stoker.train.checkpoint_errors import BadCheckpointPart, CheckpointUnfit
from stoker.train.checkpoint_metadata import chunk_name, decode_metadata
from stoker.train.commit_record import Commit
from stoker.train.run_objects import RunObjects, number_of
from stoker.train.tensor_file import TensorEntry, parse_header, tensor_at

Described: TypeAlias = "tuple[torch.dtype, tuple[int, ...]]"
"""A piece's type and size."""


_OPENERS: Final = 3


class CheckpointReader(StorageReader):
    """Reads one committed checkpoint. Raises BadCommitLog at once when its metadata does not hold."""

    def __init__(self, objects: RunObjects, commit: Commit) -> None:
        self._objects = objects
        self._commit = commit
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
        """Parts that no rank needs are shared out, to be opened and thrown away: every part is verified."""
        needed = {self._metadata.storage_data[item.storage_index] for plan in plans for item in plan.items}
        idle = [number for number in range(len(self._commit.parts)) if number not in needed]
        return [replace(plan, storage_data=idle[rank :: len(plans)]) for rank, plan in enumerate(plans)]

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Open every part that is needed here, or is this rank's to verify, and copy the pieces.

        Threads open the next parts while this one's pieces are copied: one reads while the other decrypts.
        """
        wanted: dict[int, list[ReadItem]] = defaultdict(list)
        for item in plan.items:
            wanted[self._metadata.storage_data[item.storage_index]].append(item)
        verified = set(plan.storage_data)
        numbers = [
            number for number in range(len(self._commit.parts)) if number in wanted or number in verified
        ]
        expected = self._expected(set(numbers))
        most = max((self._commit.parts[number].plaintext_bytes for number in numbers), default=0)
        rooms: list[memoryview | None] = [None] * min(_OPENERS + 1, len(numbers))
        with ThreadPoolExecutor(_OPENERS, thread_name_prefix="open-part") as openers:

            def opening(turn: int) -> ConcurrentFuture[memoryview]:
                return openers.submit(self._open_part, numbers[turn], rooms, turn % len(rooms), most)

            coming = deque(map(opening, range(min(_OPENERS, len(numbers)))))
            for turn, number in enumerate(numbers):
                data = coming.popleft().result()
                if turn + _OPENERS < len(numbers):
                    coming.append(opening(turn + _OPENERS))
                self._take(number, data, expected[number], wanted.get(number, []), planner)
        future: Future[None] = Future()
        future.set_result(None)
        return future

    def _open_part(self, number: int, rooms: list[memoryview | None], slot: int, most: int) -> memoryview:
        part = self._commit.parts[number]
        room = rooms[slot]
        if room is None:  # made here, so that one thread reads while the other gets its memory
            room = rooms[slot] = _room(most)
        return self._objects.read_part(part, self._commit.version, number_of(part.key), room)

    def _take(
        self,
        number: int,
        data: memoryview,
        expected: Mapping[str, Described],
        items: list[ReadItem],
        planner: LoadPlanner,
    ) -> None:
        place = self._commit.parts[number].key
        entries, start = parse_header(data, place)
        _compare(entries, expected, place)
        for item in items:
            entry = entries[chunk_name(item.storage_index)]
            piece = _narrow(tensor_at(data, start, entry), item)
            target = planner.resolve_tensor(item).detach()
            if target.dtype != piece.dtype or target.shape != piece.shape:
                raise CheckpointUnfit(
                    f"{place}: {item.storage_index.fqn!r} is {piece.dtype} {list(piece.shape)}, "
                    f"the run's is {target.dtype} {list(target.shape)}."
                )
            target.copy_(piece)
            planner.commit_tensor(item, target)

    def _expected(self, numbers: set[int]) -> Mapping[int, Mapping[str, Described]]:
        """What the record says that each of these parts holds."""
        found: dict[int, dict[str, Described]] = {number: {} for number in numbers}
        for name, tensor in self.tensors.items():
            for chunk in tensor.chunks:
                index = MetadataIndex(name, chunk.offsets)
                number = self._metadata.storage_data[index]
                if number in numbers:
                    found[number][chunk_name(index)] = (tensor.properties.dtype, tuple(chunk.sizes))
        return found

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        """No: this reader is never chosen by a path."""
        return False


def _compare(entries: Mapping[str, TensorEntry], expected: Mapping[str, Described], place: str) -> None:
    """The part must hold exactly the pieces that the record says, each of its type and size."""
    found = {name: (entry.dtype, entry.shape) for name, entry in entries.items()}
    if found != expected:
        odd = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
        raise BadCheckpointPart(f"{place}: {odd[0][:80]!a} is not as the record says.")


def _room(length: int) -> memoryview:
    """Memory that is there already: touched page by page it would cost as much as a copy."""
    populate = getattr(mmap, "MAP_POPULATE", 0)
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | populate
    return memoryview(mmap.mmap(-1, max(length, 1), flags=flags))


def _narrow(tensor: Tensor, item: ReadItem) -> Tensor:
    for dimension, (offset, length) in enumerate(zip(item.storage_offsets, item.lengths, strict=True)):
        tensor = tensor.narrow(dimension, offset, length)
    return tensor
