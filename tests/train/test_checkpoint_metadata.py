"""DCP's Metadata through JSON: equal again, and anything that does not tile its tensor is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)

from stoker.core.canonical import canonical_json
from stoker.train.checkpoint_errors import BadCommitLog, CheckpointUnfit
from stoker.train.checkpoint_metadata import chunk_name, decode_metadata, encode_metadata
from stoker.train.tensor_file import DTYPES

PARTS = 5


@st.composite
def metadata(draw: st.DrawFn) -> Metadata:
    """Tensors cut into rows, as a sharded model's are, each piece in some part."""
    state: dict[str, Any] = {}
    storage: dict[MetadataIndex, int] = {}
    for name in draw(st.lists(st.text(min_size=1, max_size=20), unique=True, max_size=5)):
        size = draw(st.lists(st.integers(0, 7), max_size=3))
        cuts = sorted({0, *draw(st.lists(st.integers(0, size[0]), max_size=3))}) if size else [0]
        ends = [*cuts[1:], size[0]] if size else [1]
        chunks = []
        for begin, end in zip(cuts, ends, strict=True):
            offsets = [begin, *[0] * (len(size) - 1)] if size else []
            sizes = [end - begin, *size[1:]] if size else []
            chunks.append(ChunkStorageMetadata(torch.Size(offsets), torch.Size(sizes)))
            storage[MetadataIndex(name, offsets)] = draw(st.integers(0, PARTS - 1))
        dtype = draw(st.sampled_from(list(DTYPES.values())))
        state[name] = TensorStorageMetadata(TensorProperties(dtype=dtype), torch.Size(size), chunks)
    return Metadata(state_dict_metadata=state, storage_data=storage)


@given(metadata())
@settings(max_examples=150, deadline=None)
def test_metadata_survives_json(original: Metadata) -> None:
    text = canonical_json(encode_metadata(original))
    again = decode_metadata(json.loads(text), PARTS, "a record")
    assert again == original


def good() -> dict[str, Any]:
    return {
        "format": 1,
        "tensors": {
            "w": {"dtype": "F32", "size": [4, 2], "chunks": [[[0, 0], [2, 2], 0], [[2, 0], [2, 2], 1]]}
        },
    }


def test_the_good_example_is_read() -> None:
    assert decode_metadata(good(), 2, "a record").storage_data == {
        MetadataIndex("w", (0, 0)): 0,
        MetadataIndex("w", (2, 0)): 1,
    }


BAD: list[tuple[str, Any]] = [
    ("not of format", {"format": 2, "tensors": {}}),
    ("not of format", {"tensors": {}}),
    ("are no JSON object", {"format": 1, "tensors": []}),
    ("exactly the fields", {"dtype": "F32", "size": []}),
    ("unknown type", {"dtype": "X", "size": [], "chunks": []}),
    ("no list of sizes", {"dtype": "F32", "size": [-1], "chunks": []}),
    ("no list of sizes", {"dtype": "F32", "size": [True], "chunks": []}),
    ("are no list", {"dtype": "F32", "size": [1], "chunks": {}}),
    ("is not \\[offsets", {"dtype": "F32", "size": [1], "chunks": [[[0], [1]]]}),
    ("in part 2 of 2", {"dtype": "F32", "size": [1], "chunks": [[[0], [1], 2]]}),
    ("in part -1 of 2", {"dtype": "F32", "size": [1], "chunks": [[[0], [1], -1]]}),
    ("of 2 dimensions", {"dtype": "F32", "size": [1], "chunks": [[[0, 0], [1, 1], 0]]}),
    ("reaches out", {"dtype": "F32", "size": [3], "chunks": [[[1], [3], 0]]}),
    ("do not fill", {"dtype": "F32", "size": [3], "chunks": [[[0], [2], 0]]}),
    ("do not fill", {"dtype": "F32", "size": [3], "chunks": []}),
    ("overlap", {"dtype": "F32", "size": [4], "chunks": [[[0], [2], 0], [[1], [2], 1]]}),
    ("overlap", {"dtype": "F32", "size": [2, 2], "chunks": [[[0, 0], [1, 2], 0], [[0, 0], [2, 1], 1]]}),
]


@pytest.mark.parametrize(("message", "value"), BAD)
def test_metadata_that_does_not_tile_its_tensors_is_refused_and_named(message: str, value: Any) -> None:
    body = value if "tensors" in value else {"format": 1, "tensors": {"w": value}}
    with pytest.raises(BadCommitLog, match=message) as caught:
        decode_metadata(body, 2, "record 7")
    assert "record 7" in caught.value.message


def test_a_value_that_is_no_tensor_is_refused() -> None:
    with pytest.raises(CheckpointUnfit, match="'opt/lr' is no tensor"):
        encode_metadata(Metadata({"opt/lr": BytesStorageMetadata()}, storage_data={}))


def test_a_sparse_tensor_is_refused() -> None:
    properties = TensorProperties(dtype=torch.float32, layout=torch.sparse_coo)
    with pytest.raises(CheckpointUnfit, match="layout"):
        encode_metadata(
            Metadata({"s": TensorStorageMetadata(properties, torch.Size([1]), [])}, storage_data={})
        )


def test_chunks_of_one_tensor_have_different_names() -> None:
    assert chunk_name(MetadataIndex("w", (2, 0))) == "w@2,0"
    assert chunk_name(MetadataIndex("scalar", ())) == "scalar@"
