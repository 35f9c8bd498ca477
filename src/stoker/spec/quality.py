"""The quality section of a recipe: which documents of a text source stay, and in which form.

Everything is off by default. Meaning of every field: docs/design/quality.md.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator
from dataclasses import dataclass

_LANGUAGE = re.compile(r"[a-z]{2,3}")


class Normalisation(enum.StrEnum):
    """The Unicode form that every document is brought to: Unicode Standard Annex 15."""

    NONE = "none"
    NFC = "nfc"
    NFKC = "nfkc"


@dataclass(frozen=True, slots=True)
class QualitySpec:
    """Steps in this order: normalise, length, repetition, language, exact duplicates, near duplicates.

    A limit of 0, and a fraction of 1.0, judge nothing. Lengths are characters and words of the normalised
    document. `max_duplicate_lines` is the fraction of characters in lines that stood before in the same
    document; `max_top_2gram` … `max_top_4gram` that of the most frequent run of so many words;
    `max_duplicate_5gram` … `max_duplicate_10gram` that of runs of so many words that stood before (Rae et
    al. 2021, "Scaling Language Models", table A1, has limits for web text). `languages` are ISO 639-1 codes
    to keep. `near_duplicates` is the estimated Jaccard similarity of word shingles from which on the later of
    two documents goes; 0 judges nothing.
    """

    normalise: Normalisation = Normalisation.NONE
    min_characters: int = 0
    max_characters: int = 0
    min_words: int = 0
    max_words: int = 0
    max_duplicate_lines: float = 1.0
    max_top_2gram: float = 1.0
    max_top_3gram: float = 1.0
    max_top_4gram: float = 1.0
    max_duplicate_5gram: float = 1.0
    max_duplicate_6gram: float = 1.0
    max_duplicate_7gram: float = 1.0
    max_duplicate_8gram: float = 1.0
    max_duplicate_9gram: float = 1.0
    max_duplicate_10gram: float = 1.0
    tag_language: bool = False
    languages: tuple[str, ...] = ()
    min_language_confidence: float = 0.0
    drop_exact_duplicates: bool = False
    near_duplicates: float = 0.0
    shingle_words: int = 5
    permutations: int = 128

    @property
    def judges_documents(self) -> bool:
        """Whether any step may drop or tag a document: whether the facts of documents are needed at all."""
        return self != QualitySpec(
            normalise=self.normalise, shingle_words=self.shingle_words, permutations=self.permutations
        )

    @property
    def judges_pairs(self) -> bool:
        """Whether a document's fate hangs on the others."""
        return self.drop_exact_duplicates or self.near_duplicates > 0.0

    @property
    def needs_language(self) -> bool:
        """Whether the language of each document is told."""
        return self.tag_language or bool(self.languages)

    def problems(self) -> Iterator[str]:
        """One sentence for each rule that is broken, naming the field and its value."""
        for name in ("min_characters", "max_characters", "min_words", "max_words"):
            if getattr(self, name) < 0:
                yield f"quality.{name} is {getattr(self, name)}; it must be 0 or more."
        for unit in ("characters", "words"):
            low, high = getattr(self, f"min_{unit}"), getattr(self, f"max_{unit}")
            if 0 < high < low:
                yield f"quality.min_{unit} is {low} and quality.max_{unit} {high}: no document is kept."
        for name in (*REPETITION_LIMITS, "min_language_confidence", "near_duplicates"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                yield f"quality.{name} is {getattr(self, name)}; it must be 0 to 1."
        for code in self.languages:
            if _LANGUAGE.fullmatch(code) is None:
                yield f"quality.languages names {code[:20]!a}; a language is a code such as 'en'."
        if self.min_language_confidence > 0.0 and not self.needs_language:
            yield "quality.min_language_confidence needs quality.languages or quality.tag_language."
        if not 1 <= self.shingle_words <= 32:
            yield f"quality.shingle_words is {self.shingle_words}; it must be 1 to 32."
        if not 16 <= self.permutations <= 1024:
            yield f"quality.permutations is {self.permutations}; it must be 16 to 1024."


TOP_NGRAMS = (2, 3, 4)
DUPLICATE_NGRAMS = (5, 6, 7, 8, 9, 10)
REPETITION_LIMITS = (
    "max_duplicate_lines",
    *(f"max_top_{n}gram" for n in TOP_NGRAMS),
    *(f"max_duplicate_{n}gram" for n in DUPLICATE_NGRAMS),
)
