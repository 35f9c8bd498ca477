"""From the parts of a committed checkpoint into a model's own tensors, on any world size.

A part is verified whole before a byte of it is parsed (`checkpoint_filling`); the parts that no rank needs a
piece of are shared out among the ranks and verified too. See docs/design/train.md.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Final

from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex, TensorStorageMetadata
from torch.distributed.checkpoint.planner import LoadItemType, LoadPlan, LoadPlanner
from torch.distributed.checkpoint.storage import StorageReader
from torch.futures import Future

from stoker.train.checkpoint_filling import Room, Wanted, fill
from stoker.train.checkpoint_metadata import chunk_name, decode_metadata
from stoker.train.commit_record import Commit
from stoker.train.run_objects import RunObjects
from stoker.train.tensor_file import Described

_OPENERS: Final = 3
"""Threads that open parts."""


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
        """Open every part that is needed here, or is this rank's to verify, and fill the pieces from it.

        Three threads open parts beside each other: one reads while another decrypts.
        """
        wanted: dict[int, list[Wanted]] = defaultdict(list)
        for item in plan.items:
            target = planner.resolve_tensor(item).detach()
            wanted[self._metadata.storage_data[item.storage_index]].append(Wanted(item, target))
        numbers = sorted({*wanted, *plan.storage_data})
        expected = self._expected(set(numbers))
        room = Room()
        with ThreadPoolExecutor(_OPENERS, thread_name_prefix="open-part") as openers:
            filling = [
                openers.submit(
                    fill,
                    self._objects,
                    self._commit.parts[number],
                    self._commit.version,
                    expected[number],
                    wanted.get(number, []),
                    room,
                )
                for number in numbers
            ]
            try:
                for part in filling:
                    part.result()
            except BaseException:
                for part in filling:
                    part.cancel()
                raise
        for each in (each for pieces in wanted.values() for each in pieces):
            planner.commit_tensor(each.item, each.target)
        future: Future[None] = Future()
        future.set_result(None)
        return future

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
