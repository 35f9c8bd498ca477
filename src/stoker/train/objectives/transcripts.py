"""Transcripts as symbols, read out of a model's answers, and how far two are apart. See families.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from stoker.spec.speech import SpeechSpec, Units
from stoker.train.objectives.objective import UnfitBatch

Symbol = TypeVar("Symbol")


def spell(text: str, spec: SpeechSpec) -> list[int]:
    """The symbols of a transcript, by their numbers; capitals are written small when only those are symbols.

    Raises UnfitBatch, naming the symbol, when one is none of the model's. A transcript may be personal: no
    more of it is told.
    """
    numbers = {symbol: number for number, symbol in enumerate(spec.symbols)}
    found = []
    for place, piece in enumerate(pieces_of(text, spec.units)):
        number = number_of(piece, numbers)
        if number is None:
            kind = "word" if spec.units is Units.WORDS else "character"
            raise UnfitBatch(
                f"A transcript's {kind} number {place} is none of the model's {len(numbers)} symbols.",
                hint="Add what is missing to speech.symbols, or leave such records out in preparation.",
            )
        found.append(number)
    return found


def pieces_of(text: str, units: Units) -> list[str]:
    """The words of a transcript, or its characters; runs of blanks are one."""
    return text.split() if units is Units.WORDS else list(" ".join(text.split()))


def number_of(piece: str, numbers: Mapping[str, int]) -> int | None:
    """The number of a piece as it is written, or else in small letters; None when it has none."""
    return numbers.get(piece, numbers.get(piece.lower()))


def written(symbols: Sequence[int], spec: SpeechSpec) -> str:
    """Symbols as text."""
    return (" " if spec.units is Units.WORDS else "").join(spec.symbols[number] for number in symbols)


def collapse(likeliest: Sequence[int], blank: int) -> list[int]:
    """Greedy reading of CTC: a symbol for each run of it, none for blanks (Graves et al. 2006)."""
    found = []
    before = blank
    for number in likeliest:
        if number not in (before, blank):
            found.append(number)
        before = number
    return found


def edits(found: Sequence[Symbol], wanted: Sequence[Symbol]) -> int:
    """How many insertions, deletions and replacements make one of the other (Levenshtein)."""
    row = list(range(len(wanted) + 1))
    for number, symbol in enumerate(found, 1):
        before, row[0] = row[0], number
        for place, other in enumerate(wanted, 1):
            before, row[place] = (
                row[place],
                min(row[place] + 1, row[place - 1] + 1, before + (symbol != other)),
            )
    return row[-1]
