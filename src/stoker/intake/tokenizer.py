"""Byte-level BPE: trained by `tokenizers`, applied through a memo of words. See docs/design/intake.md.

The tokenizer is an ordinary `tokenizers` JSON; `WordEncoder` gives exactly its token ids, several times
faster, because most words of a text were seen before.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from tokenizers import Tokenizer

END_OF_TEXT: Final = "<|endoftext|>"
END_OF_TEXT_ID: Final = 0

_MAX_WORDS: Final = 1 << 19
"""Words remembered before the memo starts again; about 100 MB at the most."""

_MAX_WORD_CHARACTERS: Final = 256
"""Longer words are not remembered."""

_SEGMENT: Final = re.compile(r"(?<=[!-~])(?=\n)")
"""Between a visible ASCII character and a line's end no word continues, so a text may be cut there."""

_WORDS: Final = re.compile(
    r"'(?:s|t|re|ve|m|ll|d)| ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]+|\s+(?!\S)|\s+", re.ASCII
)
"""GPT-2's word pattern as it reads on plain ASCII, where `\\p{L}` is A-Z and a-z and `\\p{N}` 0-9."""

_PLAIN: Final = re.compile(r"[\t-\r -~]*")
"""ASCII whose whitespace is the same to Python and to the tokenizer's own pattern engine."""


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> str:
    """A byte-level BPE of at most `vocabulary` tokens as `tokenizers` JSON.

    Id 0 is end of text; every byte has a token, so any text encodes and decodes exactly. The same texts in
    the same order give the same JSON.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return str(tokenizer.to_str())


def vocabulary_size(tokenizer_json: str) -> int:
    """How many tokens the tokenizer has: fewer than asked for when the text was too short for more."""
    body = json.loads(tokenizer_json)
    return len(body["model"]["vocab"])


class WordEncoder:
    """Encodes texts as little-endian token ids of `token_bytes` bytes each."""

    def __init__(self, tokenizer_json: str, token_bytes: int) -> None:
        self._tokenizer = load_tokenizer(tokenizer_json)
        self._words = _Memo(self._tokenizer, np.dtype(f"<u{token_bytes}"))

    def encode(self, text: str) -> bytes:
        """The token ids of `text`; a written `<|endoftext|>` is text like any other."""
        words = self._words
        if len(words) > _MAX_WORDS:
            words.clear()
        if _PLAIN.fullmatch(text):
            return b"".join([words[word] for word in _WORDS.findall(text)])
        pieces = []
        for segment in _SEGMENT.split(text):
            if _PLAIN.fullmatch(segment):
                pieces += [words[word] for word in _WORDS.findall(segment)]
            else:
                pieces.append(words[segment])
        return b"".join(pieces)


class _Memo(dict[str, bytes]):
    """Words and, where a line is not plain ASCII, whole lines, with their tokens."""

    def __init__(self, tokenizer: Tokenizer, dtype: np.dtype[Any]) -> None:
        super().__init__()
        self._tokenizer = tokenizer
        self._dtype = dtype

    def __missing__(self, word: str) -> bytes:
        ids = self._tokenizer.encode(word, add_special_tokens=False).ids
        tokens = np.asarray(ids, dtype=self._dtype).tobytes()
        if len(word) <= _MAX_WORD_CHARACTERS:
            self[word] = tokens
        return tokens


def load_tokenizer(tokenizer_json: str) -> Tokenizer:
    """The tokenizer as intake uses it: special tokens written in a text stay text."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(tokenizer_json)
    tokenizer.encode_special_tokens = True
    return tokenizer
