"""Documents into fixed-length samples, and files into splits. Pure. See docs/design/intake.md, "Packing"."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Final, TypeAlias

import numpy as np

from stoker.intake.source_index import SourceFile
from stoker.intake.tokenizer import END_OF_TEXT_ID

Tokens: TypeAlias = "np.ndarray[Any, np.dtype[Any]]"

_SPLIT_LABEL: Final = b"stoker split 1\0"
_SAMPLE_LABEL: Final = b"stoker tokenizer sample 1\0"


class Packer:
    """Joins the documents of a split into one stream of tokens and cuts it into samples.

    Sample i is tokens[i·S : i·S + S + 1] for sequences of S tokens: neighbours share one token, so that each
    token but the first is predicted exactly once.
    """

    def __init__(self, sequence_tokens: int, dtype: np.dtype[Any]) -> None:
        self._sequence_tokens = sequence_tokens
        self._rest: Tokens = np.empty(0, dtype=dtype)
        self.tokens = 0
        self.samples = 0
        self.padding_tokens = 0
        self.dropped_tokens = 0

    def add(self, tokens: Tokens) -> Tokens:
        """Append tokens; the samples that are now whole, shape (count, S + 1)."""
        self.tokens += len(tokens)
        return self._cut(tokens)

    def finish_padded(self, last: Tokens) -> Tokens:
        """End the stream with `last` and fill the last sample with end of text: nothing is dropped."""
        whole = self.add(last)
        missing = -(len(self._rest) - 1) % self._sequence_tokens if self._needs_more() else 0
        self.padding_tokens = missing
        padded = self._cut(np.full(missing, END_OF_TEXT_ID, dtype=self._rest.dtype))
        return np.concatenate([whole, padded])

    def finish(self) -> None:
        """End the stream; what does not fill a sample is dropped and counted."""
        self.dropped_tokens = len(self._rest) - (1 if self.samples and len(self._rest) else 0)
        self._rest = self._rest[:0]

    def _needs_more(self) -> bool:
        """Whether tokens wait that no sample holds; the one shared with the last sample does not count."""
        return len(self._rest) > (1 if self.samples else 0)

    def _cut(self, tokens: Tokens) -> Tokens:
        stream = np.concatenate([self._rest, tokens]) if len(self._rest) else tokens
        length = self._sequence_tokens
        count = max(0, (len(stream) - 1) // length)
        self._rest = stream[count * length :].copy()
        self.samples += count
        if not count:
            return np.empty((0, length + 1), dtype=self._rest.dtype)
        windows = np.lib.stride_tricks.sliding_window_view(stream[: count * length + 1], length + 1)
        return np.ascontiguousarray(windows[::length])


def split_files(
    files: Sequence[SourceFile], heldout_fraction: float, seed: int
) -> tuple[list[SourceFile], list[SourceFile]]:
    """Files for training and held-out files, each in the order given.

    A file's content and the seed decide, so equal files never stand on both sides and a file stays on its
    side when others come or go. When the fraction picks none, the file that comes nearest is held out; when
    it picks all, the farthest trains. Files that are all equal only train.
    """
    ranks = {file.sha256: _rank(_SPLIT_LABEL, seed, file.sha256) for file in files}
    limit = int(heldout_fraction * 2**64)
    heldout = {digest for digest, rank in ranks.items() if rank < limit}
    if len(ranks) > 1 and not heldout:
        heldout = {min(ranks, key=lambda digest: ranks[digest])}
    elif len(heldout) == len(ranks):
        heldout.discard(max(ranks, key=lambda digest: ranks[digest], default=b""))
    train = [file for file in files if file.sha256 not in heldout]
    return train, [file for file in files if file.sha256 in heldout]


def tokenizer_sample(files: Sequence[SourceFile], sample_bytes: int, seed: int) -> list[SourceFile]:
    """Files to train the tokenizer on: drawn by the hash of their content until they hold `sample_bytes`."""
    drawn = []
    total = 0
    for file in sorted(files, key=lambda file: (_rank(_SAMPLE_LABEL, seed, file.sha256), file.path)):
        if total >= sample_bytes:
            break
        drawn.append(file)
        total += file.size_bytes
    return sorted(drawn, key=lambda file: (file.shard, file.offset))


def _rank(label: bytes, seed: int, sha256: bytes) -> int:
    return int.from_bytes(hashlib.sha256(label + seed.to_bytes(8, "big") + sha256).digest()[:8], "big")
