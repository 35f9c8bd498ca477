"""What the workers of a preparation do: train a tokenizer on redacted text, redact and encode documents.

Bytes in, bytes out; no keys, no store. See docs/design/intake.md, "Prepare".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from stoker.intake.scan import redact
from stoker.intake.tokenizer import END_OF_TEXT_ID, WordEncoder, train_tokenizer
from stoker.spec.recipe import Kind

TASK_BYTES: Final = 1 << 19
"""About how many bytes of documents one task holds."""


@dataclass(frozen=True, slots=True)
class TrainingSettings:
    """What a training worker needs to know."""

    redact: frozenset[Kind]
    vocabulary: int


@dataclass(frozen=True, slots=True)
class EncodingSettings:
    """What an encoding worker needs to know."""

    redact: frozenset[Kind]
    tokenizer_json: str
    token_bytes: int


@dataclass(frozen=True, slots=True)
class Encoded:
    """The documents of one task: their tokens, each document followed by end of text, and what was cut."""

    tokens: bytes
    documents: int
    source_bytes: int
    text_bytes: int
    redactions: dict[Kind, int]


def start_training(settings: TrainingSettings) -> Callable[[list[bytes]], str]:
    """A function from documents to a tokenizer's JSON."""

    def train(documents: list[bytes]) -> str:
        texts = (redact(document, settings.redact)[0].decode() for document in documents)
        return train_tokenizer(texts, settings.vocabulary)

    return train


def start_encoding(settings: EncodingSettings) -> Callable[[list[bytes]], Encoded]:
    """A function from documents to their tokens."""
    encoder = WordEncoder(settings.tokenizer_json, settings.token_bytes)
    end = END_OF_TEXT_ID.to_bytes(settings.token_bytes, "little")

    def encode(documents: list[bytes]) -> Encoded:
        pieces: list[bytes] = []
        redactions: dict[Kind, int] = {}
        text_bytes = 0
        for document in documents:
            text, counts = redact(document, settings.redact)
            pieces += (encoder.encode(text.decode()), end)
            text_bytes += len(text)
            for kind, count in counts.items():
                redactions[kind] = redactions.get(kind, 0) + count
        source_bytes = sum(len(document) for document in documents)
        return Encoded(b"".join(pieces), len(documents), source_bytes, text_bytes, redactions)

    return encode
