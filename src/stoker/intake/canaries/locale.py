"""How people of one country are named and addressed: what a locale of the canaries holds. Plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Locale:
    """How people of one country are named and addressed; `{}` marks a place in a pattern.

    `street` has the place of the street's name and its number, `last_line` of postcode and city; in patterns
    of digits `#` stands for one, `@` for a letter, `%` for a digit from 1 to 9 (see `numbers.fill`).
    """

    language: str
    country: str
    given: tuple[str, ...]
    family: tuple[str, ...]
    syllables: tuple[str, ...]
    endings: tuple[str, ...]
    titles: tuple[str, ...]
    streets: tuple[str, ...]
    street: str
    cities: tuple[str, ...]
    postcode: str
    last_line: str
    phones: tuple[str, ...]
    date: str
    nationality: str
    organisations: tuple[str, ...]
    iban: str
    domain: str
    words: Mapping[str, str]
    sentence: str


def words_of(text: str) -> tuple[str, ...]:
    """Words with blanks between them."""
    return tuple(text.split())


_KEYS: Final = words_of(
    "name email phone address postcode born age title employer nationality city account card id licence ip "
    "mac password position date site"
)


def labels_from(text: str) -> dict[str, str]:
    """Labels with bars between them, by the word of the value that they stand before."""
    labels = [label.strip() for label in text.split("|")]
    return dict(zip(_KEYS, labels, strict=True))
