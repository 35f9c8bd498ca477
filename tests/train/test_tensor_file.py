"""Tensor files: the public library agrees in both directions, and every strange header is refused."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
import safetensors.torch
import torch

from stoker.train.checkpoint_errors import BadCheckpointPart, CheckpointUnfit
from stoker.train.tensor_file import (
    MAX_HEADER_BYTES,
    layout_of,
    parse_header,
    tensor_at,
    tensor_file,
)


def sample() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    return {
        "model/weight@0,0": torch.randn(3, 5, generator=generator),
        "model/transposed@0,0": torch.randn(4, 6, generator=generator).t(),
        "model/half@0": torch.randn(7, generator=generator).to(torch.bfloat16),
        "optimizer/step@": torch.tensor(12.0),
        "empty@0": torch.empty(0, 4),
        "flags@0": torch.tensor([True, False, True]),
        "bytes@0": torch.arange(9, dtype=torch.uint8),
        "long@0": torch.tensor([-1, 1 << 40]),
    }


def written(tensors: dict[str, torch.Tensor]) -> bytearray:
    return bytearray(b"".join(tensor_file(tensors)))


def file_of(header: Any, data: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def test_the_public_library_reads_what_is_written() -> None:
    tensors = sample()
    data = written(tensors)
    layout = layout_of({name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()})
    assert len(data) == layout.file_bytes
    assert data.startswith(layout.header)
    loaded = safetensors.torch.load(bytes(data))
    assert set(loaded) == set(tensors)
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name], tensor)


def test_what_the_public_library_writes_is_read() -> None:
    tensors = {name: tensor.contiguous() for name, tensor in sample().items()}
    data = bytearray(safetensors.torch.save(tensors))
    entries, start = parse_header(data, "a part")
    assert set(entries) == set(tensors)
    for name, entry in entries.items():
        assert torch.equal(tensor_at(data, start, entry), tensors[name])
        assert entry.shape == tuple(tensors[name].shape)


F32: dict[str, Any] = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}

STRANGE: list[tuple[str, bytes, str]] = [
    ("too short", b"\x01\x00", "2 bytes are too few"),
    ("header beyond the end", (99).to_bytes(8, "little") + b"{}", "claims 99 bytes of 10"),
    ("huge header", (MAX_HEADER_BYTES + 1).to_bytes(8, "little"), "claims"),
    ("length overflow", b"\xff" * 8 + b"{}", "claims 18446744073709551615"),
    ("not an object", file_of([1], b""), "does not begin with"),
    ("not JSON", file_of(b"{nope", b""), "is not JSON"),
    ("deep JSON", file_of(b'{"a":' + b"[" * 100_000, b""), "is not JSON"),
    ("not UTF-8", file_of(b'{"\xff":1}', b""), "is not JSON"),
    ("NaN", file_of(b'{"a":NaN}', b""), "is not JSON"),
    (
        "duplicate key",
        file_of(b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":1}', b"x"),
        "stands there twice",
    ),
    ("metadata", file_of({"__metadata__": {"format": "pt"}}, b""), "exactly the fields"),
    ("extra field", file_of({"a": {**F32, "x": 1}}, bytes(8)), "exactly the fields"),
    ("missing field", file_of({"a": {"dtype": "F32", "shape": [2]}}, bytes(8)), "exactly the fields"),
    ("unknown type", file_of({"a": {**F32, "dtype": "F99"}}, bytes(8)), "unknown type 'F99'"),
    ("type is a list", file_of({"a": {**F32, "dtype": []}}, bytes(8)), "unknown type"),
    ("negative shape", file_of({"a": {**F32, "shape": [-2]}}, bytes(8)), "has the shape"),
    ("boolean shape", file_of({"a": {**F32, "shape": [True, 2]}}, bytes(8)), "has the shape"),
    ("shape of text", file_of({"a": {**F32, "shape": "2"}}, bytes(8)), "has the shape"),
    ("too many dimensions", file_of({"a": {**F32, "shape": [1] * 16 + [2]}}, bytes(8)), "has the shape"),
    ("overflowing shape", file_of({"a": {**F32, "shape": [1 << 61, 8]}}, bytes(8)), "not the size of"),
    ("three offsets", file_of({"a": {**F32, "data_offsets": [0, 8, 8]}}, bytes(8)), "has the offsets"),
    ("backward offsets", file_of({"a": {**F32, "data_offsets": [8, 0]}}, bytes(8)), "not the size of"),
    ("beyond the end", file_of({"a": {**F32, "data_offsets": [0, 8]}}, bytes(4)), "the file at 4"),
    ("trailing bytes", file_of({"a": F32}, bytes(9)), "the file at 9"),
    ("gap", file_of({"a": {**F32, "data_offsets": [4, 12]}}, bytes(12)), "leaves a gap"),
    (
        "overlap",
        file_of({"a": F32, "b": {**F32, "data_offsets": [4, 12]}}, bytes(12)),
        "overlaps the tensor",
    ),
    ("same bytes twice", file_of({"a": F32, "b": F32}, bytes(8)), "overlaps the tensor"),
    (
        "unaligned",
        file_of(
            {
                "a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
                "b": {**F32, "data_offsets": [1, 9]},
            },
            bytes(9),
        ),
        "not aligned",
    ),
]


@pytest.mark.parametrize(("data", "message"), [row[1:] for row in STRANGE], ids=[row[0] for row in STRANGE])
def test_atk_051_a_strange_header_is_refused_and_named(data: bytes, message: str) -> None:
    with pytest.raises(BadCheckpointPart, match=message) as caught:
        parse_header(data, "part 3")
    assert "part 3" in caught.value.message


def test_no_changed_header_byte_gives_anything_but_a_whole_layout_or_a_refusal() -> None:
    good = written(sample())
    length = int.from_bytes(good[:8], "little")
    chance = random.Random(1)
    refused = 0
    for position in range(8 + length):
        changed = bytearray(good)
        changed[position] ^= chance.randrange(1, 256)
        try:
            entries, start = parse_header(changed, "a part")
        except BadCheckpointPart:
            refused += 1
            continue
        for entry in entries.values():
            tensor_at(changed, start, entry)
        assert start + max(entry.end for entry in entries.values()) == len(changed)
    assert refused > length // 2


def test_a_type_that_a_file_cannot_hold_is_named() -> None:
    with pytest.raises(CheckpointUnfit, match=r"'odd' has type torch\.complex64"):
        written({"odd": torch.zeros(1, dtype=torch.complex64)})
