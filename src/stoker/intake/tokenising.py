"""What the tasks of a text preparation make of documents: facts, a choice, a tokenizer, tokens.

Bytes in, bytes out; no keys, no store. See docs/design/intake.md, "Prepare".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from stoker.intake.quality.judge import DocumentFacts, Selection, facts_of, select
from stoker.intake.tokenizer import END_OF_TEXT_ID, WordEncoder, train_tokenizer
from stoker.spec.quality import QualitySpec


@dataclass(frozen=True, slots=True)
class EncodingSettings:
    """What an encoding worker needs to know."""

    tokenizer_json: str
    token_bytes: int


@dataclass(frozen=True, slots=True)
class Documents:
    """The treated documents of one page by split, in order, and how many bytes they had in the source.

    `canary` ends the training split on the last page; no policy touches it.
    """

    train: Sequence[bytes]
    heldout: Sequence[bytes]
    train_source_bytes: int
    heldout_source_bytes: int
    canary: bytes | None


@dataclass(frozen=True, slots=True)
class Encoded:
    """Some documents: their tokens, each document followed by end of text."""

    tokens: bytes
    documents: int
    source_bytes: int
    text_bytes: int


@dataclass(frozen=True, slots=True)
class EncodedPage:
    """A page's documents by split, and the canary's tokens, which count as no document."""

    train: Encoded
    heldout: Encoded
    canary: bytes


def start_judging(spec: QualitySpec) -> Callable[[Sequence[bytes]], list[DocumentFacts]]:
    """A function from documents to their facts."""
    return lambda documents: [facts_of(document, spec) for document in documents]


def start_selecting(spec: QualitySpec) -> Callable[[Sequence[DocumentFacts]], Selection]:
    """A function from the facts of all documents to those that stay."""
    return lambda facts: select(facts, spec)


def start_training(vocabulary: int) -> Callable[[Sequence[bytes]], str]:
    """A function from treated documents to the JSON of a tokenizer of at most `vocabulary` tokens."""
    return lambda documents: train_tokenizer((each.decode() for each in documents), vocabulary)


def start_encoding(settings: EncodingSettings) -> Callable[[Documents], EncodedPage]:
    """A function from the documents of a page to their tokens."""
    encoder = WordEncoder(settings.tokenizer_json, settings.token_bytes)
    end = END_OF_TEXT_ID.to_bytes(settings.token_bytes, "little")

    def encode(documents: Sequence[bytes], source_bytes: int) -> Encoded:
        pieces: list[bytes] = []
        for document in documents:
            pieces += (encoder.encode(document.decode()), end)
        text_bytes = sum(len(document) for document in documents)
        return Encoded(b"".join(pieces), len(documents), source_bytes, text_bytes)

    def encode_page(page: Documents) -> EncodedPage:
        canary = b"" if page.canary is None else encode([page.canary], 0).tokens
        return EncodedPage(
            encode(page.train, page.train_source_bytes),
            encode(page.heldout, page.heldout_source_bytes),
            canary,
        )

    return encode_page
