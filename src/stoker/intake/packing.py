"""Documents into fixed-length samples, and files into splits. Pure. See docs/design/intake.md, "Packing".

The documents of a split are one stream of tokens, each followed by end of text. Sample i is
tokens[i·S : i·S + S + 1] for sequences of S tokens: neighbours share one token, so that each token but the
first is predicted exactly once.
"""

from __future__ import annotations

import fnmatch
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np

from stoker.intake.errors import TooLittleText
from stoker.intake.source_index import SourceFile
from stoker.spec.recipe import RecipeSpec

Tokens: TypeAlias = "np.ndarray[Any, np.dtype[Any]]"

_SPLIT_LABEL: Final = b"stoker split 1\0"
_SAMPLE_LABEL: Final = b"stoker tokenizer sample 1\0"


@dataclass(frozen=True, slots=True)
class Packed:
    """How a stream of `tokens` tokens becomes samples: padded with end of text, or its end dropped."""

    tokens: int
    samples: int
    dropped_tokens: int
    padding_tokens: int


def packed(tokens: int, sequence_tokens: int, *, padded: bool) -> Packed:
    """What becomes of `tokens` tokens. Padded, none is dropped, but a single one is no sample."""
    rest = max(0, tokens - 1)
    samples = -(-rest // sequence_tokens) if padded else rest // sequence_tokens
    held = samples * sequence_tokens + 1 if samples else 0
    return Packed(tokens, samples, 0 if padded else tokens - held, held - tokens if samples and padded else 0)


def cut(stream: Tokens, sequence_tokens: int) -> Tokens:
    """The samples of a stream whose length is one more than a multiple of S, shape (count, S + 1), a view."""
    return np.lib.stride_tricks.sliding_window_view(stream, sequence_tokens + 1)[::sequence_tokens]


def heldout_digests(contents: Iterable[bytes], heldout_fraction: float, seed: int) -> frozenset[bytes]:
    """Which files are held out; `contents` are the SHA-256 of all of them.

    A file's content and the seed decide, so equal files never stand on both sides and a file stays on its
    side when others come or go. When the fraction picks none, the file that comes nearest is held out; when
    it picks all, the farthest trains. Files that are all equal only train.
    """
    ranks = {digest: _rank(_SPLIT_LABEL, seed, digest) for digest in contents}
    limit = int(heldout_fraction * 2**64)
    heldout = {digest for digest, rank in ranks.items() if rank < limit}
    if len(ranks) > 1 and not heldout:
        heldout = {min(ranks, key=lambda digest: ranks[digest])}
    elif len(heldout) == len(ranks):
        heldout.discard(max(ranks, key=lambda digest: ranks[digest], default=b""))
    return frozenset(heldout)


def heldout_of(source: str, files: Sequence[tuple[str, bytes]], recipe: RecipeSpec) -> frozenset[bytes]:
    """The SHA-256 of what a recipe holds out of (path, SHA-256): by content, or by `heldout_paths`.

    What equals a file that is held out is held out with it, wherever it lies. Empty when there are no two
    different files. Raises TooLittleText when paths leave nothing on one side.
    """
    if not recipe.heldout_paths:
        return heldout_digests((digest for _, digest in files), recipe.heldout_fraction, recipe.seed)
    found = frozenset(
        digest
        for path, digest in files
        if any(fnmatch.fnmatchcase(path, pattern) for pattern in recipe.heldout_paths)
    )
    if (files and not found < {digest for _, digest in files}) or not found:
        side = "holds out all" if found else "matches none"
        raise TooLittleText(
            f"heldout_paths {side} of the {len(files)} documents or records of source {source} that stay.",
            hint="Paths are those of `source show`, with * and ?; of records without the extension.",
        )
    return found


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
