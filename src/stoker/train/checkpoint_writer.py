"""Where PyTorch DCP's planned tensors go: one sealed safetensors part a rank. See docs/design/train.md.

DCP decides which rank writes which piece of which tensor; nothing of its own storage is used. The coordinator
chooses a fresh prefix, every rank writes its part under it, and the coordinator commits last.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner, WriteItemType
from torch.distributed.checkpoint.storage import StorageWriter, WriteResult
from torch.futures import Future

from stoker.core.canonical import JsonValue
from stoker.train.checkpoint_errors import CheckpointUnfit, NonFiniteState
from stoker.train.checkpoint_metadata import chunk_name, encode_metadata
from stoker.train.commit_record import Part
from stoker.train.run_objects import RunObjects
from stoker.train.tensor_file import tensor_file


@dataclass(frozen=True, slots=True)
class Destination:
    """A prefix that was never used before, and the version that its parts' labels carry."""

    prefix: str
    version: str


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
        """Tell every rank where its part goes."""
        return [replace(plan, storage_data=self._destination) for plan in plans]

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Seal this rank's pieces into its part; a rank without pieces writes none."""
        future: Future[list[WriteResult]] = Future()
        future.set_result(self._write(plan, planner) if plan.items else [])
        return future

    def _write(self, plan: SavePlan, planner: SavePlanner) -> list[WriteResult]:
        destination = plan.storage_data
        assert isinstance(destination, Destination)
        tensors: dict[str, Tensor] = {}
        for item in plan.items:
            tensor = planner.resolve_data(item)
            assert isinstance(tensor, Tensor)
            _check_finite(item.index.fqn, tensor)
            tensors[chunk_name(item.index)] = tensor
        assert len(tensors) == len(plan.items)
        part = self._objects.write_part(
            destination.prefix, destination.version, self._rank, tensor_file(tensors)
        )
        return [
            WriteResult(item.index, item.tensor_storage_size() or 0, (self._rank, part))
            for item in plan.items
        ]

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """On the coordinator: note which piece lies in which part, and commit."""
        assert self._commit is not None and self._destination is not None
        written = {result.storage_data[0]: result.storage_data[1] for rank in results for result in rank}
        numbers = {rank: number for number, rank in enumerate(sorted(written))}
        metadata.storage_data = {
            result.index: numbers[result.storage_data[0]] for rank in results for result in rank
        }
        parts = tuple(written[rank] for rank in sorted(written))
        self._commit(self._destination, parts, encode_metadata(metadata))

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        """No: this writer is never chosen by a path."""
        return False


def _check_finite(name: str, tensor: Tensor) -> None:
    """The loss of the next step would tell too, but by then the checkpoint before would be gone in turn."""
    if tensor.is_floating_point() and tensor.element_size() > 1 and not bool(torch.isfinite(tensor).all()):
        raise NonFiniteState(
            f"{name!r} holds NaN or infinite values; nothing was saved.",
            hint="Lower train.learning_rate or lengthen train.warmup_steps; the last checkpoint is kept.",
        )
