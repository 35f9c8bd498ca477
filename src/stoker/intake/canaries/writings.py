"""How the letters of a planted value may be written without changing it for a reader. Pure."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping
from typing import Final

_ZERO_WIDTH: Final = "\u200b"
_CONFUSABLE: Final = str.maketrans({"a": "а", "e": "е", "o": "о", "p": "р", "c": "с", "x": "х", "i": "і"})
"""Cyrillic letters that look like Latin ones (Unicode Technical Standard 39, confusables)."""


def plain(text: str) -> str:
    """As it is, in composed letters."""
    return unicodedata.normalize("NFC", text)


def decomposed(text: str) -> str:
    """Accents as characters of their own, as some file systems and programs have them."""
    return unicodedata.normalize("NFD", text)


def full_width(text: str) -> str:
    """Digits and Latin letters as East Asian programs write them."""
    return "".join(chr(ord(letter) + 0xFEE0) if "!" <= letter <= "~" else letter for letter in text)


def zero_width(text: str) -> str:
    """Something that nobody sees after every third letter."""
    return "".join(
        letter + (_ZERO_WIDTH if number % 3 == 2 and number + 1 < len(text) else "")
        for number, letter in enumerate(text)
    )


def confusable(text: str) -> str:
    """Cyrillic letters in the place of those that look the same."""
    return text.translate(_CONFUSABLE)


def no_break(text: str) -> str:
    """Spaces and hyphens that do not break a line."""
    return text.replace(" ", "\u00a0").replace("-", "\u2011")


WRITINGS: Final[Mapping[str, Callable[[str], str]]] = {
    "plain": plain,
    "decomposed": decomposed,
    "no_break": no_break,
    "full_width": full_width,
    "zero_width": zero_width,
    "confusable": confusable,
}
PLAIN_OF: Final = 25
"""Of so many identities, one is written in each of the other ways; the rest are plain."""


def writing_of(number: int) -> str:
    """How the `number`th identity is written."""
    names = list(WRITINGS)
    place = number % PLAIN_OF
    return names[place + 1] if place < len(names) - 1 else names[0]
