"""From a folder in Hugging Face's form into a model's own tensors, on any layout.

DCP plans which rank needs which piece; a rank reads its pieces alone, one at a time, and nothing is sent.
All names and shapes are compared before a weight changes. See docs/design/exchange.md, "Reading".
"""

from __future__ import annotations

import os
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner, ReadItem
from torch.distributed.checkpoint.state_dict import get_model_state_dict
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.storage import StorageReader
from torch.futures import Future

from stoker.core.errors import StokerError
from stoker.spec.model import ModelSpec
from stoker.train.exchange.configuration import described_by
from stoker.train.exchange.contents import CONFIG
from stoker.train.exchange.errors import WeightsUnfit
from stoker.train.exchange.first_weights import require_same_bytes, require_same_tokens
from stoker.train.exchange.folder import WeightFolder, is_floating
from stoker.train.exchange.hugging_face import ForeignTensor, foreign_tensors, unsaid_tensors
from stoker.train.exchange.same_model import require_same_model

_LEFT_OUT: Final = (".rotary_emb.inv_freq",)
"""Ends of names that old checkpoints hold and that follow from the configuration."""

_HEAD: Final = "lm_head.weight"
_EMBEDDING: Final = "model.embed_tokens.weight"
_SHOWN: Final = 5


def load_weights(model: nn.Module, spec: ModelSpec, vocabulary: int, folder: WeightFolder) -> None:
    """Fill the parameters of `model`, which was made from `spec`, whole or spread in any way.

    Each rank calls it; none waits for another. Raises FormUnknown, and WeightsUnfit naming every tensor that
    is missing, unexpected, transposed or of another shape, before a weight changes; WeightsUnfit also for a
    value that is no finite number, and then the model is to be thrown away.
    """
    require_same_model(described_by(folder.config, str(folder.path / CONFIG)), spec, vocabulary)
    expected = tuple(foreign_tensors(spec, vocabulary))
    compare(expected, folder, tied=spec.tied_embeddings)
    state: dict[str, Any] = dict(get_model_state_dict(model))
    unsaid = set(unsaid_tensors(spec))
    with torch.no_grad():
        for name in unsaid & set(state):
            state[name].zero_()
    wanted = {name: value for name, value in state.items() if name not in unsaid}
    named = {tensor.ours for tensor in expected}
    assert set(wanted) <= named, f"the form has no place for {sorted(set(wanted) - named)[:_SHOWN]}"
    with _unwrapped():
        load(
            wanted,
            storage_reader=_FolderReader(folder, expected),
            planner=DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False),
            no_dist=True,
        )


def load_first_weights(
    model: nn.Module,
    spec: ModelSpec,
    vocabulary: int,
    place: Path,
    *,
    digest: str,
    tokenizer_json: str,
    verifies: bool,
) -> None:
    """Fill a fresh model from the folder that its run names; every rank calls it.

    One rank `verifies` that the folder still has the `digest` that the log recorded, after it was read.
    Raises BadWeights when it has not, WeightsUnfit when its tokenizer is another, and as `load_weights` does.
    """
    require_same_tokens(place, tokenizer_json)
    with WeightFolder.open(place) as folder:
        load_weights(model, spec, vocabulary, folder)
    if verifies:
        require_same_bytes(place, digest)


def compare(expected: Iterable[ForeignTensor], folder: WeightFolder, *, tied: bool) -> None:
    """Raise WeightsUnfit, naming each tensor, unless the folder holds exactly these, each of its shape."""
    wanted = {tensor.name: tensor for tensor in expected}
    problems = [problem for tensor in wanted.values() if (problem := _problem(tensor, folder))]
    for name in sorted(set(folder.tensors) - set(wanted)):
        if name.endswith(_LEFT_OUT):
            continue
        if tied and name == _HEAD:
            problems += _head_problem(folder)
        else:
            problems.append(f"{name[:80]!a} is extra: this model has no such tensor")
    if problems:
        more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise WeightsUnfit(
            f"{folder.path} does not hold this model: {'; '.join(problems[:_SHOWN])}{more}.",
            hint="Nothing was loaded. Compare [model] with the folder's config.json, and fetch it again.",
        )


def _problem(tensor: ForeignTensor, folder: WeightFolder) -> str | None:
    stored = folder.tensors.get(tensor.name)
    if stored is None:
        return f"{tensor.name!r} is missing"
    if not is_floating(stored):
        return (
            f"{tensor.name!r} is of type {stored.dtype}, which is no plain floating point of 16 bits or more"
        )
    if stored.shape == tensor.shape:
        return None
    turned = len(tensor.shape) == 2 and stored.shape == tensor.shape[::-1]
    how = "transposed" if turned else "of another shape"
    return f"{tensor.name!r} is {how}: {list(stored.shape)}, where {list(tensor.shape)} is expected"


def _head_problem(folder: WeightFolder) -> Iterator[str]:
    """A tied model may say its head twice; both must be the same numbers."""
    head, embedding = folder.tensors[_HEAD], folder.tensors.get(_EMBEDDING)
    if embedding is None or head.shape != embedding.shape or head.dtype != embedding.dtype:
        same = False
    else:
        whole = ([0] * len(head.shape), head.shape)
        same = torch.equal(folder.read(_HEAD, *whole), folder.read(_EMBEDDING, *whole))
    if not same:
        yield f"{_HEAD!r} is extra: this model's embeddings are tied, and it is not {_EMBEDDING!r}"


class _FolderReader(StorageReader):
    """A folder as DCP sees a checkpoint: our tensors, each in one chunk, or stacked in one an expert."""

    def __init__(self, folder: WeightFolder, tensors: Iterable[ForeignTensor]) -> None:
        self._folder = folder
        self._at: dict[MetadataIndex, ForeignTensor] = {}
        stacked: dict[str, list[ForeignTensor]] = defaultdict(list)
        for tensor in tensors:
            stacked[tensor.ours].append(tensor)
        self._metadata = Metadata(
            state_dict_metadata={name: self._described(name, parts) for name, parts in stacked.items()}
        )

    def _described(self, name: str, parts: list[ForeignTensor]) -> TensorStorageMetadata:
        chunks = []
        for part in parts:
            shape = part.shape if part.expert is None else (1, *part.shape)
            offsets = [0] * len(shape)
            offsets[0] = part.expert or 0
            chunks.append(ChunkStorageMetadata(torch.Size(offsets), torch.Size(shape)))
            self._at[MetadataIndex(name, chunks[-1].offsets)] = part
        first = parts[0]
        size = first.shape if first.expert is None else (len(parts), *first.shape)
        return TensorStorageMetadata(TensorProperties(dtype=torch.float32), torch.Size(size), chunks)

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """Nothing is kept from one reading to the next."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """What the folder was found to hold."""
        return self._metadata

    def set_up_storage_reader(
        self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any
    ) -> None:
        """Nothing: the folder is open."""

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        """As DCP planned it."""
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        """As DCP planned it."""
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Each piece that this rank keeps, one at a time."""
        for item in plan.items:
            piece = self._piece(item)
            target = planner.resolve_tensor(item).detach()
            target.copy_(piece)
            planner.commit_tensor(item, target)
        future: Future[None] = Future()
        future.set_result(None)
        return future

    def _piece(self, item: ReadItem) -> Tensor:
        part = self._at[MetadataIndex(item.storage_index.fqn, item.storage_index.offset)]
        offsets, lengths = list(item.storage_offsets), list(item.lengths)
        if part.expert is not None:
            offsets, lengths = offsets[1:], lengths[1:]
        piece = self._folder.read(part.name, offsets, lengths)
        if not bool(torch.isfinite(piece).all()):
            raise WeightsUnfit(
                f"{self._folder.path}: {part.name!r} holds a value that is no finite number.",
                hint="The file is damaged, or its training had failed. Take other weights.",
            )
        return piece if part.expert is None else piece.unsqueeze(0)

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        """No: this reader is never chosen by a path."""
        return False


@contextmanager
def _unwrapped() -> Iterator[None]:
    """DCP wraps what a reader raises; ours comes out as it is. That no rank waits for another is meant."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
            yield
    except CheckpointException as together:
        failures: Mapping[int, Any] = together.failures
        for error, _ in failures.values():
            if isinstance(error, StokerError):
                raise error from None
        raise
