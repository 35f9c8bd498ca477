"""What each document is by itself, and then which documents stay. See docs/design/quality.md."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from stoker.intake.errors import UnknownLanguage
from stoker.intake.quality.duplicates import exact_digest, near_duplicates, signature
from stoker.intake.quality.language import known_languages, language_of
from stoker.intake.quality.normalise import normalised
from stoker.intake.quality.repetition import duplicate_lines, duplicate_ngrams, top_ngram
from stoker.spec.quality import DUPLICATE_NGRAMS, TOP_NGRAMS, QualitySpec


class Dropped(enum.StrEnum):
    """Why a document goes: the first of the steps that refuses it."""

    TOO_SHORT = "too_short"
    TOO_LONG = "too_long"
    REPETITIVE = "repetitive"
    OTHER_LANGUAGE = "other_language"
    EXACT_DUPLICATE = "exact_duplicate"
    NEAR_DUPLICATE = "near_duplicate"


@dataclass(frozen=True, slots=True)
class DocumentFacts:
    """A document as the steps see it. `digest` and `sketch` are empty where no step compares documents.

    `language` is empty where languages are not told.
    """

    dropped: Dropped | None
    language: str
    digest: bytes
    sketch: bytes


@dataclass(frozen=True, slots=True)
class Selection:
    """For each document in order why it goes, None where it stays; and the counts for the report."""

    dropped: tuple[Dropped | None, ...]
    counts: Mapping[Dropped, int]
    languages: Mapping[str, int]
    """Kept documents by language; empty where languages are not told."""


def check_languages(spec: QualitySpec) -> None:
    """Raise UnknownLanguage when a language to keep cannot be told, MissingExtra without py3langid."""
    if spec.languages and (unknown := sorted(set(spec.languages) - known_languages())):
        raise UnknownLanguage(
            f"quality.languages names {', '.join(unknown)}, which cannot be told.",
            hint=f"Known are: {', '.join(sorted(known_languages()))}.",
        )


def facts_of(document: bytes, spec: QualitySpec) -> DocumentFacts:
    """What one UTF-8 document is. A document that a step drops is not looked at by the later ones."""
    data = normalised(document, spec.normalise)
    text = data.decode()
    words = text.split()
    dropped = _by_length(text, words, spec) or _by_repetition(text, words, spec)
    language = ""
    if dropped is None and spec.needs_language:
        language, confidence = language_of(text)
        if spec.languages and (language not in spec.languages or confidence < spec.min_language_confidence):
            dropped = Dropped.OTHER_LANGUAGE
        elif confidence < spec.min_language_confidence:
            language = "und"
    if dropped is not None:
        return DocumentFacts(dropped, language, b"", b"")
    return DocumentFacts(
        None,
        language,
        exact_digest(data) if spec.judges_pairs else b"",
        signature(words, shingle_words=spec.shingle_words, permutations=spec.permutations)
        if spec.near_duplicates > 0.0
        else b"",
    )


def select(facts: Iterable[DocumentFacts], spec: QualitySpec) -> Selection:
    """Which documents stay, told from the facts of all of them in order. Of equals the first stays."""
    every = tuple(facts)
    dropped: list[Dropped | None] = [each.dropped for each in every]
    if spec.drop_exact_duplicates:
        _drop_exact(every, dropped)
    if spec.near_duplicates > 0.0:
        _drop_near(every, dropped, spec)
    counts = {reason: dropped.count(reason) for reason in Dropped if reason in dropped}
    languages: dict[str, int] = {}
    for each, reason in zip(every, dropped, strict=True):
        if reason is None and each.language:
            languages[each.language] = languages.get(each.language, 0) + 1
    return Selection(tuple(dropped), counts, dict(sorted(languages.items())))


def _by_length(text: str, words: Sequence[str], spec: QualitySpec) -> Dropped | None:
    if len(text) < spec.min_characters or len(words) < spec.min_words:
        return Dropped.TOO_SHORT
    if 0 < spec.max_characters < len(text) or 0 < spec.max_words < len(words):
        return Dropped.TOO_LONG
    return None


def _by_repetition(text: str, words: Sequence[str], spec: QualitySpec) -> Dropped | None:
    """Measures only what has a limit: each takes time in proportion to the document."""
    limits: list[tuple[float, Callable[[], float]]] = [
        (spec.max_duplicate_lines, partial(duplicate_lines, text)),
        *((getattr(spec, f"max_top_{n}gram"), partial(top_ngram, words, n)) for n in TOP_NGRAMS),
        *(
            (getattr(spec, f"max_duplicate_{n}gram"), partial(duplicate_ngrams, words, n))
            for n in DUPLICATE_NGRAMS
        ),
    ]
    if any(limit < 1.0 and measure() > limit for limit, measure in limits):
        return Dropped.REPETITIVE
    return None


def _drop_exact(every: Sequence[DocumentFacts], dropped: list[Dropped | None]) -> None:
    seen: set[bytes] = set()
    for number, each in enumerate(every):
        if dropped[number] is None:
            if each.digest in seen:
                dropped[number] = Dropped.EXACT_DUPLICATE
            seen.add(each.digest)


def _drop_near(every: Sequence[DocumentFacts], dropped: list[Dropped | None], spec: QualitySpec) -> None:
    kept = [number for number, reason in enumerate(dropped) if reason is None]
    originals = near_duplicates(
        (every[number].sketch for number in kept), spec.near_duplicates, spec.permutations
    )
    for number, original in zip(kept, originals, strict=True):
        if original is not None:
            dropped[number] = Dropped.NEAR_DUPLICATE
