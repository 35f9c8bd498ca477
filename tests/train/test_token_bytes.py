"""The bytes behind tokens, from what `tokenizers` writes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from stoker.train.token_bytes import BadTokenizer, TokenBytes, byte_letters

TEXT = "def größe(x):\n\treturn 'naïve ☃'  # 中文 \x00 end\r\n" * 3


def trained() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    return tokenizer


def test_tokens_of_a_text_stand_for_exactly_its_bytes() -> None:
    tokenizer = trained()
    table = TokenBytes.parse(tokenizer.to_str().encode())
    tokens = np.array(tokenizer.encode(TEXT).ids)
    assert table.decode(tokens) == TEXT.encode()
    assert table.count(tokens) == len(TEXT.encode())


def test_the_special_token_stands_for_no_bytes() -> None:
    table = TokenBytes.parse(trained().to_str().encode())
    assert table.table[0] == b""
    assert table.decode(np.array([0, 0])) == b""


def test_letters_are_those_of_the_library() -> None:
    assert set(byte_letters().values()) == set(pre_tokenizers.ByteLevel.alphabet())


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (b"\xff not json", "not tokenizers JSON"),
        (b"[]", "not tokenizers JSON"),
        (b'{"model": {"vocab": {"a": "x"}}, "added_tokens": []}', "not tokenizers JSON"),
        (b'{"model": {"vocab": {"a": 0, "b": 2}}, "added_tokens": []}', "do not run from 0 to 1"),
        (json.dumps({"model": {"vocab": {" ": 0}}, "added_tokens": []}).encode(), "no letter"),
    ],
)
def test_an_artefact_that_is_not_a_byte_level_tokenizer_is_refused(broken: bytes, message: str) -> None:
    with pytest.raises(BadTokenizer, match=message):
        TokenBytes.parse(broken)
