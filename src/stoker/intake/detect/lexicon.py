"""What is known about a listed word, as flags, and the table of all of them.

See docs/design/detect.md, "Words"."""

from __future__ import annotations

import enum
import functools
import importlib.resources
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from stoker.intake.detect import vocabulary
from stoker.intake.detect.wordtable import LETTER_BYTES, WordTable


class Mark(enum.IntFlag):
    """What a word can be."""

    GIVEN = 1
    SURNAME = 2
    FREQUENT_SURNAME = 4
    PLACE = 8
    PLACE_START = 16  # the first word of a place of several words
    COUNTRY = 32
    COMMON = 64
    NATIONALITY = 128
    MONTH = 256
    WEEKDAY = 512
    TITLE = 1024
    STREET = 2048
    UNIT = 4096
    COMPANY_FORM = 8192
    COMPANY_WORD = 16384
    COMPANY = 32768
    COMPANY_START = 65536
    TECHNICAL = 131072
    OCCUPATION_START = 262144


@dataclass(frozen=True, slots=True)
class Lexicon:
    """The table for arrays, the same as a mapping for single words, and phrases of several words."""

    table: WordTable
    marks: dict[bytes, int]
    phrases: dict[bytes, int]
    heads: frozenset[bytes]
    """The first two words of every phrase: few texts go on as one of them does."""


def _read(name: str) -> list[str]:
    folder = importlib.resources.files("stoker.intake.detect") / "lists"
    return (folder / f"{name}.txt").read_text(encoding="utf-8").split("\n")[:-1]


def fold(word: bytes) -> bytes:
    """ASCII letters in lower case; other bytes as they are."""
    return word.lower()


def _forms(word: str) -> set[bytes]:
    if word.isascii():
        return {word.lower().encode()}
    return {fold(form.encode()) for form in (word, word.lower(), word.upper(), word.capitalize())}


def _only_letters(word: bytes) -> bool:
    return all(byte in LETTER_BYTES for byte in word)


@functools.cache
def lexicon() -> Lexicon:
    """Every list, read once a process."""
    marks: dict[bytes, int] = {}
    phrases: dict[bytes, int] = {}

    def add(words: Iterable[str], mark: Mark, start: Mark | None = None) -> None:
        for word in words:
            parts = word.replace("’", "'").split()
            if len(parts) > 1:
                if start is None:
                    continue
                for form in _forms(" ".join(parts)):
                    phrases[form] = phrases.get(form, 0) | mark
                parts, mark_of = parts[:1], start
            else:
                mark_of = mark
            for form in _forms(parts[0]):
                piece = form.rstrip(b".")
                if not _only_letters(piece):
                    if mark_of == mark:
                        phrases[form] = phrases.get(form, 0) | mark
                    piece = piece.replace(b"-", b"'").split(b"'")[0]
                    if start is None or len(piece) < 3 or not _only_letters(piece):
                        continue
                    mark_here = start
                else:
                    mark_here = mark_of
                marks[piece] = marks.get(piece, 0) | int(mark_here)

    add(_read("common"), Mark.COMMON)
    add(_read("given_names"), Mark.GIVEN)
    add(vocabulary.MORE_GIVEN_NAMES, Mark.GIVEN)
    add(_read("surnames"), Mark.SURNAME)
    add(_read("frequent_surnames"), Mark.FREQUENT_SURNAME)
    add(_read("places"), Mark.PLACE, Mark.PLACE_START)
    add(_read("countries"), Mark.COUNTRY, Mark.PLACE_START)
    add(_read("companies"), Mark.COMPANY, Mark.COMPANY_START)
    add(_read("occupations"), Mark.OCCUPATION_START, Mark.OCCUPATION_START)
    add(vocabulary.NATIONALITIES, Mark.NATIONALITY)
    add((word + "s" for word in vocabulary.NATIONALITIES), Mark.NATIONALITY)
    add(vocabulary.MONTHS, Mark.MONTH)
    add(vocabulary.WEEKDAYS, Mark.WEEKDAY)
    add(vocabulary.TITLES, Mark.TITLE)
    add(vocabulary.STREET_WORDS, Mark.STREET)
    add(vocabulary.UNIT_WORDS | vocabulary.MILITARY | vocabulary.SHIPS, Mark.UNIT)
    add(vocabulary.COMPANY_FORMS, Mark.COMPANY_FORM)
    add(vocabulary.COMPANY_WORDS, Mark.COMPANY_WORD)
    add(vocabulary.CONTINENTS, Mark.COUNTRY)
    add(vocabulary.TECHNICAL, Mark.TECHNICAL)
    heads = frozenset(b" ".join(phrase.split(b" ")[:2]) for phrase in phrases)
    return Lexicon(WordTable(marks), marks, phrases, heads)


NAMES: Final = Mark.GIVEN | Mark.SURNAME
