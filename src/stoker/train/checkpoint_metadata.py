"""DCP's Metadata as JSON and back, by naming every field; no pickle. See docs/design/train.md.

PyTorch writes this object with pickle, and reading it runs whatever the file says. Here a tensor is its type,
its size, and its chunks: where each begins, how large it is, and which part of the checkpoint holds it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any, Final

import torch
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)

from stoker.core.canonical import JsonValue
from stoker.train.checkpoint_errors import BadCommitLog, CheckpointUnfit
from stoker.train.tensor_file import DTYPES, MAX_DIMENSIONS, dtype_name

FORMAT: Final = 1


def chunk_name(index: MetadataIndex) -> str:
    """The name of a chunk inside its part: the tensor's name, `@`, and the chunk's offsets."""
    return f"{index.fqn}@{','.join(map(str, index.offset or ()))}"


def encode_metadata(metadata: Metadata) -> dict[str, JsonValue]:
    """The metadata as a JSON value. `storage_data` must map each chunk's index to the number of its part.

    Raises CheckpointUnfit for a value that is no dense tensor: nothing else is written to a part.
    """
    tensors: dict[str, JsonValue] = {}
    for name, tensor in metadata.state_dict_metadata.items():
        if not isinstance(tensor, TensorStorageMetadata):
            raise CheckpointUnfit(f"The value {name!r} is no tensor; checkpoints hold only tensors in parts.")
        if tensor.properties.layout != torch.strided:
            raise CheckpointUnfit(f"The tensor {name!r} has layout {tensor.properties.layout}, not strided.")
        tensors[name] = {
            "dtype": dtype_name(tensor.properties.dtype, f"The tensor {name!r}"),
            "size": list(tensor.size),
            "chunks": [
                [
                    list(chunk.offsets),
                    list(chunk.sizes),
                    metadata.storage_data[MetadataIndex(name, chunk.offsets)],
                ]
                for chunk in tensor.chunks
            ],
        }
    return {"format": FORMAT, "tensors": tensors}


def decode_metadata(value: Mapping[str, JsonValue], parts: int, place: str) -> Metadata:
    """The Metadata of a checkpoint of `parts` parts.

    Raises BadCommitLog, naming `place` and the tensor, unless the chunks of each tensor lie within it and
    fill it exactly, and lie in parts that there are.
    """
    if set(value) != {"format", "tensors"} or value["format"] != FORMAT:
        raise BadCommitLog(f"{place}: the metadata is not of format {FORMAT}.")
    tensors = value["tensors"]
    if not isinstance(tensors, Mapping):
        raise BadCommitLog(f"{place}: the metadata's tensors are no JSON object.")
    state: dict[str, Any] = {}
    storage: dict[MetadataIndex, int] = {}
    for name, tensor in tensors.items():
        where = f"{place}: tensor {name[:80]!a}"
        state[name], numbers = _tensor(tensor, parts, where)
        for chunk, number in zip(state[name].chunks, numbers, strict=True):
            storage[MetadataIndex(name, chunk.offsets)] = number
    return Metadata(state_dict_metadata=state, storage_data=storage)


def _tensor(value: Any, parts: int, where: str) -> tuple[TensorStorageMetadata, list[int]]:
    if not isinstance(value, Mapping) or set(value) != {"dtype", "size", "chunks"}:
        raise BadCommitLog(f"{where} does not have exactly the fields dtype, size and chunks.")
    dtype = DTYPES.get(value["dtype"]) if isinstance(value["dtype"], str) else None
    if dtype is None:
        raise BadCommitLog(f"{where} has the unknown type {ascii(value['dtype'])[:40]}.")
    size = _sizes(value["size"], where)
    if not isinstance(value["chunks"], list):
        raise BadCommitLog(f"{where}: its chunks are no list.")
    chunks: list[ChunkStorageMetadata] = []
    numbers: list[int] = []
    for chunk in value["chunks"]:
        if not isinstance(chunk, list) or len(chunk) != 3:
            raise BadCommitLog(f"{where}: a chunk is not [offsets, sizes, part].")
        offsets, sizes = _sizes(chunk[0], where), _sizes(chunk[1], where)
        number = chunk[2]
        if not _is_size(number) or number >= parts:
            raise BadCommitLog(f"{where}: a chunk lies in part {ascii(number)[:40]} of {parts}.")
        if len(offsets) != len(size) or len(sizes) != len(size):
            raise BadCommitLog(f"{where}: a chunk of {len(sizes)} dimensions in a tensor of {len(size)}.")
        if any(offset + extent > whole for offset, extent, whole in zip(offsets, sizes, size, strict=True)):
            raise BadCommitLog(f"{where}: the chunk at {offsets} reaches out of it.")
        chunks.append(ChunkStorageMetadata(torch.Size(offsets), torch.Size(sizes)))
        numbers.append(number)
    if sum(math.prod(chunk.sizes) for chunk in chunks) != math.prod(size):
        raise BadCommitLog(f"{where}: its chunks do not fill it.")
    if any(_overlap(first, second) for first, second in _neighbours(chunks)):
        raise BadCommitLog(f"{where}: two of its chunks overlap.")
    return TensorStorageMetadata(TensorProperties(dtype=dtype), torch.Size(size), chunks), numbers


def _neighbours(
    chunks: list[ChunkStorageMetadata],
) -> Iterator[tuple[ChunkStorageMetadata, ChunkStorageMetadata]]:
    """Pairs that could overlap: in order of their first offset, until one begins after the other's end."""
    full = sorted((chunk for chunk in chunks if math.prod(chunk.sizes)), key=lambda chunk: chunk.offsets)
    for position, first in enumerate(full):
        for second in itertools.islice(full, position + 1, None):
            if first.offsets and second.offsets[0] >= first.offsets[0] + first.sizes[0]:
                break
            yield first, second


def _overlap(first: ChunkStorageMetadata, second: ChunkStorageMetadata) -> bool:
    return all(
        one < other + other_size and other < one + one_size
        for one, one_size, other, other_size in zip(
            first.offsets, first.sizes, second.offsets, second.sizes, strict=True
        )
    )


def _sizes(value: Any, where: str) -> list[int]:
    if (
        not isinstance(value, list)
        or len(value) > MAX_DIMENSIONS
        or not all(_is_size(item) for item in value)
    ):
        raise BadCommitLog(f"{where}: {ascii(value)[:80]} is no list of sizes.")
    return value


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 62
