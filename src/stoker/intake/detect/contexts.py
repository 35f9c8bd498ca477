"""Names that no list holds, by the words beside them; job titles. See docs/design/detect.md, "Context".

Each recogniser gets a candidate that begins or ends with words of context and yields the name alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from stoker.intake.detect.lexicon import Mark, lexicon
from stoker.intake.detect.recognise import Span, after, before
from stoker.intake.detect.vocabulary import JOB_HEADS

CAPITAL: Final = rb"[A-Z\xc3-\xd4][A-Za-z\x80-\xff'\-]*"
NAME: Final = CAPITAL + rb"(?:\.? (?:(?:van|von|de|der|den|la|bin|al) ){0,2}" + CAPITAL + rb"){0,3}"
FIRM: Final = rb"(?:\d{1,3} )?" + CAPITAL + rb"(?: (?:(?:and|of|&|for|the) )?" + CAPITAL + rb"){0,5}\.?"
PLACE: Final = (
    CAPITAL
    + rb"(?: (?:(?:de|del|la|le|al|nad|am|an|der|na|y) ){0,2}"
    + CAPITAL
    + rb"){0,3}(?: \("
    + CAPITAL
    + rb"(?: "
    + CAPITAL
    + rb"){0,2}\))?"
)

PERSON_BEFORE: Final = (
    rb"(?i:\b(?:name is|name's|name\? ?(?:user:)?|names? (?:him|her|it)|(?:him|her|me) (?:is )?called"
    rb"|was called|is called|call(?:s|ed)? me|dear|hi|hello|hey|i am|i'm|kid|son|daughter|husband|wife"
    rb"|partner|friend|brother|sister|signed|sincerely|regards|why is|up with|named (?:him|her)|named"
    rb"|influenced by|what's your (?:last |first )?name\?|written by|sung by|ex-[a-z]+|mother|father|uncle"
    rb"|aunt|patient|customer|employee))[ ,]{1,2}"
)
PERSON_AFTER: Final = (
    rb"(?:,? (?:says|said|asked|told|replied|wrote|thinks|was born|has been|had given|is a very|began"
    rb"|concert|fan\b)|: ?\"|'s (?:song|daughter|son|wife|husband|mother|father|tales|album|book|birthday"
    rb"|account|address|phone))"
)
FIRM_BEFORE: Final = (
    rb"(?:(?i:\bworks? (?:for|at)|\bworked (?:for|at)|\bworking (?:for|at)|\bemployed (?:by|at)|\bCEO of"
    rb"|\baddress of|\baccording to the|\bheadquarters of|\bcustomers? of|\bshares of|\bsubsidiary of)) "
)
FIRM_AFTER: Final = (
    rb"(?:'s)? (?:office|website|headquarters|employees|invested|announced|acquired"
    rb"|is an? [A-Za-z ]{0,40}(?:company|bank|firm|corporation|non-profit|organi[sz]ation))\b"
)
PLACE_BEFORE: Final = (
    rb"(?i:\btravell?(?:ing|ed)? to|\bcom(?:ing|es?) to|\barriv(?:ed|es?|ing) (?:at|in)|\breturn(?:ed|s)? to"
    rb"|\bmoved to|\bflew to|\bborn in|\blives? in|\bliving in|\buniversity of|\bbased in|\bcity of"
    rb"|\bback to|\b(?:south|north|east|west)ern|\btrip to|\bvisit(?:ing|ed)?|\bwent to|\bwhere:"
    rb"|\bstreet in) "
)

_INITIAL: Final = rb"[A-Z\xc3-\xd4]"
PERSON_BEFORE_TRIGGER: Final = (
    rb"(?i:name is|name's|name\?|user:|names? (?:him|her|it)|called|calls? me|dear|hi|hello|hey|i am|i'm|kid"
    rb"|son|daughter|husband|wife|partner|friend|brother|sister|signed|sincerely|regards|why is|up with"
    rb"|named|influenced by|written by|sung by|ex-[a-z]+|mother|"
    rb"father|uncle|aunt|patient|customer|employee)[ ,]" + b"(?:[ ]?)" + _INITIAL
)
PERSON_AFTER_TRIGGER: Final = (
    rb" (?:says|said|asked|told|replied|wrote|thinks|was born|has been|had given|is a very|began|concert"
    rb"|fan)|[A-Za-z\x80-\xff'\-]: ?\"|'s (?:song|daughter|son|wife|husband|mother|father|tales|album|book"
    rb"|birthday|account|address|phone)"
)
FIRM_BEFORE_TRIGGER: Final = (
    rb"(?i:works? (?:for|at)|worked (?:for|at)|working (?:for|at)|employed (?:by|at)|CEO of|address of"
    rb"|according to the|headquarters of|customers? of|shares of|subsidiary of) "
)
FIRM_AFTER_TRIGGER: Final = (
    rb" (?:office|website|headquarters|employees|invested|announced|acquired)|(?:company|bank|firm"
    rb"|corporation|non-profit|organi[sz]ation)"
)
PLACE_BEFORE_TRIGGER: Final = (
    rb"(?i:travell?(?:ing|ed)? to|com(?:ing|es?) to|arriv(?:ed|es?|ing) (?:at|in)|return(?:ed|s)? to"
    rb"|moved to|flew to|born in|lives? in|living in|university of|based in|city of|back to|(?:south|north"
    rb"|east|west)ern|trip to"
    rb"|visit(?:ing|ed)?|went to|where:|street in) " + _INITIAL
)


def _either(word: str) -> str:
    return f"[{word[0].upper()}{word[0]}]{word[1:]}"


JOB_TRIGGER: Final = f"(?i)[ \\-](?:{'|'.join(sorted(JOB_HEADS))})s?\n".encode()
"""Without the line's beginning: a state that lives as long as a line has letters slows the whole set."""
JOB_LINE: Final = (
    r"(?m)^[A-Za-z](?:[A-Za-z,'\- ]*[ \-])?(?:"
    + "|".join(_either(head) for head in sorted(JOB_HEADS))
    + r")s?$"
).encode()

MAX_JOB_BYTES: Final = 64

_GIVEN_OR_NONE: Final = int(
    Mark.COMMON | Mark.TECHNICAL | Mark.MONTH | Mark.WEEKDAY | Mark.COUNTRY | Mark.NATIONALITY
)
_WORDS: Final = re.compile(rb"[A-Za-z\x80-\xff]+")
_DULL: Final = int(Mark.COMMON | Mark.TECHNICAL | Mark.MONTH | Mark.WEEKDAY)


def marks_of(word: bytes) -> int:
    """What a word can be."""
    return lexicon().marks.get(word.lower(), 0)


def _strip(data: bytes, start: int, end: int) -> Span | None:
    text = data[start:end]
    for tail in (b"'s", b"'", b"-", b"."):
        if text.endswith(tail):
            end -= len(tail)
            text = text[: -len(tail)]
    return (start, end) if len(text) > 1 else None


def _plausible(data: bytes, start: int, end: int) -> Span | None:
    """The name's words until the first that is a common word."""
    stop = start
    for match in _WORDS.finditer(data, start, end):
        marks = marks_of(match.group())
        if len(match.group()) > 1 and marks & _GIVEN_OR_NONE and not marks & Mark.GIVEN:
            break
        if marks & (Mark.COMMON | Mark.TECHNICAL) and match.start() == start:
            break
        stop = match.end()
    return _strip(data, start, stop) if stop > start else None


_PERSON: Final = re.compile(PERSON_BEFORE + b"(?P<name>" + NAME + b")")
_PERSON_END: Final = re.compile(b"(?P<name>" + NAME + b")" + PERSON_AFTER)
_FIRM: Final = re.compile(FIRM_BEFORE + b"(?P<name>" + FIRM + b")")
_FIRM_END: Final = re.compile(b"(?P<name>" + FIRM + b")" + FIRM_AFTER)
_PLACE: Final = re.compile(PLACE_BEFORE + b"(?P<name>" + PLACE + b")")


def person_after(data: bytes, start: int, end: int) -> Iterator[Span]:
    """A name after words such as `my name is`."""
    match = _PERSON.match(data, start, end)
    found = match and _plausible(data, *match.span("name"))
    if found:
        yield found


def person_before(data: bytes, start: int, end: int) -> Iterator[Span]:
    """A name before words such as `says`."""
    match = _PERSON_END.match(data, start, end)
    if match and not before(data, start).to_bytes(1, "big").isalnum():
        found = _plausible(data, *match.span("name"))
        if found and found[1] >= match.end("name") - 2:
            yield found


def _firm(data: bytes, start: int, end: int, *, first: bool) -> Span | None:
    text = data[start:end]
    if text.split(b" ")[0] in (b"The", b"A", b"An", b"I", b"This", b"That", b"It", b"My", b"Our", b"There"):
        start += len(text.split(b" ")[0]) + 1
    words = _WORDS.findall(data, start, end)
    if not words or start >= end:
        return None
    if len(words) == 1 and not first and marks_of(words[0]) & _DULL:
        return None
    span = _strip(data, start, end)
    if span and data[span[0] : span[1]].split(b" ")[-1].lower() in _FORMS and after(data, span[1]) == 0x2E:
        return span[0], span[1] + 1
    return span


_FORMS: Final = frozenset(b"inc ltd corp co llc".split())


def firm_after(data: bytes, start: int, end: int) -> Iterator[Span]:
    """An organisation after words such as `work for`."""
    match = _FIRM.match(data, start, end)
    found = match and _firm(data, *match.span("name"), first=b"work" in match.group()[:8].lower())
    if found and not marks_of(data[found[0] : found[1]]) & (Mark.COUNTRY | Mark.PLACE):
        yield found


def firm_before(data: bytes, start: int, end: int) -> Iterator[Span]:
    """An organisation before words such as `is a bank`."""
    match = _FIRM_END.match(data, start, end)
    if match and not before(data, start).to_bytes(1, "big").isalnum():
        found = _firm(data, *match.span("name"), first=False)
        if found:
            yield found


def place_after(data: bytes, start: int, end: int) -> Iterator[Span]:
    """A place after words such as `travelling to`."""
    match = _PLACE.match(data, start, end)
    if not match:
        return
    first, last = match.span("name")
    words = _WORDS.findall(data, first, last)
    if words and all(marks_of(word) & (_DULL | Mark.NATIONALITY) for word in words):
        return
    stop = first
    for word in _WORDS.finditer(data, first, last):
        if marks_of(word.group()) & Mark.COMMON and word.group() in (
            b"Country",
            b"The",
            b"I",
            b"In",
            b"On",
            b"At",
        ):
            break
        stop = word.end()
    if data[stop : stop + 1] == b")":
        stop += 1
    if stop > first:
        yield first, stop


def nationality(data: bytes, start: int, end: int) -> Iterator[Span]:
    """A nationality, also in lower case, after words such as `proud`."""
    first = data.rindex(b" ", start, end) + 1
    word = data[first:end].lower()
    for form in (
        word,
        word[:-1] if word.endswith(b"s") else word,
        word[:-2] if word.endswith(b"es") else word,
    ):
        if marks_of(form) & (Mark.NATIONALITY | Mark.COUNTRY):
            yield first, end
            return


_NATIONALITY: Final = (
    rb"(?:nationality|citizenship|citizen|national|staatsangeh\xc3\xb6rigkeit|staatsb\xc3\xbcrger(?:schaft"
    rb"|in)?|nationalit\xc3\xa4t|nationalit\xc3\xa9|citoyennet\xc3\xa9|nacionalidad|ciudadan\xc3\xada"
    rb"|nazionalit\xc3\xa0|cittadinanza|nationaliteit|staatsburgerschap|obywatelstw[oa]|obywatel(?:ka)?"
    rb"|narodowo\xc5\x9b[ci]i?|nacionalidade|cidadania|medborgarskap|medborgare|statsborgerskab|statsborger"
    rb"|kansalaisuus|ob\xc4\x8danstv\xc3\xad)"
)
_ADJECTIVE: Final = (
    rb"[a-z\x80-\xff]{2,14}(?:sch(?:e[rns]?)?|ais(?:e)?|ain(?:e)?|ien(?:ne)?|ois(?:e)?|and(?:e)?|ol(?:e|a)?"
    rb"|an[oaie]|\xc3\xa9s|\xc3\xaas|es[ae]|e\xc3\xb1[oa]|ense|in[oa]|sk[aiet]?|skie|ckie|sche?|se|eir[oa]"
    rb"|ec[oa]|gal|ish|ian|ese|que|gre[gc]o|aka|iska|l(?:a|\xc3\xa4)inen"
    rb"|[sc]k(?:\xc3\xa1|\xc3\xa9|\xc3\xbd))"
)
NATIONAL: Final = (
    rb"(?i)"
    + _NATIONALITY
    + rb" "
    + _ADJECTIVE
    + rb"(?:[^a-z\x80-\xff]|$)|(?:\A|[^a-z\x80-\xff])"
    + _ADJECTIVE
    + rb" "
    + _NATIONALITY
)
NATIONAL_TRIGGER: Final = (
    rb"(?i)[a-z\x80-\xff] (?:national|citizen|staatsb|staatsang|citoyen|nacional|ciudadan|nazional|cittadin"
    rb"|obywatel|narodowo|cidadan|medborg|statsborg|kansalais|ob\xc4\x8d)|(?:nationalit|citizenship|staatsang"
    rb"|citoyennet|nacionalidad|ciudadan|nazionalit|cittadin|obywatel|narodowo|cidadan|medborg|statsborg"
    rb"|kansalais|ob\xc4\x8danstv|staatsb|citizen|national)[a-z\x80-\xff]* [a-z\x80-\xff]"
)
_NOT_NATIONAL: Final = frozenset(
    b"dual second double this these those whose same durch oder sowie keine seine ihre eine deine diese jede "
    b"alle une cette sans dans quelle estas esta una esa pela uma essa deze geen hun eine andere autre altra "
    b"otra outra first please because otherwise licence license else senior private global".split()
)


def national(data: bytes, start: int, end: int) -> Iterator[Span]:
    """The adjective before or behind `nationality` and its like, in the languages of the words."""
    words = [match.span() for match in _WORDS.finditer(data, start, end)]
    behind = re.match(rb"(?i)" + _NATIONALITY + rb"\Z", data[slice(*words[0])]) is not None
    first, last = words[-1] if behind else words[0]
    word = data[first:last].lower()
    if data[last : last + 1].isalpha() or after(data, last) >= 0x80 or word in _NOT_NATIONAL:
        return
    marks = marks_of(word)
    if marks & (Mark.NATIONALITY | Mark.COUNTRY) or not marks & Mark.COMMON:
        yield first, last


_HEADS: Final = frozenset(head.encode() for head in JOB_HEADS)


def is_job(text: bytes) -> bool:
    """Whether a text ends as names of jobs do."""
    last = re.split(rb"[ -]", text.lower())[-1]
    return (
        last in _HEADS
        or (last.endswith(b"s") and last[:-1] in _HEADS)
        or (marks_of(last) & Mark.OCCUPATION_START != 0 and b" " not in text)
    )


def job_alone(data: bytes, start: int, end: int) -> Iterator[Span]:
    """A line that is a job's name."""
    if (
        (start == 0 or data[start - 1] == 0x0A)
        and (end == len(data) or data[end] == 0x0A)
        and end - start <= MAX_JOB_BYTES
        and is_job(data[start:end])
    ):
        yield start, end


_AS: Final = re.compile(
    rb"(?i)\b(?:as|job (?:is|title:?)|profession:?|occupation:?|position (?:is|of)|works? as"
    rb"|employed as)(?: an?| the)? "
)


def job_after(data: bytes, start: int, end: int) -> Iterator[Span]:
    """A job's name after `as`, up to the punctuation."""
    match = _AS.match(data, start, end)
    if match is None:
        return
    text = data[match.end() : end]
    parts = re.split(rb",(?! and| municipal)|\.| but | and I | when ", text)
    first = parts[0].rstrip()
    while first and not is_job(first) and b" " in first:
        first = first.rsplit(b" ", 1)[0]
    if (
        first
        and is_job(first)
        and (first[:1].isupper() or b"work" in data[max(0, start - 60) : start].lower())
    ):
        yield match.end(), match.end() + len(first)


def title(data: bytes, start: int, end: int) -> Iterator[Span]:
    """A form of address before a capitalised name."""
    stop = end
    while stop > start and not data[stop - 1 : stop].isspace():
        stop -= 1
    yield start, data[start:stop].rstrip().__len__() + start
