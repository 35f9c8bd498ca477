"""Where whole tensors come from when a model is written: one at a time, by our names.

From the sealed parts of a checkpoint a tensor is read in the places where its pieces lie, so that memory for
the largest tensor is enough, whatever layout saved it. See docs/design/exchange.md, "Writing".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    MetadataIndex,
    TensorStorageMetadata,
)

from stoker.store.reader import StreamReader
from stoker.train.checkpoint_errors import BadCheckpointPart, CheckpointUnfit
from stoker.train.checkpoint_metadata import chunk_name, decode_metadata
from stoker.train.commit_record import Commit
from stoker.train.run_objects import RunObjects, number_of
from stoker.train.tensor_file import TensorEntry, header_bytes, parse_entries

_PREFIX = "model/"
_LENGTH_BYTES = 8


class TensorSource(Protocol):
    """Gives tensors of a model, whole or one expert of a stacked one, in CPU memory."""

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of the whole tensor. Raises CheckpointUnfit when there is none of that name."""
        ...

    def dtype(self, name: str) -> torch.dtype:
        """Its type. Raises as `shape`."""
        ...

    def tensor(self, name: str, expert: int | None = None) -> Tensor:
        """The tensor, or its part `expert` in the first dimension."""
        ...


@dataclass(frozen=True, slots=True)
class StateSource:
    """A model's own state, `nn.Module.state_dict` or DCP's; of a spread one all ranks ask for the same."""

    state: Mapping[str, Any]

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._at(name).shape)

    def dtype(self, name: str) -> torch.dtype:
        found = self._at(name).dtype
        assert isinstance(found, torch.dtype)
        return found

    def tensor(self, name: str, expert: int | None = None) -> Tensor:
        value = self._at(name)
        whole: Tensor = (value.full_tensor() if hasattr(value, "full_tensor") else value).detach().cpu()
        return whole if expert is None else whole[expert]

    def _at(self, name: str) -> Any:
        if name not in self.state:
            raise CheckpointUnfit(f"The model has no tensor {name!r}.")
        return self.state[name]


@dataclass(frozen=True, slots=True)
class _OpenPart:
    """One part: its stream, what lies where in it, and where the first tensor begins."""

    stream: StreamReader
    entries: Mapping[str, TensorEntry]
    start: int


class SealedSource:
    """The weights of a committed checkpoint, read piece by piece; the optimizer's state is never opened.

    Every chunk of a stream is verified before a byte of it is used, and every part's header is held against
    the record. Raises BadCommitLog and BadCheckpointPart as loading does, and what the store raises.
    """

    def __init__(self, objects: RunObjects, commit: Commit) -> None:
        self._objects = objects
        self._commit = commit
        place = objects.record_key(commit.sequence)
        self._metadata = decode_metadata(commit.metadata, len(commit.parts), place)
        self._parts: dict[int, _OpenPart] = {}

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._described(name).size)

    def dtype(self, name: str) -> torch.dtype:
        found = self._described(name).properties.dtype
        assert isinstance(found, torch.dtype)
        return found

    def names(self) -> tuple[str, ...]:
        """Every tensor of the model, by our names, in order of these."""
        found = self._metadata.state_dict_metadata
        return tuple(sorted(name.removeprefix(_PREFIX) for name in found if name.startswith(_PREFIX)))

    def tensor(self, name: str, expert: int | None = None) -> Tensor:
        described = self._described(name)
        size = tuple(described.size)
        first = 0 if expert is None else expert
        rows = size[0] if expert is None and size else 1
        dtype = described.properties.dtype
        assert dtype is not None
        whole = torch.empty((rows, *size[1:]) if size else (), dtype=dtype)
        for chunk in described.chunks:
            self._copy(name, chunk, whole, first)
        return whole if expert is None else whole[0]

    def _copy(self, name: str, chunk: ChunkStorageMetadata, whole: Tensor, first: int) -> None:
        """The rows of one piece that lie in `whole`, whose row 0 is row `first` of the tensor."""
        offsets, sizes = tuple(chunk.offsets), tuple(chunk.sizes)
        if chunk.sizes.numel() == 0:
            return
        entry, part = self._entry(name, chunk)
        if not sizes:
            _read_into(part, entry, 0, whole)
            return
        begin = max(offsets[0], first)
        end = min(offsets[0] + sizes[0], first + whole.shape[0])
        if begin >= end:
            return
        target = whole.narrow(0, begin - first, end - begin)
        for dimension in range(1, len(sizes)):
            target = target.narrow(dimension, offsets[dimension], sizes[dimension])
        skipped = (begin - offsets[0]) * (chunk.sizes.numel() // sizes[0])
        if target.is_contiguous():
            _read_into(part, entry, skipped, target)
            return
        piece = torch.empty(target.shape, dtype=target.dtype)
        _read_into(part, entry, skipped, piece)
        target.copy_(piece)

    def _entry(self, name: str, chunk: ChunkStorageMetadata) -> tuple[TensorEntry, _OpenPart]:
        index = MetadataIndex(_PREFIX + name, chunk.offsets)
        number = self._metadata.storage_data[index]
        part = self._parts.get(number) or self._open(number)
        entry = part.entries.get(chunk_name(index))
        described = self._described(name)
        if entry is None or entry.dtype != described.properties.dtype or entry.shape != tuple(chunk.sizes):
            raise BadCheckpointPart(
                f"{self._commit.parts[number].key}: {chunk_name(index)[:80]!a} is not as the record says."
            )
        return entry, part

    def _open(self, number: int) -> _OpenPart:
        part = self._commit.parts[number]
        stream = self._objects.open_part(part, self._commit.version, number_of(part.key))
        begin = stream.read(0, min(_LENGTH_BYTES, stream.plaintext_bytes))
        length = header_bytes(begin, stream.plaintext_bytes, part.key)
        start = _LENGTH_BYTES + length
        text = bytes(stream.read(_LENGTH_BYTES, length))
        entries = parse_entries(text, stream.plaintext_bytes - start, part.key)
        self._parts[number] = _OpenPart(stream, entries, start)
        return self._parts[number]

    def _described(self, name: str) -> TensorStorageMetadata:
        found = self._metadata.state_dict_metadata.get(_PREFIX + name)
        if not isinstance(found, TensorStorageMetadata):
            raise CheckpointUnfit(f"The checkpoint has no tensor {_PREFIX + name!r}.")
        return found


def _read_into(part: _OpenPart, entry: TensorEntry, first: int, target: Tensor) -> None:
    """Fill `target`, contiguous, with elements of a piece from element `first`."""
    start = part.start + entry.begin + first * entry.dtype.itemsize
    part.stream.read_into(start, target.reshape(-1).view(torch.uint8).numpy().data)
