"""The tokenizer: deterministic, exact on bytes, and the fast encoder gives the library's own ids."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stoker.intake.tokenizer import (
    END_OF_TEXT,
    END_OF_TEXT_ID,
    WordEncoder,
    load_tokenizer,
    train_tokenizer,
    vocabulary_size,
)

TEXTS = [
    "def add(first, second):\n    return first + second  # it's what they've said, isn't it?\n" * 20,
    "Über den Wolken — 12 345 Äpfel, naïve café ½ ² 数学 \u00a0\u2003 end\n" * 20,
]


@cache
def trained() -> str:
    return train_tokenizer(TEXTS, 400)


def ids(text: str, width: int = 2) -> list[int]:
    return np.frombuffer(WordEncoder(trained(), width).encode(text), f"<u{width}").tolist()


LETTERS = list("\n\t\x0b\x1c\x85\u2028\u00a0é½²٣数_9a-\x00")
GROUPS = [
    "def ",
    "  ",
    "\n\n",
    "\r\n",
    "'s",
    "'LL",
    "n't",
    " '",
    "e\u0301",
    "\U0001f600",
    " 9",
    " a",
    " .",
    "--",
]
PIECES = st.sampled_from([*LETTERS, *GROUPS, END_OF_TEXT])


@settings(max_examples=500, deadline=None)
@given(st.lists(st.one_of(PIECES, st.text(max_size=6)), max_size=20).map("".join))
def test_the_fast_encoder_gives_exactly_the_librarys_ids_and_text_comes_back(text: str) -> None:
    library = load_tokenizer(trained())
    assert ids(text) == library.encode(text, add_special_tokens=False).ids
    assert library.decode(ids(text), skip_special_tokens=False) == text


def test_a_memo_that_was_cleared_and_long_words_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stoker.intake.tokenizer._MAX_WORDS", 3)
    encoder = WordEncoder(trained(), 2)
    text = "one two three four five " + "x" * 1000 + "\n"
    assert encoder.encode(text) == encoder.encode(text) == WordEncoder(trained(), 2).encode(text)


def test_the_same_texts_give_the_same_tokenizer() -> None:
    assert train_tokenizer(TEXTS, 400) == train_tokenizer(iter(TEXTS), 400) == trained()


def test_end_of_text_is_id_0_and_never_comes_from_a_text() -> None:
    library = load_tokenizer(trained())
    assert library.token_to_id(END_OF_TEXT) == END_OF_TEXT_ID == 0
    assert END_OF_TEXT_ID not in ids(f"a{END_OF_TEXT}b")


def test_every_byte_has_a_token_whatever_the_text_was() -> None:
    tiny = train_tokenizer(["a"], 257)
    assert vocabulary_size(tiny) == 257
    text = "".join(map(chr, range(0x250)))
    encoded = np.frombuffer(WordEncoder(tiny, 2).encode(text), "<u2").tolist()
    assert load_tokenizer(tiny).decode(encoded, skip_special_tokens=False) == text


def test_a_short_text_gives_fewer_tokens_than_asked_for() -> None:
    assert 257 < vocabulary_size(trained()) <= 400
    assert vocabulary_size(train_tokenizer(["ab ab"], 5000)) < 300


def test_wide_tokens_hold_the_same_ids() -> None:
    assert ids("def add", 4) == ids("def add", 2)
