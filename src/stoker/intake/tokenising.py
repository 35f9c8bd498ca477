"""What the tasks of a text preparation make of documents: facts, a choice, a tokenizer, tokens.

Bytes in, bytes out; no keys, no store. See docs/design/intake.md, "Prepare".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from stoker.intake.detect.scan import redact
from stoker.intake.quality.judge import DocumentFacts, Selection, facts_of, select
from stoker.intake.quality.normalise import normalised
from stoker.intake.tokenizer import END_OF_TEXT_ID, WordEncoder, train_tokenizer
from stoker.spec.quality import Normalisation, QualitySpec
from stoker.spec.recipe import Kind


@dataclass(frozen=True, slots=True)
class TrainingSettings:
    """What a training worker needs to know."""

    redact: frozenset[Kind]
    normalise: Normalisation
    vocabulary: int


@dataclass(frozen=True, slots=True)
class EncodingSettings:
    """What an encoding worker needs to know."""

    redact: frozenset[Kind]
    normalise: Normalisation
    tokenizer_json: str
    token_bytes: int


@dataclass(frozen=True, slots=True)
class Documents:
    """The documents of one page by split, in order; `canary` ends the training split on the last page."""

    train: Sequence[bytes]
    heldout: Sequence[bytes]
    canary: bytes | None


@dataclass(frozen=True, slots=True)
class Encoded:
    """Some documents: their tokens, each document followed by end of text, and what was cut."""

    tokens: bytes
    documents: int
    source_bytes: int
    text_bytes: int
    redactions: dict[Kind, int]


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


def start_training(settings: TrainingSettings) -> Callable[[Sequence[bytes]], str]:
    """A function from documents to a tokenizer's JSON."""

    def train(documents: Sequence[bytes]) -> str:
        forms = (normalised(document, settings.normalise) for document in documents)
        texts = (redact(form, settings.redact)[0].decode() for form in forms)
        return train_tokenizer(texts, settings.vocabulary)

    return train


def start_encoding(settings: EncodingSettings) -> Callable[[Documents], EncodedPage]:
    """A function from the documents of a page to their tokens."""
    encoder = WordEncoder(settings.tokenizer_json, settings.token_bytes)
    end = END_OF_TEXT_ID.to_bytes(settings.token_bytes, "little")

    def encode(documents: Sequence[bytes]) -> Encoded:
        pieces: list[bytes] = []
        redactions: dict[Kind, int] = {}
        text_bytes = 0
        for document in documents:
            text, counts = redact(normalised(document, settings.normalise), settings.redact)
            pieces += (encoder.encode(text.decode()), end)
            text_bytes += len(text)
            for kind, count in counts.items():
                redactions[kind] = redactions.get(kind, 0) + count
        source_bytes = sum(len(document) for document in documents)
        return Encoded(b"".join(pieces), len(documents), source_bytes, text_bytes, redactions)

    def encode_page(page: Documents) -> EncodedPage:
        canary = b"" if page.canary is None else encode([page.canary]).tokens
        return EncodedPage(encode(page.train), encode(page.heldout), canary)

    return encode_page
