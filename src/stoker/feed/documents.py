"""Where documents begin and end inside packed samples. See docs/design/feed.md, "Documents".

Preparation joins documents with an end-of-text token between them and cuts the stream into samples. Attention
that stays inside a document needs to know which token belongs to which. The end-of-text token belongs to the
document that it ends. All functions take tokens [rows, sample_tokens] of any integer type.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Tokens = npt.NDArray[np.integer[Any]]


def document_ids(tokens: Tokens, end_of_text: int) -> npt.NDArray[np.int32]:
    """Which document of its row each token belongs to, counted from 0: int32 [rows, sample_tokens]."""
    ends = np.asarray(tokens) == end_of_text
    ids = np.zeros(ends.shape, dtype=np.int32)
    np.cumsum(ends[:, :-1], axis=1, out=ids[:, 1:])
    return ids


def document_positions(tokens: Tokens, end_of_text: int) -> npt.NDArray[np.int32]:
    """The place of each token inside its document, or inside what the row has of it: int32, from 0."""
    begins = _begins(tokens, end_of_text)
    places = np.arange(begins.shape[1], dtype=np.int32)
    started = np.maximum.accumulate(np.where(begins, places, 0), axis=1)
    positions: npt.NDArray[np.int32] = (places - started).astype(np.int32)
    return positions


def document_mask(tokens: Tokens, end_of_text: int) -> npt.NDArray[np.bool_]:
    """Which token (second axis) attends to which (third): not to later ones, nor to another document's.

    bool [rows, sample_tokens, sample_tokens], for short samples; for long ones use `attends` or
    `document_cu_seqlens`, which take no memory of that square.
    """
    ids = document_ids(tokens, end_of_text)
    places = np.arange(ids.shape[1])
    mask: npt.NDArray[np.bool_] = (ids[:, :, None] == ids[:, None, :]) & (places[:, None] >= places[None, :])
    return mask


def attends(ids: Any) -> Callable[[Any, Any, Any, Any], Any]:
    """The mask as a function (row, head, query, key) → bool of document ids: torch's `mask_mod`.

    `ids` is what `document_ids` gave, as an array, or as a tensor on the device for
    `torch.nn.attention.flex_attention.create_block_mask`, which then leaves out whole blocks.
    """

    def mask_mod(row: Any, head: Any, query: Any, key: Any) -> Any:
        return (query >= key) & (ids[row, query] == ids[row, key])

    return mask_mod


def document_cu_seqlens(tokens: Tokens, end_of_text: int) -> npt.NDArray[np.int32]:
    """Where each document begins when all rows lie behind each other, and the end: int32 [documents + 1].

    What varlen attention kernels take for the rows as one sequence. A row begins a document of its own.
    Raises OverflowError from 2^31 tokens on.
    """
    if tokens.size > np.iinfo(np.int32).max:
        raise OverflowError("cu_seqlens are 32-bit: a batch of 2^31 tokens or more has none")
    begins = _begins(tokens, end_of_text)
    return np.append(np.flatnonzero(begins), begins.size).astype(np.int32)


def _begins(tokens: Tokens, end_of_text: int) -> npt.NDArray[np.bool_]:
    """Where a document begins, or where a row goes on with one."""
    begins = np.ones(np.shape(tokens), dtype=np.bool_)
    begins[:, 1:] = np.asarray(tokens)[:, :-1] == end_of_text
    return begins
