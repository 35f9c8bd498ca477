"""The bytes that each token stands for, so that loss per token becomes bits per byte, for any vocabulary.

Read from the sealed tokenizer artefact (Hugging Face `tokenizers` JSON with a byte-level BPE). See
docs/design/train-model.md.
"""

from __future__ import annotations

import json
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from stoker.core.errors import StokerError

MAX_TOKENIZER_BYTES: Final = 64 * 1024 * 1024


class BadTokenizer(StokerError):
    """A tokenizer artefact that is not the JSON of a byte-level BPE."""

    exit_code = 122


class TokenBytes:
    """`table[id]` is what token `id` decodes to; special tokens stand for no bytes."""

    def __init__(self, table: tuple[bytes, ...]) -> None:
        self.table = table
        self.lengths: npt.NDArray[np.int64] = np.array([len(token) for token in table], dtype=np.int64)

    @classmethod
    def parse(cls, tokenizer: bytes | bytearray) -> TokenBytes:
        """The table of a tokenizer artefact. Raises BadTokenizer."""
        if len(tokenizer) > MAX_TOKENIZER_BYTES:
            raise BadTokenizer(
                f"The tokenizer takes {len(tokenizer)} bytes; at most {MAX_TOKENIZER_BYTES} are allowed."
            )
        try:
            body: Any = json.loads(tokenizer)
            vocabulary = {str(text): int(number) for text, number in body["model"]["vocab"].items()}
            special = {int(token["id"]) for token in body["added_tokens"] if token["special"]}
        except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
            raise BadTokenizer(f"The tokenizer artefact is not tokenizers JSON ({error!r}).") from error
        ids = set(vocabulary.values()) | special
        if ids != set(range(len(ids))):
            raise BadTokenizer(f"The tokenizer's {len(ids)} token ids do not run from 0 to {len(ids) - 1}.")
        byte_of = {letter: byte for byte, letter in byte_letters().items()}
        table = [b""] * len(ids)
        for text, number in vocabulary.items():
            if number in special:
                continue
            try:
                table[number] = bytes(byte_of[letter] for letter in text)
            except KeyError as error:
                raise BadTokenizer(f"Token {number} holds {error}, no letter of a byte-level BPE.") from error
        return cls(tuple(table))

    def decode(self, tokens: npt.NDArray[Any]) -> bytes:
        """The bytes that `tokens`, of any shape, stand for, in order."""
        table = self.table
        return b"".join([table[token] for token in tokens.ravel().tolist()])

    def count(self, tokens: npt.NDArray[Any]) -> int:
        """How many bytes `tokens` stand for."""
        return int(self.lengths[tokens].sum())


def byte_letters() -> dict[int, str]:
    """The printable letter that byte-level BPE writes for each byte (GPT-2's table)."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    letters = {byte: chr(byte) for byte in shown}
    hidden = [byte for byte in range(256) if byte not in letters]
    letters.update({byte: chr(256 + place) for place, byte in enumerate(hidden)})
    return letters
