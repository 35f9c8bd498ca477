"""Ragged columns: padded, cut and put together from rows of several columns, against plain lists."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stoker.feed.ragged import Ragged, RaggedBuffer, RaggedRows

_rows = st.lists(st.lists(st.integers(1, 255), max_size=9), min_size=1, max_size=12)


def _ragged(rows: list[list[int]], dtype: str = "uint16") -> Ragged:
    offsets = np.cumsum([0, *(len(row) for row in rows)], dtype=np.int64)
    return Ragged(np.array([value for row in rows for value in row], dtype=dtype), offsets)


@given(rows=_rows, length=st.integers(0, 11))
@settings(max_examples=80, deadline=None)
def test_padding_and_lengths_are_those_of_a_plain_loop(rows: list[list[int]], length: int) -> None:
    ragged = _ragged(rows)
    array, mask = ragged.padded(length, fill=0)
    assert array.tolist() == [(row + [0] * length)[:length] for row in rows]
    assert mask.tolist() == [[place < len(row) for place in range(length)] for row in rows]
    assert [ragged.row(number).tolist() for number in range(len(rows))] == rows
    assert ragged.lengths.tolist() == [len(row) for row in rows]
    starts = [0]
    for row in rows:
        starts.append(starts[-1] + len(row))
    assert ragged.cu_seqlens().tolist() == starts


def test_a_part_of_a_ragged_column_begins_at_zero_for_attention() -> None:
    whole = _ragged([[1, 2], [3], [4, 5, 6]])
    part = Ragged(whole.values, whole.offsets[1:])
    assert part.cu_seqlens().tolist() == [0, 1, 4]
    assert [part.row(number).tolist() for number in range(2)] == [[3], [4, 5, 6]]
    assert part.padded(2)[0].tolist() == [[3, 0], [4, 5]]


@given(batches=st.lists(_rows, min_size=1, max_size=4), dtype=st.sampled_from(["uint8", "uint16", "uint32"]))
@settings(max_examples=60, deadline=None)
def test_rows_of_several_columns_are_put_behind_each_other_in_memory_that_is_used_again(
    batches: list[list[list[int]]], dtype: str
) -> None:
    columns = [RaggedRows(_ragged(rows, dtype)) for rows in batches]
    picks = [(column, row) for column, rows in enumerate(batches) for row in reversed(range(len(rows)))]
    for count in (len(picks), 1):
        buffer = RaggedBuffer(np.dtype(dtype), count)
        for begin in range(len(picks) - count + 1):
            taken = picks[begin : begin + count]
            found = buffer.fill([columns[column] for column, _ in taken], [row for _, row in taken])
            assert found.values.dtype == dtype
            assert [found.row(j).tolist() for j in range(count)] == [batches[c][r] for c, r in taken]
        buffer.wipe()
        assert not found.values.any() and not found.offsets.any()


def test_a_ragged_column_is_a_nested_tensor_as_it_is() -> None:
    ragged = _ragged([[1, 2], [], [3, 4, 5]], "int64")
    nested = torch.nested.nested_tensor_from_jagged(
        torch.from_numpy(ragged.values), torch.from_numpy(ragged.offsets)
    )
    assert [row.tolist() for row in nested.unbind()] == [[1, 2], [], [3, 4, 5]]
