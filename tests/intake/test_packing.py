"""Samples, splits and tokenizer samples: pure arithmetic, checked against the plain definition."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.intake.errors import TooLittleText
from stoker.intake.packing import cut, heldout_digests, heldout_of, packed, tokenizer_sample
from stoker.intake.source_index import SourceFile
from stoker.spec.recipe import RecipeSpec


@given(st.integers(0, 200), st.integers(1, 9))
def test_sample_i_is_the_stream_from_i_times_s_with_one_token_of_overlap(tokens: int, length: int) -> None:
    made = packed(tokens, length, padded=False)
    stream = np.arange(tokens)
    expected = [stream[i : i + length + 1].tolist() for i in range(0, max(0, tokens - length), length)]
    held = made.samples * length + 1 if made.samples else 0
    assert made.samples == len(expected)
    assert (made.tokens, made.dropped_tokens, made.padding_tokens) == (tokens, tokens - held, 0)
    if made.samples:
        assert cut(stream[:held], length).tolist() == expected


@given(st.integers(2, 200), st.integers(1, 9))
def test_padding_keeps_every_token_to_the_last(tokens: int, length: int) -> None:
    made = packed(tokens, length, padded=True)
    assert made.samples * length + 1 == tokens + made.padding_tokens
    assert 0 <= made.padding_tokens < length
    assert made.dropped_tokens == 0


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("tokens", [0, 1])
def test_no_token_and_one_token_are_no_sample(tokens: int, padded: bool) -> None:
    made = packed(tokens, 4, padded=padded)
    assert (made.samples, made.padding_tokens) == (0, 0)
    assert made.dropped_tokens == (0 if padded else tokens)


def split_files(
    files: list[SourceFile], fraction: float, seed: int
) -> tuple[list[SourceFile], list[SourceFile]]:
    heldout = heldout_digests([one.sha256 for one in files], fraction, seed)
    train = [one for one in files if one.sha256 not in heldout]
    return train, [one for one in files if one.sha256 in heldout]


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


def places(*files: SourceFile) -> list[tuple[str, bytes]]:
    return [(one.path, one.sha256) for one in files]


def test_paths_hold_out_what_matches_and_what_equals_it() -> None:
    early, late, copy = file("early/1.txt"), file("late/1.txt"), file("early/copy.txt", "late/1.txt")
    found = heldout_of("s", places(early, late, copy), RecipeSpec(heldout_paths=("late/*", "no/*")))
    assert found == {late.sha256} == {copy.sha256}
    by_content = heldout_of("s", places(early, late, copy), RecipeSpec())
    assert by_content == heldout_digests(
        [one.sha256 for one in (early, late, copy)], RecipeSpec().heldout_fraction, 0
    )


@pytest.mark.parametrize(("pattern", "said"), [("Late/*", "matches none"), ("*", "holds out all")])
def test_paths_that_leave_one_side_empty_are_refused(pattern: str, said: str) -> None:
    files = places(file("early/1.txt"), file("late/1.txt"))
    with pytest.raises(TooLittleText, match=f"heldout_paths {said} of the 2 "):
        heldout_of("s", files, RecipeSpec(heldout_paths=(pattern,)))


def test_an_empty_pattern_is_refused() -> None:
    assert list(RecipeSpec(heldout_paths=("",)).problems()) == [
        'heldout_paths holds an empty pattern; name a path such as "later/*".'
    ]
