"""A model as safetensors files with an index, as `transformers` and others load them; one tensor at a time.

safetensors' own writer wants every tensor of a file in memory; here a file's header is written first, since
all shapes are known, and then each tensor is fetched, written and forgotten. See docs/design/exchange.md.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from stoker.core.progress import SILENT, Progress
from stoker.spec.model import ModelSpec
from stoker.train.checkpoint_errors import CheckpointUnfit, NonFiniteState
from stoker.train.exchange.contents import INDEX, ONE_FILE, WrittenFile
from stoker.train.exchange.errors import FormUnknown
from stoker.train.exchange.hugging_face import ForeignTensor, foreign_tensors, unsaid_tensors
from stoker.train.exchange.sources import TensorSource
from stoker.train.tensor_file import DTYPE_NAMES, file_header

FILE_BYTES: Final = 5_000_000_000
"""Bytes of tensors after which a file ends and the next begins, as Hugging Face's hub likes them."""

_METADATA: Final = {"__metadata__": {"format": "pt"}}
"""What `transformers` looks for in each file."""


@dataclass(frozen=True, slots=True)
class _Planned:
    tensor: ForeignTensor
    dtype: torch.dtype

    @property
    def bytes(self) -> int:
        return math.prod(self.tensor.shape) * self.dtype.itemsize


def write_weights(
    folder: Path,
    spec: ModelSpec,
    vocabulary: int,
    source: TensorSource,
    *,
    dtype: torch.dtype = torch.float32,
    file_bytes: int = FILE_BYTES,
    progress: Progress = SILENT,
    go_on: Callable[[], None] = lambda: None,
) -> tuple[WrittenFile, ...]:
    """Write a decoder's safetensors files in Hugging Face's form, as `write_tensors` does.

    Raises FormUnknown besides, when no family computes what the model does.
    """
    tensors = tuple(foreign_tensors(spec, vocabulary))
    for tensor in tensors:
        _require_shape(tensor, source)
    _require_zero(spec, source)
    return write_tensors(
        folder, tensors, source, dtype=dtype, file_bytes=file_bytes, progress=progress, go_on=go_on
    )


def write_tensors(
    folder: Path,
    tensors: Iterable[ForeignTensor],
    source: TensorSource,
    *,
    dtype: torch.dtype = torch.float32,
    file_bytes: int = FILE_BYTES,
    progress: Progress = SILENT,
    go_on: Callable[[], None] = lambda: None,
) -> tuple[WrittenFile, ...]:
    """Write these tensors into safetensors files of `folder`, and an index when there is more than one.

    Those of floating point become `dtype`, but for those in whole precision; others keep their type. Files
    are new, mode 0600, and on the disk when this returns. `go_on` is called before each tensor and raises to
    end it. Raises CheckpointUnfit when `source` is of another model, NonFiniteState for a weight that is NaN
    or infinite, also once it is of type `dtype`, and OSError of the disk.
    """
    planned = [_Planned(tensor, _written_as(tensor, source, dtype)) for tensor in tensors]
    shares = _shares(planned, file_bytes)
    names = _names(len(shares))
    written: list[WrittenFile] = []
    with progress.task("export", float(sum(each.bytes for each in planned)), "bytes") as task:
        for name, share in zip(names, shares, strict=True):
            with _HashedFile(folder / name) as file:
                file.write(_header(share))
                for each in share:
                    go_on()
                    file.write(_bytes(each, source))
                    task.advance(each.bytes)
            written.append(file.facts())
    if len(shares) > 1:
        with _HashedFile(folder / INDEX) as file:
            file.write(_index(names, shares))
        written.append(file.facts())
    return tuple(written)


def _written_as(tensor: ForeignTensor, source: TensorSource, dtype: torch.dtype) -> torch.dtype:
    stored = source.dtype(tensor.ours)
    if not stored.is_floating_point:
        return stored
    return torch.float32 if tensor.whole_precision else dtype


def _require_shape(tensor: ForeignTensor, source: TensorSource) -> None:
    found = source.shape(tensor.ours)
    if (found if tensor.expert is None else found[1:]) != tensor.shape:
        raise CheckpointUnfit(
            f"The checkpoint's {tensor.ours!r} is {list(found)}, which is not the run's model.",
            hint="The run file names another model than the checkpoint holds.",
        )


def _require_zero(spec: ModelSpec, source: TensorSource) -> None:
    for name in unsaid_tensors(spec):
        if bool(source.tensor(name).any()):
            raise FormUnknown(
                f"{name!r} is not zero, and no Hugging Face family with a softmax router has a place for it.",
                hint='Add --format stoker; or train with moe.score = "sigmoid" or moe.balance_rate = 0.',
            )


def _shares(planned: Sequence[_Planned], file_bytes: int) -> list[list[_Planned]]:
    """Tensors in order, as many together as fit; one that is larger has a file of its own."""
    shares: list[list[_Planned]] = [[]]
    taken = 0
    for each in planned:
        if shares[-1] and taken + each.bytes > file_bytes:
            shares.append([])
            taken = 0
        shares[-1].append(each)
        taken += each.bytes
    # Wide types first in a file, so that each tensor is aligned to its type.
    return [sorted(share, key=lambda each: -each.dtype.itemsize) for share in shares]


def _names(files: int) -> list[str]:
    if files == 1:
        return [ONE_FILE]
    return [f"model-{number:05d}-of-{files:05d}.safetensors" for number in range(1, files + 1)]


def _header(share: Sequence[_Planned]) -> bytes:
    header: dict[str, Any] = dict(_METADATA)
    position = 0
    for each in share:
        header[each.tensor.name] = {
            "dtype": DTYPE_NAMES[each.dtype],
            "shape": list(each.tensor.shape),
            "data_offsets": [position, position + each.bytes],
        }
        position += each.bytes
    return file_header(header)


def _bytes(planned: _Planned, source: TensorSource) -> memoryview:
    value = source.tensor(planned.tensor.ours, planned.tensor.expert).to(planned.dtype)
    if not bool(torch.isfinite(value).all()):
        raise NonFiniteState(
            f"{planned.tensor.ours!r} holds a value that is no finite number as {planned.dtype}."
        )
    flat = value.contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data


def _index(names: Sequence[str], shares: Sequence[Sequence[_Planned]]) -> bytes:
    body = {
        "metadata": {"total_size": sum(each.bytes for share in shares for each in share)},
        "weight_map": {
            each.tensor.name: name for name, share in zip(names, shares, strict=True) for each in share
        },
    }
    return json.dumps(body, indent=2).encode() + b"\n"


class _HashedFile:
    """A new file that is hashed as it is written, and on the disk when its block ends."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._hash = hashlib.sha256()
        self._bytes = 0
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._file = os.fdopen(descriptor, "wb")

    def __enter__(self) -> _HashedFile:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        with self._file:
            if kind is None:
                self._file.flush()
                os.fsync(self._file.fileno())

    def write(self, data: bytes | memoryview) -> None:
        self._file.write(data)
        self._hash.update(data)
        self._bytes += len(data)

    def facts(self) -> WrittenFile:
        return WrittenFile(self._path.name, self._bytes, self._hash.hexdigest())
