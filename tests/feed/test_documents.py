"""Document ids, positions and masks of packed samples, against a plain loop."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention.flex_attention import create_block_mask

from stoker.feed.documents import (
    attends,
    document_cu_seqlens,
    document_ids,
    document_mask,
    document_positions,
)

END = 0


def _plain(row: list[int]) -> tuple[list[int], list[int]]:
    """Ids and positions of one row, token by token."""
    ids, positions, document, position = [], [], 0, 0
    for token in row:
        ids.append(document)
        positions.append(position)
        position += 1
        if token == END:
            document, position = document + 1, 0
    return ids, positions


_rows = st.integers(1, 20).flatmap(
    lambda width: st.lists(
        st.lists(st.integers(0, 3), min_size=width, max_size=width), min_size=1, max_size=5
    )
)


@given(rows=_rows, dtype=st.sampled_from([np.int64, np.uint16, np.uint32]))
@settings(max_examples=80, deadline=None)
def test_ids_positions_and_masks_are_those_of_a_plain_loop(rows: list[list[int]], dtype: type) -> None:
    tokens = np.array(rows, dtype=dtype)
    ids = [_plain(row)[0] for row in rows]
    positions = [_plain(row)[1] for row in rows]
    assert document_ids(tokens, END).tolist() == ids
    assert document_positions(tokens, END).tolist() == positions
    expected = [
        [[key <= query and row[key] == row[query] for key in range(len(row))] for query in range(len(row))]
        for row in ids
    ]
    assert document_mask(tokens, END).tolist() == expected
    flat = [position for row in positions for position in row]
    starts = [place for place, position in enumerate(flat) if position == 0]
    assert document_cu_seqlens(tokens, END).tolist() == [*starts, len(flat)]
    assert document_cu_seqlens(tokens, END).dtype == np.int32


def test_the_mask_function_is_the_mask_and_makes_torchs_block_mask() -> None:
    tokens = np.random.default_rng(0).integers(0, 6, (2, 256))
    mask, ids = document_mask(tokens, END), document_ids(tokens, END)
    places = np.arange(256)
    function = attends(ids)
    assert np.array_equal(function(1, 0, places[:, None], places[None, :]), mask[1])
    block = create_block_mask(attends(torch.from_numpy(ids)), 2, None, 256, 256, device="cpu", BLOCK_SIZE=128)
    kinds = (block.to_dense()[:, 0]).numpy()
    blocks = mask.reshape(2, 2, 128, 2, 128)
    assert np.array_equal(kinds.astype(bool), blocks.any(axis=(2, 4)))


def test_attention_inside_documents_is_that_of_each_document_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    tokens = np.array([[5, 3, END, 7, 7, 2, END, 1, END, 4]])
    query, key, value = (torch.randn(1, 1, 10, 8, generator=generator) for _ in range(3))
    mask = torch.from_numpy(document_mask(tokens, END))[:, None]
    together = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    bounds = document_cu_seqlens(tokens, END).tolist()
    assert bounds == [0, 3, 7, 9, 10]
    alone = [
        torch.nn.functional.scaled_dot_product_attention(
            query[:, :, a:b], key[:, :, a:b], value[:, :, a:b], is_causal=True
        )
        for a, b in itertools.pairwise(bounds)
    ]
    torch.testing.assert_close(together, torch.cat(alone, dim=2))


def test_a_batch_too_long_for_32_bits_is_refused() -> None:
    huge = np.broadcast_to(np.uint8(1), (2**15, 2**16))
    with pytest.raises(OverflowError):
        document_cu_seqlens(huge, END)
