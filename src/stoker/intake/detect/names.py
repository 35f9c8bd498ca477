"""People, organisations and places by lists and the words around them. See docs/design/detect.md, "Names".

A *run* is capitalised words with a blank, a hyphen, an apostrophe or the dot of an initial between them.
Runs that hold a listed word which is no common word are looked at, one by one; the others cost array
operations only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stoker.intake.detect.lexicon import Lexicon, Mark
from stoker.intake.detect.name_words import NO_NAMES, Word, name_like
from stoker.intake.detect.recognise import Found
from stoker.intake.detect.wordtable import TextWords
from stoker.spec.kinds import Kind

GIVEN, SURNAME, PLACE, COUNTRY = int(Mark.GIVEN), int(Mark.SURNAME), int(Mark.PLACE), int(Mark.COUNTRY)
COMMON, TECHNICAL, TITLE = int(Mark.COMMON), int(Mark.TECHNICAL), int(Mark.TITLE)
FORM, COMPANY_WORD, COMPANY = int(Mark.COMPANY_FORM), int(Mark.COMPANY_WORD), int(Mark.COMPANY)
NATIONALITY, START = int(Mark.NATIONALITY), int(Mark.PLACE_START)
COMPANY_START, CALENDAR = int(Mark.COMPANY_START), int(Mark.MONTH | Mark.WEEKDAY)
STREET, UNIT = int(Mark.STREET), int(Mark.UNIT)
LISTED: Final = GIVEN | SURNAME | PLACE | COUNTRY | NATIONALITY | COMPANY
PERSONAL: Final = GIVEN | SURNAME
_BEGINNING: Final = PERSONAL | TITLE | START | COMPANY_START
"""A common word with none of these marks begins no name, where no word of organisations follows."""
MAX_NAME_WORDS: Final = 4

_IDENTIFIER: Final = np.zeros(256, dtype=bool)
_IDENTIFIER[list(b"_0123456789@#$%&<{\\")] = True
_IDENTIFIER_AFTER: Final = np.zeros(256, dtype=bool)
_IDENTIFIER_AFTER[list(b"_0123456789@(={\\")] = True

_PARTICLES: Final = re.compile(
    rb" (?:(?:van|von|der|den|de|del|della|di|da|dos|das|do|la|le|al|el|bin|ibn|ben|ter|ten|zu|af|av"
    rb"|d') ?){1,3}(?=[A-Z\xc3-\xd4])"
)
_NEXT_WORD: Final = re.compile(rb"[A-Z\xc3-\xd4][A-Za-z\x80-\xff]+(?:[-'][A-Z][A-Za-z\x80-\xff]+)*")
_SUFFIX: Final = re.compile(rb",? (?:Jr\.?|Sr\.?|II|III|IV)(?![A-Za-z])")
_LIST_OF_FIRMS: Final = re.compile(
    rb"(?:, [A-Z\xc3-\xd4][A-Za-z\x80-\xff'-]+){1,3},? and (?=[A-Z\xc3-\xd4])[A-Za-z\x80-\xff'-]+"
    rb"| and Sons\b| & Sons\b"
)
_PLACE_BEFORE: Final = re.compile(
    rb"(?:\b(?:in|to|from|at|near|of|around|visit|visiting|leave|leaving|for|city|town|village|southern"
    rb"|northern|eastern|western|central|via|and|Southern|Northern|Eastern|Western|Central|North|South|East"
    rb"|West|In|From|To|Where:))\s\Z"
)
_FIRM_BEFORE: Final = re.compile(
    rb"(?i)\b(?:works? (?:for|at)|working (?:for|at)|employed (?:by|at)|joined|company)\s\Z"
)
_FIRM_AFTER: Final = re.compile(
    rb"(?:'s)? (?:office|website|employees|shares|stock|invested|announced|acquired|headquarters"
    rb"|is an? [A-Za-z ]{0,40}(?:company|bank|firm|corporation|non-profit|organi[sz]ation))\b"
)


def find_names(data: bytes, lexicon: Lexicon, words: TextWords) -> Iterator[Found]:
    """Names in the runs of `words`, which are the capitalised words of `data`."""
    if not len(words.starts):
        return
    first, last, interesting = _runs(data, words)
    chosen = np.flatnonzero(interesting)
    sizes = (last - first)[chosen]
    stops = np.cumsum(sizes)
    at = np.arange(stops[-1] if len(stops) else 0) + np.repeat(first[chosen] - (stops - sizes), sizes)
    starts, ends, marks = words.starts[at].tolist(), words.ends[at].tolist(), words.flags[at].tolist()
    several = [
        Word(start, end, mark, data[start:end]) for start, end, mark in zip(starts, ends, marks, strict=True)
    ]
    begin = 0
    for stop in stops.tolist():
        yield from _run_names(data, lexicon, several[begin:stop])
        begin = stop


def _runs(data: bytes, words: TextWords) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """First word and end of each run, and whether it is worth a look."""
    raw = np.frombuffer(data + b"  ", dtype=np.uint8)
    starts, ends, flags = words.starts, words.ends, words.flags
    before = raw[np.maximum(starts - 1, 0)]
    before = np.where(starts == 0, np.uint8(0x20), before)
    after = raw[ends]
    dotted = (after == 0x2E) & (_LETTER[raw[ends + 1]])
    plain = ~(_IDENTIFIER[before] | _IDENTIFIER_AFTER[after] | (before == 0x2E) | (before == 0x2F) | dotted)
    shouted = (ends - starts > 1) & (raw[np.minimum(starts + 1, len(raw) - 1)] - np.uint8(0x41) < 26)
    shouted &= raw[ends - 1] - np.uint8(0x41) < 26
    gap = starts[1:] - ends[:-1]
    between = raw[ends[:-1]]
    joined = (gap == 1) & ((between == 0x20) | (between == 0x2D) | (between == 0x27))
    joined |= (
        (gap == 2)
        & (between == 0x2E)
        & (raw[ends[:-1] + 1] == 0x20)
        & ((ends[:-1] - starts[:-1] <= 1) | ((flags[:-1] & TITLE) != 0))
    )
    first = np.concatenate((np.zeros(1, dtype=np.int64), np.flatnonzero(~joined) + 1))
    last = np.append(first[1:], len(starts))
    listed = (
        ((flags & LISTED) != 0)
        & ((flags & (COMMON | TECHNICAL | CALENDAR)) == 0)
        & plain
        & (ends - starts > 1)
    )
    worth = (listed & (~shouted | ((ends - starts > 4) & ((flags & (PLACE | COUNTRY)) != 0)))) | (
        ((flags & TITLE) != 0) & plain
    )
    forms = (flags & FORM) != 0
    company_words = ((flags & COMPANY_WORD) != 0) & ((flags & GIVEN) == 0)
    starting = ((flags & (START | COMPANY_START)) != 0) & plain & ~shouted & (ends - starts > 2)
    own = ((flags & (COMMON | TECHNICAL)) == 0) | starting
    starting[:-1] &= joined & ((flags[1:] & COMMON) == 0)
    starting[-1:] = False
    # A word of organisations needs one of its own before it: GREEK CAPITAL LETTER ALPHA is none.
    places = np.arange(len(starts))
    first_own = np.minimum.reduceat(np.where(own, places, len(starts)), first)
    firms = first_own < np.maximum.reduceat(np.where(company_words, places, -1), first)
    firms |= np.logical_or.reduceat(forms, first)
    interesting = np.logical_or.reduceat(worth | starting, first) | (firms & (last - first > 1))
    return first, last, interesting


_LETTER: Final = np.zeros(256, dtype=bool)
_LETTER[[*range(0x41, 0x5B), *range(0x61, 0x7B), *range(0x80, 0x100)]] = True


def _run_names(data: bytes, lexicon: Lexicon, run: list[Word]) -> Iterator[Found]:
    firms = any(word.marks & (FORM | COMPANY_WORD) for word in run)
    at = 0
    while at < len(run):
        if not firms and run[at].marks & COMMON and not run[at].marks & _BEGINNING:
            at += 1  # what the lines of `_at` would find out one by one
            continue
        taken, found = _at(data, lexicon, run, at, firms)
        yield from found
        at += max(1, taken)


def _at(data: bytes, lexicon: Lexicon, run: list[Word], at: int, firms: bool) -> tuple[int, list[Found]]:
    """Names that begin with word `at` of `run`: how many words they take, and what they are.

    `firms`: whether the run has a word that ends the name of an organisation.
    """
    word = run[at]
    if word.marks & TITLE and at + 1 < len(run) and word.text.lower() in _HONORIFICS:
        count = 0
        for following in run[at + 1 : at + 1 + MAX_NAME_WORDS]:
            if name_like(following) < 0.4:
                break
            count += 1
        if count:
            end = word.end + 1 if data[word.end : word.end + 1] == b"." else word.end
            start, stop = run[at + 1].start, _extended(data, run[at + count].end)
            return count + 1, [Found(word.start, end, Kind.TITLE), Found(start, stop, Kind.PERSON)]
    if firms and (firm := _firm(data, run, at)):
        return firm
    if partners := _partners(data, run, at):
        return partners
    place = _place_phrase(data, lexicon, run, at)
    count = _name_words(run, at)
    if count >= 2 and not (place and place[0] >= count):
        start, stop = word.start, _extended(data, run[at + count - 1].end)
        return count, [Found(start, stop, Kind.PERSON)]
    if place:
        return place
    if len(run) == 1 or count == 1:
        return _single(data, word)
    return 1, []


def _name_words(run: list[Word], at: int) -> int:
    """How many words from `at` are one person's name; 0 for none."""
    first = run[at]
    total = name_like(first)
    if total < 0.5 or len(first.text) == 1 or first.text in NO_NAMES:
        return 0
    taken = 1
    for word in run[at + 1 : at + MAX_NAME_WORDS]:
        worth = name_like(word)
        if worth < 0.4:
            break
        total += worth
        taken += 1
    while taken > 1 and len(run[at + taken - 1].text) == 1:
        taken -= 1
    if taken == 1:
        return 1 if total >= 1.5 else 0
    strong = first.marks & GIVEN or any(word.marks & GIVEN for word in run[at + 1 : at + taken])
    return taken if total >= (2.0 if strong else 2.6) else 0


def _extended(data: bytes, end: int) -> int:
    """The end of a name with the particles, surname and suffix that follow it."""
    particles = _PARTICLES.match(data, end)
    if particles:
        word = _NEXT_WORD.match(data, particles.end())
        if word:
            end = word.end()
    suffix = _SUFFIX.match(data, end)
    return suffix.end() if suffix else end


def _firm(data: bytes, run: list[Word], at: int) -> tuple[int, list[Found]] | None:
    """An organisation that begins with word `at` and ends with a word of organisations."""
    rest = run[at : at + 7]
    for count in range(len(rest), 1, -1):
        last = rest[count - 1]
        if last.marks & FORM or (last.marks & COMPANY_WORD and not last.marks & GIVEN):
            lead = rest[0]
            if lead.text in (b"The", b"A", b"An", b"This", b"For", b"In", b"At", b"By"):
                return None
            if not (last.marks & FORM) and all(
                word.marks & (COMMON | TECHNICAL) for word in rest[: count - 1]
            ):
                return None
            end = last.end + (1 if last.marks & FORM and data[last.end : last.end + 1] == b"." else 0)
            return count, [Found(lead.start, end, Kind.ORGANISATION)]
    return None


def _partners(data: bytes, run: list[Word], at: int) -> tuple[int, list[Found]] | None:
    """An organisation named after people: word `at` and those listed behind it, or two with a hyphen."""
    word, left = run[at], len(run) - at
    if left == 1 and (word.marks & SURNAME or not word.marks & COMMON):
        firms = _LIST_OF_FIRMS.match(data, word.end)
        return (1, [Found(word.start, firms.end(), Kind.ORGANISATION)]) if firms else None
    if left == 2 and data[word.end] == 0x2D and word.marks & run[at + 1].marks & SURNAME:
        return 2, [Found(word.start, run[at + 1].end, Kind.ORGANISATION)]
    return None


_AROUND: Final = b".,;:!?'\")\n"


def _place_phrase(data: bytes, lexicon: Lexicon, run: list[Word], at: int) -> tuple[int, list[Found]] | None:
    """A listed place of several words that begins with word `at`, or a country."""
    word = run[at]
    if word.marks & (START | COMPANY_START):
        tail = data[word.start : word.start + 48].partition(b"\n")[0].lower()
        head = b" ".join(tail.split(b" ", 2)[:2])
        possible = head in lexicon.heads or head.rstrip(_AROUND) in lexicon.heads
        for count in (5, 4, 3, 2) if possible else ():
            parts = tail.split(b" ", count)[:count]
            if len(parts) < count:
                continue
            phrase = b" ".join(parts).rstrip(_AROUND)
            kind = lexicon.phrases.get(phrase, 0)
            if kind & (PLACE | COUNTRY | COMPANY):
                end = word.start + len(phrase)
                taken = sum(one.start < end for one in run[at:])
                return taken, [
                    Found(word.start, end, Kind.LOCATION if kind & (PLACE | COUNTRY) else Kind.ORGANISATION)
                ]
    if word.marks & COUNTRY and not word.marks & COMMON:
        return 1, [Found(word.start, word.end, Kind.LOCATION)]
    return None


def _single(data: bytes, word: Word) -> tuple[int, list[Found]]:
    """One capitalised word that no run explains."""
    marks = word.marks
    if marks & (COMMON | TECHNICAL | CALENDAR) or len(word.text) < 3:
        return 1, []
    before = data[max(0, word.start - 24) : word.start]
    if marks & COMPANY and not marks & PERSONAL:
        return 1, [Found(word.start, word.end, Kind.ORGANISATION)]
    if marks & NATIONALITY:
        return 1, [Found(word.start, word.end, Kind.NATIONALITY)]
    if _FIRM_BEFORE.search(before) or _FIRM_AFTER.match(data, word.end):
        return 1, [Found(word.start, word.end, Kind.ORGANISATION)]
    if marks & PERSONAL and marks & PLACE:
        kind = Kind.LOCATION if _PLACE_BEFORE.search(before) else Kind.PERSON
        return 1, [Found(word.start, word.end, kind)]
    if marks & PERSONAL:
        if word.text.isupper() and word.text.isascii():
            return 1, []
        return 1, [Found(word.start, word.end, Kind.PERSON)]
    if marks & PLACE:
        return 1, [Found(word.start, word.end, Kind.LOCATION)]
    return 1, []


_HONORIFICS: Final = frozenset(
    b"mr mrs ms miss mx dr prof sir madam herr frau monsieur madame mme mlle rev".split()
)
