"""The language of a document, by py3langid's n-gram classifier (docs/decisions/0440-py3langid.md)."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Final

from stoker.core.errors import MissingExtra

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

JUDGED_CHARACTERS: Final = 10_000
"""Of a long document only its beginning is looked at: that settles the language, and bounds the time."""


@cache
def _identifier() -> LanguageIdentifier:
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ModuleNotFoundError as error:
        raise MissingExtra(
            "Telling languages apart needs the package py3langid.",
            hint="Install the extra 'data' from Stoker's clone: pip install '.[data]'",
        ) from error
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def known_languages() -> frozenset[str]:
    """The codes that `language_of` can answer. Raises MissingExtra."""
    return frozenset(_identifier().labels)


def language_of(text: str) -> tuple[str, float]:
    """The ISO 639 code of the likeliest language, and its probability to four places. Raises MissingExtra."""
    code, confidence = _identifier().classify(text[:JUDGED_CHARACTERS])
    return str(code), round(float(confidence), 4)
