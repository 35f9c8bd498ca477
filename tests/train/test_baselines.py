"""The baselines are real models of their data, and judged on the same bytes as ours."""

from __future__ import annotations

import lzma
import math
import zlib

import numpy as np
import pytest

from stoker.core.clock import ManualClock
from stoker.train.baselines import BigramModel, evaluate_compressors, modified_discounts
from stoker.train.evaluate import Evaluation, NothingToEvaluate
from stoker.train.token_bytes import TokenBytes
from support.ranks import run_ranks
from support.token_splits import TokenSplit

VOCABULARY = 32
TABLE = TokenBytes((b"", *(bytes([96 + token]) * (1 + token % 3) for token in range(1, VOCABULARY))))


def chain(count: int, seed: int) -> list[int]:
    """A stream in which each token strongly suggests the next."""
    generator = np.random.default_rng(seed)
    tokens = [1]
    while len(tokens) < count:
        sure = generator.random() < 0.8
        tokens.append((tokens[-1] * 5 + 3) % VOCABULARY if sure else int(generator.integers(VOCABULARY)))
    return tokens


TRAIN = TokenSplit.pack(chain(5000, 1), 16)
HELDOUT = TokenSplit.pack(chain(1200, 2), 16)


def test_the_probabilities_after_every_token_sum_to_one() -> None:
    model = BigramModel.count(TokenSplit.pack(chain(300, 1), 16), VOCABULARY)
    every = np.arange(VOCABULARY)
    for before in range(VOCABULARY):
        chances = model.probability(np.full(VOCABULARY, before), every)
        assert chances.min() > 0.0
        assert chances.sum() == pytest.approx(1.0, abs=1e-12)


def test_a_bigram_of_nothing_is_uniform() -> None:
    model = BigramModel(np.empty(0, np.int64), np.empty(0, np.int64), VOCABULARY)
    chances = model.probability(np.zeros(VOCABULARY, np.int64), np.arange(VOCABULARY))
    np.testing.assert_allclose(chances, 1.0 / VOCABULARY)


def test_the_bigram_comes_near_the_entropy_of_a_chain_of_pairs() -> None:
    found = BigramModel.count(TRAIN, VOCABULARY).evaluate(HELDOUT, TABLE, clock=ManualClock())
    sure = 0.8 + 0.2 / VOCABULARY
    other = 0.2 / VOCABULARY
    entropy = -(sure * math.log2(sure) + (VOCABULARY - 1) * other * math.log2(other))
    assert found.bits_per_byte * found.bytes / found.tokens == pytest.approx(entropy, abs=0.25)
    assert found.tokens == HELDOUT.samples * 16
    assert found.bytes == len(TABLE.decode(HELDOUT.rows[:, 1:]))


def test_discounts_follow_from_how_many_pairs_are_rare() -> None:
    counts = np.repeat([1, 2, 3, 4, 9], [40, 20, 10, 5, 7]).astype(np.int64)
    share = 40 / (40 + 2 * 20)
    expected = [0.0, 1 - 2 * share * 20 / 40, 2 - 3 * share * 10 / 20, 3 - 4 * share * 5 / 10]
    np.testing.assert_allclose(modified_discounts(counts), expected)


def test_two_ranks_count_what_one_counts_and_each_reads_its_own_chunks() -> None:
    def count(rank: int) -> tuple[Evaluation, list[int]]:
        train = TokenSplit(TRAIN.rows)
        model = BigramModel.count(train, VOCABULARY)
        return model.evaluate(HELDOUT, TABLE, clock=ManualClock()), train.chunks_read

    (alone, _), *_ = run_ranks(1, count)
    by_rank = run_ranks(2, count)
    for found, _ in by_rank:
        assert found.bits_per_byte == pytest.approx(alone.bits_per_byte, rel=1e-12)
        assert (found.bytes, found.tokens) == (alone.bytes, alone.tokens)
    assert not set(by_rank[0][1]) & set(by_rank[1][1])


def test_compressors_pack_the_bytes_of_all_predicted_tokens_as_one_stream() -> None:
    zlib_9, xz = evaluate_compressors(HELDOUT, TABLE, clock=ManualClock())
    data = TABLE.decode(HELDOUT.rows[:, 1:])
    packed = lzma.compress(data, preset=9 | lzma.PRESET_EXTREME)
    assert (zlib_9.name, xz.name) == ("zlib-9", "xz")
    assert zlib_9.bytes == xz.bytes == len(data)
    assert zlib_9.bits_per_byte == pytest.approx(8 * len(zlib.compress(data, 9)) / len(data), rel=1e-3)
    assert xz.bits_per_byte == pytest.approx(8 * len(packed) / len(data), rel=1e-3)


def test_compressors_give_every_rank_the_same_figures() -> None:
    by_rank = run_ranks(2, lambda rank: evaluate_compressors(HELDOUT, TABLE, clock=ManualClock()))
    assert by_rank[0] == by_rank[1] == evaluate_compressors(HELDOUT, TABLE, clock=ManualClock())


def test_a_split_without_bytes_is_named() -> None:
    silent = TokenSplit(np.zeros((3, 17), dtype=np.uint16))
    with pytest.raises(NothingToEvaluate, match="48 predicted tokens that stand for 0 bytes"):
        BigramModel.count(TRAIN, VOCABULARY).evaluate(silent, TABLE, clock=ManualClock())
