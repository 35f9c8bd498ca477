"""One safetensors file in memory: a strict reader and a writer that copies nothing. See docs/design/train.md.

The format is safetensors' own (8 bytes of little-endian header length, a JSON header, the tensors' bytes),
and the public library reads what is written here. The reader is stricter than the library where a strange
file could mean two things: no duplicate key, no gap, no overlap, no trailing byte, no other field.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import torch
from torch import Tensor

from stoker.train.checkpoint_errors import BadCheckpointPart, CheckpointUnfit

Described: TypeAlias = "tuple[torch.dtype, tuple[int, ...]]"
"""A tensor's type and shape."""

MAX_HEADER_BYTES: Final = 64 * 1024 * 1024
MAX_DIMENSIONS: Final = 16
_LENGTH_BYTES: Final = 8
_FIELDS: Final = {"dtype", "shape", "data_offsets"}

DTYPES: Final[Mapping[str, torch.dtype]] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""safetensors' names of the types that a checkpoint may hold."""

DTYPE_NAMES: Final = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor of a file: `begin` and `end` count from the first byte after the header."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int
    end: int


def dtype_name(dtype: torch.dtype, what: str) -> str:
    """safetensors' name of `dtype`. Raises CheckpointUnfit, naming `what`, when it has none here."""
    if dtype not in DTYPE_NAMES:
        raise CheckpointUnfit(
            f"{what} has type {dtype}, which a checkpoint cannot hold.",
            hint=f"Use one of {', '.join(DTYPE_NAMES.values())}.",
        )
    return DTYPE_NAMES[dtype]


@dataclass(frozen=True, slots=True)
class FileLayout:
    """How a file of some tensors begins, and which tensors' bytes follow, in order."""

    header: bytes
    names: tuple[str, ...]
    file_bytes: int


def layout_of(described: Mapping[str, Described]) -> FileLayout:
    """The one layout that `tensor_file` gives tensors of these types and shapes, by name.

    Wide types come first, so that each tensor is aligned to its type.
    """
    order = sorted(described, key=lambda name: (-described[name][0].itemsize, name))
    header: dict[str, Any] = {}
    position = 0
    for name in order:
        dtype, shape = described[name]
        end = position + math.prod(shape) * dtype.itemsize
        header[name] = {
            "dtype": dtype_name(dtype, f"The tensor {name!r}"),
            "shape": list(shape),
            "data_offsets": [position, end],
        }
        position = end
    begin = file_header(header)
    return FileLayout(begin, tuple(order), len(begin) + position)


def tensor_file(tensors: Mapping[str, Tensor]) -> Iterator[bytes | memoryview]:
    """The file's bytes in pieces: its header, then each tensor's own memory.

    Tensors not in contiguous CPU memory are copied one at a time.
    """
    layout = layout_of({name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()})
    yield layout.header
    for name in layout.names:
        if tensors[name].numel():
            yield bytes_of(tensors[name].cpu().contiguous())


def bytes_of(tensor: Tensor) -> memoryview:
    """The memory of a contiguous tensor on the CPU that has elements, without its history."""
    return tensor.detach().reshape(-1).view(torch.uint8).numpy().data


def file_header(header: Mapping[str, Any]) -> bytes:
    """A file's first bytes: the length of `header` as JSON, and that JSON, padded to a multiple of 8."""
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(_LENGTH_BYTES, "little") + text


def parse_header(data: bytes | bytearray | memoryview, place: str) -> tuple[dict[str, TensorEntry], int]:
    """The tensors that the file `data` holds, and where the first one's bytes begin.

    Raises BadCheckpointPart, naming `place` and the tensor, unless every byte of `data` is accounted for
    exactly once.
    """
    view = memoryview(data)
    start = _LENGTH_BYTES + header_bytes(view[:_LENGTH_BYTES], len(view), place)
    return parse_entries(bytes(view[_LENGTH_BYTES:start]), len(view) - start, place), start


def header_bytes(begin: bytes | bytearray | memoryview, file_bytes: int, place: str) -> int:
    """The length of the JSON header in a file of `file_bytes` that begins with `begin`, at least 8 bytes.

    Raises BadCheckpointPart when the file is too short for it, or it is longer than any that is written.
    """
    if file_bytes < _LENGTH_BYTES:
        raise BadCheckpointPart(f"{place}: {file_bytes} bytes are too few for a safetensors file.")
    length = int.from_bytes(begin[:_LENGTH_BYTES], "little")
    if length > min(MAX_HEADER_BYTES, file_bytes - _LENGTH_BYTES):
        raise BadCheckpointPart(
            f"{place}: the safetensors header claims {length} bytes of {file_bytes}; "
            f"at most {MAX_HEADER_BYTES} are allowed."
        )
    return length


def parse_entries(text: bytes, data_bytes: int, place: str) -> dict[str, TensorEntry]:
    """The tensors that the JSON header `text` names, when they fill the `data_bytes` behind it exactly.

    Raises BadCheckpointPart as `parse_header` does.
    """
    header = _header_json(text, place)
    entries = {name: _entry(name, value, place) for name, value in header.items()}
    position = 0
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != position:
            what = "overlaps the tensor before it" if entry.begin < position else "leaves a gap before it"
            raise BadCheckpointPart(f"{place}: tensor {name[:80]!a} {what} (byte {entry.begin}).")
        position = entry.end
    if position != data_bytes:
        raise BadCheckpointPart(f"{place}: the tensors end at byte {position}, the file at {data_bytes}.")
    return entries


def tensor_at(data: bytearray | memoryview, start: int, entry: TensorEntry) -> Tensor:
    """The tensor of `entry`, sharing memory with `data`, whose header has been checked by `parse_header`."""
    count = math.prod(entry.shape)
    if count == 0:
        return torch.empty(entry.shape, dtype=entry.dtype)
    raw = torch.frombuffer(data, dtype=torch.uint8, count=entry.end - entry.begin, offset=start + entry.begin)
    return raw.view(entry.dtype).reshape(entry.shape)


def _header_json(text: bytes, place: str) -> dict[str, Any]:
    if not text.startswith(b"{"):
        raise BadCheckpointPart(f"{place}: the safetensors header does not begin with '{{'.")
    try:
        header = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise BadCheckpointPart(f"{place}: the safetensors header is not JSON: {error}.") from error
    assert isinstance(header, dict)
    return header


def _entry(name: str, value: Any, place: str) -> TensorEntry:
    where = f"{place}: tensor {name[:80]!a}"
    if not isinstance(value, dict) or set(value) != _FIELDS:
        raise BadCheckpointPart(f"{where} does not have exactly the fields {sorted(_FIELDS)}.")
    dtype = DTYPES.get(value["dtype"]) if isinstance(value["dtype"], str) else None
    if dtype is None:
        raise BadCheckpointPart(f"{where} has the unknown type {ascii(value['dtype'])[:40]}.")
    shape, offsets = value["shape"], value["data_offsets"]
    if not _are_sizes(shape) or len(shape) > MAX_DIMENSIONS:
        raise BadCheckpointPart(f"{where} has the shape {ascii(shape)[:80]}.")
    if not _are_sizes(offsets) or len(offsets) != 2:
        raise BadCheckpointPart(f"{where} has the offsets {ascii(offsets)[:80]}.")
    begin, end = offsets
    if end - begin != math.prod(shape) * dtype.itemsize:
        raise BadCheckpointPart(f"{where} takes bytes {begin} to {end}, which is not the size of {shape}.")
    if begin % dtype.itemsize:
        raise BadCheckpointPart(f"{where} begins at byte {begin}, which is not aligned to its type.")
    return TensorEntry(dtype, tuple(shape), begin, end)


def _are_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(item, int) and not isinstance(item, bool) and 0 <= item < 1 << 62 for item in value
    )


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key stands there twice")
    return result


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")
