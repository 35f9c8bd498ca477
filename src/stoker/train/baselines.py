"""What a model must beat, and what it is shown beside: a token bigram model; zlib and xz on the same bytes.

See docs/design/train-model.md. Nothing here needs the model; counting is numpy.
"""

from __future__ import annotations

import lzma
import zlib
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from stoker.core.clock import Clock
from stoker.core.events import Section
from stoker.feed.source import SampleSplit
from stoker.train.evaluate import Evaluation, finish_evaluation, own_chunks, rank_and_world
from stoker.train.objectives.gather import gather_rows
from stoker.train.step import no_section
from stoker.train.token_bytes import TokenBytes

Counts = npt.NDArray[np.int64]
Reals = npt.NDArray[np.float64]


class BigramModel:
    """Interpolated Kneser-Ney with modified discounts (Chen & Goodman 1998), over pairs of tokens.

    p(w | v) = max(c(vw) - D(c(vw)), 0) / c(v) + b(v) q(w), where q(w) is how many different tokens precede w,
    discounted the same way over a uniform floor. The discounts D follow from the training counts alone.
    """

    def __init__(self, pairs: Counts, counts: Counts, vocabulary: int) -> None:
        """`pairs` are v · vocabulary + w, ascending and different; `counts` how often each occurs."""
        self._vocabulary = vocabulary
        self._pairs = pairs
        before, after = np.divmod(pairs, vocabulary)
        totals = np.bincount(before, weights=counts, minlength=vocabulary)
        discounts = modified_discounts(counts)[np.minimum(counts, 3)]
        self._direct: Reals = (counts - discounts) / np.maximum(totals, 1.0)[before]
        freed = np.bincount(before, weights=discounts, minlength=vocabulary)
        # A token that never came before another leaves all to the lower order.
        self._backed_off: Reals = np.where(totals > 0, freed / np.maximum(totals, 1.0), 1.0)
        self._lower = _lower_order(np.bincount(after, minlength=vocabulary))

    @classmethod
    def count(
        cls,
        split: SampleSplit,
        vocabulary: int,
        *,
        section: Callable[[Section], None] = no_section,
    ) -> BigramModel:
        """Count every pair of the training split; each rank its own chunks, the sum on all."""
        rank, world_size = rank_and_world()
        pairs, counts = np.empty(0, np.int64), np.empty(0, np.int64)
        held: list[Counts] = []
        for chunk in own_chunks(split, rank, world_size):
            section(Section.EVALUATE)
            rows = split.read_chunk(chunk).astype(np.int64)
            held.append((rows[:, :-1] * vocabulary + rows[:, 1:]).ravel())
            if sum(len(piece) for piece in held) > 4_000_000:
                pairs, counts = _merge(pairs, counts, *np.unique(np.concatenate(held), return_counts=True))
                held = []
        if held:
            pairs, counts = _merge(pairs, counts, *np.unique(np.concatenate(held), return_counts=True))
        return cls(*_over_ranks(pairs, counts), vocabulary)

    def probability(self, before: npt.NDArray[Any], after: npt.NDArray[Any]) -> Reals:
        """p(after | before), element by element."""
        wanted = before.astype(np.int64) * self._vocabulary + after.astype(np.int64)
        found: Reals = self._backed_off[before] * self._lower[after]
        if len(self._pairs):
            place = np.minimum(np.searchsorted(self._pairs, wanted), len(self._pairs) - 1)
            found += np.where(self._pairs[place] == wanted, self._direct[place], 0.0)
        return found

    def evaluate(
        self,
        split: SampleSplit,
        token_bytes: TokenBytes,
        *,
        clock: Clock,
        section: Callable[[Section], None] = no_section,
    ) -> Evaluation:
        """Bits per byte over the tokens that the model is judged on; each rank its own chunks."""
        begun_s = clock.monotonic_s()
        bits, counted_bytes, counted_tokens = 0.0, 0, 0
        for chunk in own_chunks(split, *rank_and_world()):
            section(Section.EVALUATE)
            rows = split.read_chunk(chunk)
            bits -= float(np.log2(self.probability(rows[:, :-1], rows[:, 1:])).sum())
            counted_bytes += token_bytes.count(rows[:, 1:])
            counted_tokens += rows[:, 1:].size
        return finish_evaluation("bigram", bits, counted_bytes, counted_tokens, begun_s=begun_s, clock=clock)


def modified_discounts(counts: Counts) -> Reals:
    """D(0), D(1), D(2), D(3 and more), from how many pairs occur once, twice, three and four times.

    Chen & Goodman 1998, equation 26. Where too few pairs tell (a tiny split), half a count.
    """
    once, twice, thrice, four = (int(np.count_nonzero(counts == number)) for number in (1, 2, 3, 4))
    if not (once and twice and thrice and four):
        return np.array([0.0, 0.5, 0.5, 0.5])
    share = once / (once + 2 * twice)
    found = [1 - 2 * share * twice / once, 2 - 3 * share * thrice / twice, 3 - 4 * share * four / thrice]
    return np.array([0.0, *np.clip(found, 0.05, [0.95, 1.9, 2.9])])


def _lower_order(contexts: Counts) -> Reals:
    """q(w): from the number of different tokens before w, over a uniform floor."""
    vocabulary = len(contexts)
    total = int(contexts.sum())
    if not total:
        return np.full(vocabulary, 1.0 / vocabulary)
    discounts = modified_discounts(contexts)[np.minimum(contexts, 3)]
    found: Reals = (contexts - discounts) / total + discounts.sum() / total / vocabulary
    return found


def _merge(pairs: Counts, counts: Counts, more: Counts, more_counts: Counts) -> tuple[Counts, Counts]:
    joined, places = np.unique(np.concatenate([pairs, more]), return_inverse=True)
    summed = np.zeros(len(joined), np.int64)
    np.add.at(summed, places, np.concatenate([counts, more_counts]))
    return joined, summed


def _over_ranks(pairs: Counts, counts: Counts) -> tuple[Counts, Counts]:
    if rank_and_world()[1] == 1:
        return pairs, counts
    everyones = gather_rows(torch.from_numpy(np.stack((pairs, counts), axis=1))).numpy()
    nothing = np.empty(0, np.int64)
    return _merge(nothing, nothing, everyones[:, 0], everyones[:, 1])


class _Compressor(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...

    def flush(self) -> bytes: ...


def evaluate_compressors(
    split: SampleSplit,
    token_bytes: TokenBytes,
    *,
    clock: Clock,
    section: Callable[[Section], None] = no_section,
) -> tuple[Evaluation, ...]:
    """zlib -9 and xz (preset 9, extreme) over the bytes of all predicted tokens, as one stream each.

    Only rank 0 reads and packs, since a stream has one order; every rank calls this and gets the figures.
    """
    packers: dict[str, _Compressor] = {
        "zlib-9": zlib.compressobj(9),
        "xz": lzma.LZMACompressor(preset=9 | lzma.PRESET_EXTREME),
    }
    packed = dict.fromkeys(packers, 0)
    spent_s = dict.fromkeys(packers, 0.0)
    counted_bytes, counted_tokens = 0, 0
    for chunk in own_chunks(split, 0, 1) if rank_and_world()[0] == 0 else ():
        rows = split.read_chunk(chunk)[:, 1:]
        data = token_bytes.decode(rows)
        counted_bytes += len(data)
        counted_tokens += rows.size
        for name, packer in packers.items():
            section(Section.EVALUATE)
            begun_s = clock.monotonic_s()
            packed[name] += len(packer.compress(data))
            spent_s[name] += clock.monotonic_s() - begun_s
    found = []
    for name, packer in packers.items():
        section(Section.EVALUATE)
        begun_s = clock.monotonic_s() - spent_s[name]
        if counted_bytes:
            packed[name] += len(packer.flush())
        found.append(
            finish_evaluation(
                name, 8.0 * packed[name], counted_bytes, counted_tokens, begun_s=begun_s, clock=clock
            )
        )
    return tuple(found)
