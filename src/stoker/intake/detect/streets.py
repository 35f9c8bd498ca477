"""Streets by their shape: a number, a name and a word for street, in the order that each language has. Pure.

See docs/design/detect.md, "Addresses". What a sequence of tokens around it makes of the rest, town and
postcode, is `addresses`' business; overlapping findings become one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from stoker.intake.detect.contexts import marks_of
from stoker.intake.detect.lexicon import Mark
from stoker.intake.detect.recognise import Span, after, before

_CAPITAL: Final = rb"[A-Z\xc3-\xd4][A-Za-z0-9\x80-\xff'\-]*\.?"
_LINK: Final = (
    rb"(?:(?:de|del|della|delle|dello|degli|dei|di|da|do|dos|das|du|des|la|le|les|los|las|el|l'|d'|al|van"
    rb"|von|der|den|het|y|e|i|w|na|im|\xc3\xa0) ?){1,3}"
)
_NAME: Final = rb"(?:" + _LINK + rb")?" + _CAPITAL + rb"(?: (?:" + _LINK + rb")?" + _CAPITAL + rb"){0,3}"
_NUMBER: Final = rb"(?:[Nn](?:[.r\xba\xb0]|\xc2[\xba\xb0])\.? ?)?\d{1,5}(?:[\-/]?[A-Za-z])?(?:/\d{1,4})?"
# Words that stand before the name of a street; small ones too where they are no English words.
_FIRST: Final = (
    rb"[Cc]alle|[Aa]venida|[Aa]vda\.?|[Aa]v\.|[Pp]laza|[Pp]aseo|[Cc]amino|[Cc]arrera|[Rr]onda"
    rb"|[Tt]raves\xc3\xada|[Rr]ambla|C/|[Rr]ua|[Pp]ra\xc3\xa7a|[Tt]ravessa|[Ll]argo|[Aa]lameda|[Ee]strada"
    rb"|[Rr]odovia|[Bb]eco|Via|[Vv]iale|[Pp]iazza|[Cc]orso|[Vv]icolo|[Pp]iazzale|[Ll]ungomare|[Cc]ontrada"
    rb"|[Ss]trada|[Rr]ue|[Aa]venue|[Bb]oulevard|[Bb]d\.?|[Ii]mpasse|[Cc]hemin|[Aa]ll\xc3\xa9e|[Qq]uai"
    rb"|[Uu]l\.|[Uu]lica|[Aa]l\.|[Aa]leja|[Aa]leje|[Pp]l\.|[Pp]lac|[Oo]s\.|[Oo]siedle|[Tt]rg|[Cc]esta"
    rb"|[Ss]tr\.|[Cc]alea|[Bb]d-ul|[Bb]ulevardul|[Uu]litsa"
)
_NUMBERED: Final = (
    rb"rue|avenue|av\.|boulevard|bd\.?|place|impasse|chemin|all\xc3\xa9e|quai|cours|passage|route|sentier"
    rb"|square"
)
_LAST: Final = (
    rb"Street|St|Avenue|Ave|Road|Rd|Lane|Ln|Boulevard|Blvd|Drive|Dr|Crescent|Cres|Close|Terrace|Parkway|Pkwy"
    rb"|Highway|Hwy|Court|Ct|Gardens|Grove|Mews|Circle|Cir"
)
KIND_FIRST: Final = rb"(?:" + _FIRST + rb") " + _NAME + rb",? " + _NUMBER
KIND_FIRST_TRIGGER: Final = (
    rb"(?:\A|[^A-Za-z\x80-\xff])(?:" + _FIRST + rb") (?:[a-z]{1,5}[ ']|[A-Z\xc3-\xd4])"
)
NUMBER_FIRST: Final = rb"\d{1,4}(?: ?(?:bis|ter|quater))?,? (?i:" + _NUMBERED + rb") " + _NAME
NUMBER_FIRST_TRIGGER: Final = rb"\d(?: ?(?:bis|ter|quater))?,? (?i:" + _NUMBERED + rb") [A-Za-z\xc3-\xd4]"
KIND_LAST: Final = (
    rb"\d{1,5}[A-Za-z]? (?:[NSEW]{1,2}\.? |(?:North|South|East|West) )?(?:"
    + _CAPITAL
    + rb" |\d{1,3}(?:st|nd|rd|th) ){1,3}(?:"
    + _LAST
    + rb")\.?"
)
KIND_LAST_TRIGGER: Final = rb"[A-Za-z0-9\x80-\xff'.] (?:" + _LAST + rb")[^A-Za-z0-9]"

_ALONE: Final = frozenset(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_.$#/-=+*")
_WORD: Final = frozenset(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_") | frozenset(
    range(128, 256)
)
_WORDS: Final = re.compile(rb"[A-Z\xc3-\xd4][A-Za-z\x80-\xff'\-]*")
_TECHNICAL: Final = int(Mark.TECHNICAL | Mark.MONTH | Mark.WEEKDAY)
_ALSO_OTHER_THINGS: Final = frozenset(b"Drive Dr Close Court Ct Grove Circle Cir Terrace Highway".split())
"""Behind common words alone these are no streets: a hard drive."""


def _stands_alone(data: bytes, start: int, end: int) -> bool:
    return before(data, start) not in _ALONE and after(data, end) not in _WORD


def kind_first(data: bytes, start: int, end: int) -> Iterator[Span]:
    """`Calle de la Paz, 12`, `ul. Lipowa 121`, `Via Dante Alighieri 3`: word, name and number."""
    if before(data, start) in _WORD or after(data, end) in _WORD:
        return
    names = _WORDS.findall(data, data.index(b" ", start, end), end)
    if not any(marks_of(name) & _TECHNICAL or (len(name) < 6 and name.isupper()) for name in names):
        yield start, end


def number_first(data: bytes, start: int, end: int) -> Iterator[Span]:
    """`12 bis, rue de la Paix`: number, word and name."""
    if _stands_alone(data, start, end):
        yield start, end


def kind_last(data: bytes, start: int, end: int) -> Iterator[Span]:
    """`106 Heath Lane`, `12 W. 4th St.`: number, name and word."""
    *names, street = _WORDS.findall(data, start, end)
    if street in _ALSO_OTHER_THINGS and all(marks_of(name) & Mark.COMMON for name in names):
        return
    if _stands_alone(data, start, end) and not any(marks_of(name) & _TECHNICAL for name in names):
        yield start, end - 1 if data[end - 1] == 0x2E and data[end : end + 1] in (b"", b"\n") else end
