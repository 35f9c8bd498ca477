"""Samples, splits and tokenizer samples: pure arithmetic, checked against the plain definition."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.intake.packing import Packer, split_files, tokenizer_sample
from stoker.intake.source_index import SourceFile

DTYPE = np.dtype("<u2")
DOCUMENTS = st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=30), max_size=12)


def pack(documents: list[list[int]], length: int) -> tuple[list[list[int]], Packer]:
    packer = Packer(length, DTYPE)
    samples = [row for document in documents for row in packer.add(np.array(document, DTYPE)).tolist()]
    return samples, packer


@given(DOCUMENTS, st.integers(1, 9))
def test_sample_i_is_the_stream_from_i_times_s_with_one_token_of_overlap(
    documents: list[list[int]], length: int
) -> None:
    samples, packer = pack(documents, length)
    packer.finish()
    stream = [token for document in documents for token in document]
    count = max(0, (len(stream) - 1) // length)
    assert samples == [stream[i * length : i * length + length + 1] for i in range(count)]
    held = count * length + 1 if count else 0
    assert packer.dropped_tokens == len(stream) - held
    assert (packer.samples, packer.tokens) == (count, len(stream))


@given(DOCUMENTS, st.lists(st.integers(1, 9), min_size=2, max_size=20), st.integers(1, 9))
def test_padding_keeps_every_token_to_the_last(
    documents: list[list[int]], last: list[int], length: int
) -> None:
    samples, packer = pack(documents, length)
    samples += packer.finish_padded(np.array(last, DTYPE)).tolist()
    stream = [token for document in documents for token in document] + last
    joined = samples[0][:1] + [token for sample in samples for token in sample[1:]]
    assert joined[: len(stream)] == stream
    assert joined[len(stream) :] == [0] * packer.padding_tokens
    assert packer.padding_tokens < length


def file(name: str, content: str | None = None, size: int = 10) -> SourceFile:
    text = name if content is None else content
    return SourceFile(name, size, hashlib.sha256(text.encode()).digest(), 0, 0)


MANY = [file(f"file-{number}") for number in range(2000)]


def test_the_fraction_is_met_and_everything_is_on_one_side() -> None:
    train, heldout = split_files(MANY, 0.1, 0)
    assert 150 < len(heldout) < 250
    assert sorted(one.path for one in (*train, *heldout)) == sorted(one.path for one in MANY)
    assert train == [one for one in MANY if one in train]


def test_equal_files_stand_on_one_side() -> None:
    copies = [file(f"copy-{number}", f"content-{number % 50}") for number in range(500)]
    train, heldout = split_files(copies, 0.3, 1)
    assert heldout
    assert {one.sha256 for one in train}.isdisjoint({one.sha256 for one in heldout})


def test_a_file_stays_on_its_side_when_others_come() -> None:
    _, few = split_files(MANY[:1000], 0.1, 0)
    _, many = split_files(MANY, 0.1, 0)
    assert {one.path for one in few} <= {one.path for one in many}


def test_another_seed_splits_otherwise() -> None:
    assert split_files(MANY, 0.1, 0) != split_files(MANY, 0.1, 1)


@given(st.integers(2, 12), st.sampled_from([1e-9, 0.5, 1 - 1e-9]), st.integers(0, 50))
def test_two_different_files_always_give_both_sides(count: int, fraction: float, seed: int) -> None:
    train, heldout = split_files([file(str(number)) for number in range(count)], fraction, seed)
    assert train
    assert heldout


@pytest.mark.parametrize("fraction", [1e-9, 0.5, 1 - 1e-9])
def test_files_that_are_all_equal_only_train(fraction: float) -> None:
    copies = [file("a"), file("b", "a")]
    assert split_files(copies, fraction, 0) == (copies, [])


def test_the_tokenizer_sample_stops_when_it_is_large_enough_and_does_not_depend_on_order() -> None:
    drawn = tokenizer_sample(MANY, 95, 0)
    assert len(drawn) == 10
    assert {one.path for one in tokenizer_sample(MANY[::-1], 95, 0)} == {one.path for one in drawn}
    assert len(tokenizer_sample(MANY, 1 << 30, 0)) == len(MANY)
