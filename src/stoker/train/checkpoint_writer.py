"""Where PyTorch DCP's planned tensors go: sealed safetensors parts. See docs/design/train.md.

DCP decides which rank writes which piece of which tensor; nothing of its own storage is used. The coordinator
chooses a fresh prefix, every rank writes its parts under it, and the coordinator commits last.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from torch import Tensor
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner, WriteItem, WriteItemType
from torch.distributed.checkpoint.storage import StorageWriter, WriteResult
from torch.futures import Future

from stoker.core.canonical import JsonValue
from stoker.store.local_sink import Together
from stoker.train.checkpoint_errors import CheckpointUnfit, NonFiniteState
from stoker.train.checkpoint_metadata import chunk_name, encode_metadata
from stoker.train.commit_record import Part
from stoker.train.run_objects import RunObjects
from stoker.train.tensor_file import tensor_file

PART_BYTES: Final = 32 << 20
"""A rank's pieces go into as many parts as keep each under this: one request's worth for an object store,
and what a reader has to hold at once. One piece is never divided here."""
SMALL_BYTES: Final = 256 << 10
"""A piece up to this is in a part with others like it."""
_WRITERS: Final = 3
"""Threads that write a rank's parts: one seals while the disk finishes the others'."""


_NOT_FINITE: Final = "Lower train.learning_rate or lengthen train.warmup_steps; the last checkpoint is kept."


@dataclass(frozen=True, slots=True)
class Destination:
    """A prefix that was never used before, and the version that its parts' labels carry."""

    prefix: str
    version: str


@dataclass(frozen=True, slots=True)
class _Share:
    """Where one rank's parts go: under the destination, numbered from `first`."""

    destination: Destination
    first: int


Commit = Callable[[Destination, tuple[Part, ...], Mapping[str, JsonValue]], None]
"""Called on the coordinator, once all parts are durable."""


class CheckpointWriter(StorageWriter):
    """Writes one checkpoint. `destination` and `commit` are the coordinator's; other ranks have None."""

    def __init__(
        self,
        objects: RunObjects,
        rank: int,
        *,
        destination: Destination | None = None,
        commit: Commit | None = None,
    ) -> None:
        self._objects = objects
        self._rank = rank
        self._destination = destination
        self._commit = commit

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """Nothing is kept from one checkpoint to the next: a writer writes one."""

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """The coordinator must be the rank that holds the commit log."""
        assert is_coordinator == (self._commit is not None)

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        """Refuse what DCP would have to pickle."""
        for item in plan.items:
            if item.type is WriteItemType.BYTE_IO:
                raise CheckpointUnfit(
                    f"The value {item.index.fqn!r} is no tensor; it belongs into the commit record as JSON."
                )
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """Tell every rank where its parts go, and their numbers."""
        assert self._destination is not None
        told, first = [], 0
        for plan in plans:
            told.append(replace(plan, storage_data=_Share(self._destination, first)))
            first += len(divided(plan.items))
        return told

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Seal this rank's pieces into its parts, all durable on return; without pieces there are none.

        Raises NonFiniteState, and what the store raises; then other parts of this rank may be there.
        """
        share = plan.storage_data
        assert isinstance(share, _Share)
        pieces = {item.index: _tensor(planner, item) for item in plan.items}
        with Together() as together, ThreadPoolExecutor(_WRITERS, thread_name_prefix="write-part") as writers:
            parts = [
                writers.submit(self._write, share.destination, number, items, pieces, together)
                for number, items in enumerate(divided(plan.items), share.first)
            ]
            try:
                results = [result for part in parts for result in part.result()]
            except BaseException:
                for part in parts:
                    part.cancel()
                raise
        future: Future[list[WriteResult]] = Future()
        future.set_result(results)
        return future

    def _write(
        self,
        destination: Destination,
        number: int,
        items: Sequence[WriteItem],
        pieces: Mapping[MetadataIndex, Tensor],
        together: Together,
    ) -> list[WriteResult]:
        check_finite({item.index: pieces[item.index] for item in items})
        tensors = {chunk_name(item.index): pieces[item.index] for item in items}
        assert len(tensors) == len(items)
        part = self._objects.write_part(
            destination.prefix, destination.version, number, tensor_file(tensors), together
        )
        return [WriteResult(item.index, _bytes(item), (number, part)) for item in items]

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """On the coordinator: note which piece lies in which part, and commit."""
        assert self._commit is not None and self._destination is not None
        written = {result.storage_data[0]: result.storage_data[1] for rank in results for result in rank}
        metadata.storage_data = {result.index: result.storage_data[0] for rank in results for result in rank}
        assert sorted(written) == list(range(len(written)))
        parts = tuple(written[number] for number in range(len(written)))
        self._commit(self._destination, parts, encode_metadata(metadata))

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        """No: this writer is never chosen by a path."""
        return False


def divided(items: Sequence[WriteItem], most_bytes: int = PART_BYTES) -> list[list[WriteItem]]:
    """The items of each part: as many together as stay under `most_bytes`, at least one.

    Small items come first and share no part with large ones: what each rank needs, such as an optimizer's
    counters, is small, and whoever needs one item opens the whole part.
    """
    parts: list[list[WriteItem]] = []
    room, small = 0, True
    for item in sorted(items, key=lambda item: _bytes(item) > SMALL_BYTES):
        size = _bytes(item)
        was_small, small = small, size <= SMALL_BYTES
        if not parts or size > room or small != was_small:
            parts.append([])
            room = most_bytes
        parts[-1].append(item)
        room -= size
    return parts


def _tensor(planner: SavePlanner, item: WriteItem) -> Tensor:
    tensor = planner.resolve_data(item)
    assert isinstance(tensor, Tensor)
    return tensor


def check_finite(pieces: Mapping[MetadataIndex, Tensor]) -> None:
    """The loss of the next step would tell too, but by then the checkpoint before would be gone in turn.

    A sum is NaN or infinite when one of its terms is, and costs a twentieth of asking every element; only a
    sum that is not finite, which an overflow may be too, is looked into. Raises NonFiniteState.
    """
    asked = {
        index: tensor
        for index, tensor in pieces.items()
        if tensor.is_floating_point() and tensor.element_size() > 1 and tensor.numel()
    }
    for device in {tensor.device for tensor in asked.values()}:
        here = {index: tensor for index, tensor in asked.items() if tensor.device == device}
        sums = torch.stack([tensor.sum(dtype=_wide(tensor)).double() for tensor in here.values()])
        for index, fine in zip(here, torch.isfinite(sums).tolist(), strict=True):
            if not fine and not bool(torch.isfinite(here[index]).all()):
                raise NonFiniteState(
                    f"{index.fqn!r} holds NaN or infinite values; nothing was saved.",
                    hint=_NOT_FINITE,
                )


def _bytes(item: WriteItem) -> int:
    """Of the piece; DCP's own figure is of the whole tensor."""
    if item.tensor_data is None:
        return 0
    return math.prod(item.tensor_data.chunk.sizes) * item.tensor_data.properties.dtype.itemsize


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32
