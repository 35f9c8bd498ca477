"""Street addresses: sequences of numbers, names and units that hold enough evidence.

See docs/design/detect.md.

An *anchor* is a place where an address may be: a number beside a capitalised word that is no common word, a
unit (`Apt. 5`), a military post box, or words that announce an address. Around it the longest sequence of
address tokens is taken, over one line break at a time, and cut back to the part that the evidence carries.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

import numpy as np

from stoker.intake.detect import vocabulary
from stoker.intake.detect.lexicon import Lexicon, Mark
from stoker.intake.detect.recognise import Span
from stoker.intake.detect.wordtable import TextWords

PLACE, COUNTRY, COMMON = int(Mark.PLACE), int(Mark.COUNTRY), int(Mark.COMMON)
GIVEN, SURNAME, STREET, UNIT = int(Mark.GIVEN), int(Mark.SURNAME), int(Mark.STREET), int(Mark.UNIT)
TECHNICAL, CALENDAR, START = int(Mark.TECHNICAL), int(Mark.MONTH | Mark.WEEKDAY), int(Mark.PLACE_START)
FORM, COMPANY_WORD = int(Mark.COMPANY_FORM), int(Mark.COMPANY_WORD)

REACH_BYTES: Final = 220
"""How far behind its anchor an address may end."""
LEAD_BYTES: Final = 96
"""How far before its anchor an address may begin."""

_CAPITAL: Final = (
    r"(?:[A-Z]|[\xc3][\x80-\x9e]|[\xc4-\xc5][\x80-\xbf]|\xc8[\x98-\x9b]|\xcc\x81|[\xce-\xd2][\x80-\xbf]"
    r"|\xe1[\xb8-\xbf][\x80-\xbf]|\xe2\x88\x86)"
)
_LETTER: Final = r"[A-Za-z\x80-\xff]"
_PARTICLES: Final = (
    (
        "rue|avenue|boulevard|chemin|allée|impasse|quai|viale|piazza|corso|calle|rua|avenida|bd|bis|de|del|della|delle|dei|di|da|do|dos|das|du|des|la|le|les|los|las|el|al|van|von|der|den|dem|het|op|zur|zum|am|im|an|auf|aan|of|the|y|e|i|és|na|nad|pod|pri|pod|v|w|og|och|ja|u|ul|út|tér|str|gen|prof|dr|ter|ten|ved|kapu|sor|utca|útja|tere|körút|kör|köz|gata|vej|gade|vei|väg|allé|katu|tie|cesta|trg|ulica|náměstí|třída|nan"
    )
    .encode()
    .decode("latin-1")
)
_TOKEN: Final = (
    r"(?P<unit>(?i:apt|apartment|suite|ste|unit|flat|room|p\.? ?o\.? ?box|box|postbox|postboks|postfach|bp"
    r"|psc|bldg|appt|app|dpto|piso)\.? ?\#?\d+[A-Za-z]?(?![A-Za-z0-9]))|(?P<military>(?i:apo|fpo"
    r"|dpo) (?i:a[aep]) \d{5}(?!\d))|(?P<code>[A-Z]\d[A-Z] ?\d[A-Z]\d(?![A-Za-z0-9])"
    r"|[A-Z]{1,2}\d[A-Z0-9]? \d[A-Z]{2}(?![A-Za-z0-9])|\d{5}-\d{3,4}(?!\d)|\d{2,4}-\d{2,4}(?!\d)"
    r"|\d{3} \d{2}(?!\d))|(?P<number>\d{1,6}(?:[/-]\d{1,4})?[A-Za-z]?\.?(?![A-Za-z0-9_:]))"
    rf"|(?P<capital>{_CAPITAL}(?:{_LETTER}|[0-9](?={_LETTER}))*(?:['-]{_LETTER}+|\.(?={_LETTER}))*\.?)"
    rf"|(?P<particle>(?:{_PARTICLES}|d'|l')\.?(?!{_LETTER}))"
    rf"|(?P<bracket>\({_CAPITAL}{_LETTER}+(?: {_LETTER}+){{0,3}}\))"
)
_TOKENS: Final = re.compile(_TOKEN.encode("latin-1"))
_FIRST: Final = re.compile(rb"(?<![A-Za-z0-9_\x80-\xff])(?:" + _TOKEN.encode("latin-1") + rb")")
_GAP: Final = re.compile(rb"[ \t]*,?[ \t]*(?:\r?\n(?:[ \t]*[>?#*|]+)?[ \t]*)?,?[ \t]*")
_STEMS: Final = re.compile(
    (
        "(?:"
        + "|".join(sorted({re.escape(stem) for stem in vocabulary.STREET_STEMS}, key=len, reverse=True))
        + r")\.?\Z"
    ).encode()
)
_ANNOUNCED: Final = re.compile(
    rb"(?i)(?:\baddress(?:es)?(?: is| of [^.\n]{0,40} is|,? here they are|(?: to the same)?)?"
    rb"|\blocated (?:at|on)|\boffices? (?:is|are) (?:located )?(?:at|on)|\bdrops? (?:you|me|us) off at"
    rb"|\barrived at|\bsent to|\bliv(?:es?|ing) (?:at|on|in)|\bsend (?:it|this|them) to|\bdeliver(?:ed"
    rb"|y)? (?:to|at)|\bship(?:ped)? to|\bresid(?:es?|ing) at|\brefers to|\bmoved to|\bcorner of|\bwhere:"
    rb"|\bmeet (?:[^.\n]{0,40} )?at|\bfollowing\?|\buser:|\bit is|\bstreet:|\bhome at"
    rb"|, and)[ :]{0,3}\n?[ \t]*\Z"
)
_STRONG_STREETS: Final = frozenset(
    b"street st avenue ave road rd lane ln drive dr court ct place boulevard blvd way terrace parkway pkwy "
    b"circle square highway hwy crescent cres close grove row alley trail route rue calle avenida avda "
    b"carrera paseo via viale piazza corso vicolo rua travessa pra\xc3\xa7a alameda stra\xc3\x9fe strasse "
    b"weg platz allee gasse chemin impasse all\xc3\xa9e quai straat laan plein gracht gatan gata "
    b"v\xc3\xa4gen v\xc3\xa4g vej gade vei veien katu tie kuja utca \xc3\xbat \xc3\xbatja t\xc3\xa9r tere "
    b"k\xc3\xb6r\xc3\xbat ulica ul al aleja plac os osiedle ulice trg cesta camino ronda plaza bulevar cadde "
    b"sokak maantee t\xc3\xa4nav u gardens mews str h\xc3\xa5llplats plads plass strada calea".split()
)


ANNOUNCED_BYTES: Final = 32
_UNITS: Final = (
    rb"(?i:apt|suite|unit|box|apo|fpo|dpo|psc|postbox)\.? \#?(?:\d|[Aa][AaEePp] )|\d,? (?:bis "
    rb"|ter )?(?:[Rr]ue|[Aa]v|[Bb]d|[Bb]oulevard|[Cc]hemin|[Aa]ll\xc3\xa9e|[Ii]mpasse|[Qq]uai|[Vv]iale"
    rb"|[Pp]iazza|[Cc]orso|[Cc]alle|[Rr]ua|[Uu]l)[. ]"
)
_PLACED: Final = (
    rb"(?:[Aa]ddress(?:es)?(?: is| of|,? here they are)?|[Ll]ocated (?:at|on)|[Oo]ffices? (?:is|are)"
    rb"|[Cc]orner of|[Aa]rrived at|[Ll]ives (?:at|on)|[Ss]ent to|[Rr]esid(?:es?|ing) at)[ :,]*[ \n]"
)
_ADDRESSED: Final = rb"(?:the )?(?:corner )?(?:of )?[0-9A-Z\xc3-\xd2]"
ANNOUNCEMENT: Final = rb"\b(?:" + _UNITS + rb")|\b" + _PLACED + _ADDRESSED
ANNOUNCEMENT_TRIGGER: Final = _UNITS + rb"|" + _PLACED + _ADDRESSED


class Token(NamedTuple):
    """One part of a possible address."""

    start: int
    end: int
    kind: str
    marks: int
    text: bytes


def find_addresses(
    data: bytes, lexicon: Lexicon, anchors: Iterable[tuple[int, int]]
) -> Iterator[tuple[int, int]]:
    """Byte ranges of addresses in `data` around `anchors`, which are in order; no two overlap."""
    done = 0
    for start, end in anchors:
        if end <= done:
            continue
        for tokens in _around(data, lexicon, start, end, done):
            found = _judged(data, lexicon, tokens)
            done = max(done, tokens[-1].end)
            if found:
                yield found


def _sequences(data: bytes, lexicon: Lexicon, begin: int, stop: int) -> Iterator[list[Token]]:
    """Maximal sequences of address tokens between `begin` and `stop`."""
    tokens: list[Token] = []
    at = begin
    while at < stop:
        match = _TOKENS.match(data, at, stop) if tokens else _FIRST.search(data, at, stop)
        if match is None:
            if not tokens:
                return
            yield tokens
            tokens = []
            continue
        at = match.start()
        text = match.group()
        kind = match.lastgroup or ""
        marks = 0
        if kind in ("capital", "bracket"):
            bare = text.strip(b".()").lower()
            marks = lexicon.marks.get(bare, 0)
            if b"-" in bare or b"'" in bare:
                marks |= lexicon.phrases.get(bare, 0)
        tokens.append(Token(at, match.end(), kind, marks, text))
        if kind == "capital" and text.endswith(b".") and not _abbreviation(text):
            last = tokens[-1]
            tokens[-1] = last._replace(end=last.end - 1, text=text[:-1])
            yield tokens
            tokens = []
            at = match.end()
            continue
        gap = _GAP.match(data, match.end(), stop)
        after = gap.end() if gap else match.end()
        if after == match.end() and after < stop:
            yield tokens
            tokens = []
            at = after
            continue
        at = after
    if tokens:
        yield tokens


def _abbreviation(text: bytes) -> bool:
    bare = text[:-1].lower()
    return len(text) <= 3 or bare in _STRONG_STREETS or bare in (b"gen", b"prof", b"apt", b"ste")


def _around(data: bytes, lexicon: Lexicon, start: int, end: int, done: int) -> Iterator[list[Token]]:
    """The sequences that an anchor touches."""
    begin = max(done, start - LEAD_BYTES, data.rfind(b"\n", done, start) + 1)
    space = data.find(b" ", begin, start)
    if begin > done and data[begin - 1] not in b" \n\t" and space >= 0:
        begin = space
    for tokens in _sequences(data, lexicon, begin, min(len(data), end + REACH_BYTES)):
        if tokens[0].start >= end:
            return
        if tokens[-1].end > start:
            yield tokens
            if tokens[-1].end >= end:
                return


def _is_street(token: Token) -> bool:
    bare = token.text.strip(b".").lower()
    return token.kind in ("capital", "particle") and (
        bare in _STRONG_STREETS or bool(len(bare) > 5 and _STEMS.search(bare))
    )


def _judged(data: bytes, lexicon: Lexicon, tokens: list[Token]) -> tuple[int, int] | None:
    """The part of a sequence that is an address, if any."""
    announced = _announced(data, tokens[0].start)
    tokens = _without_lead(data, tokens, announced)
    if not tokens:
        return None
    units = [index for index, token in enumerate(tokens) if token.kind in ("unit", "military")]
    numbers = [index for index, token in enumerate(tokens) if token.kind in ("number", "code")]
    streets = [index for index, token in enumerate(tokens) if _is_street(token)]
    places = [
        index
        for index, token in enumerate(tokens)
        if token.marks & COUNTRY or _place(data, lexicon, tokens, index)
    ]
    names = [index for index, token in enumerate(tokens) if token.kind == "capital"]
    if not _enough(tokens, announced, units, numbers, streets, places, names):
        return None
    last = max(units + numbers + streets + places, default=-1)
    if announced and names:
        last = max(last, names[-1])
    following = tokens[last + 1] if 0 <= last < len(tokens) - 1 else None
    if (
        following
        and following.marks & PLACE
        and len(tokens[last].text) >= 4
        and tokens[last].kind == "number"
    ):
        last += 1
    first = 0
    while first < last and tokens[first].kind == "particle":
        first += 1
    end = tokens[last].end
    if tokens[last].text.endswith(b".") and tokens[last].kind == "number" and not _hungarian(tokens):
        end -= 1
    return tokens[first].start, end


def _hungarian(tokens: list[Token]) -> bool:
    return any(token.text.lower().rstrip(b".") in _HUNGARIAN for token in tokens)


_HUNGARIAN: Final = frozenset("u út utca útja tér tere körút kapu sor köz".encode().split())


def _place(data: bytes, lexicon: Lexicon, tokens: list[Token], index: int) -> bool:
    token = tokens[index]
    if token.marks & PLACE and not token.marks & (COMMON | GIVEN):
        return True
    if token.marks & START and index + 1 < len(tokens):
        return bool(
            lexicon.phrases.get(data[token.start : tokens[index + 1].end].lower().strip(b".,"), 0)
            & (PLACE | COUNTRY)
        )
    return False


def _announced(data: bytes, start: int) -> bool:
    return bool(_ANNOUNCED.search(data, max(0, start - 64), start))


def _without_lead(data: bytes, tokens: list[Token], announced: bool) -> list[Token]:
    """`tokens` from where an address can begin: lines before the first number go, and common words."""
    if announced:
        return tokens
    first_number = next(
        (
            index
            for index, token in enumerate(tokens)
            if token.kind in ("number", "unit", "code", "military") or _is_street(token)
        ),
        None,
    )
    if first_number is None:
        return []
    cut = 0
    for index in range(first_number):
        between = data[tokens[index].end : tokens[index + 1].start]
        if b"\n" in between or (b"," in between and not _is_street(tokens[index + 1])):
            cut = index + 1
    tokens = tokens[cut:]
    while (
        tokens
        and tokens[0].kind in ("capital", "particle")
        and (
            tokens[0].kind == "particle"
            or (
                tokens[0].marks & COMMON
                and not tokens[0].marks & STREET
                and not tokens[0].marks & (GIVEN | SURNAME | PLACE)
            )
        )
    ):
        tokens = tokens[1:]
    return tokens


def _enough(
    tokens: list[Token],
    announced: bool,
    units: list[int],
    numbers: list[int],
    streets: list[int],
    places: list[int],
    names: list[int],
) -> bool:
    """Whether the evidence makes an address."""
    if any(token.kind == "military" for token in tokens):
        return True
    if units and (len(tokens) > 1 or announced or tokens[0].text[:1].isupper()):
        return True
    if not numbers:
        return announced and bool(streets) and len(names) > 1
    listed = [
        index
        for index in names
        if not tokens[index].marks & (COMMON | TECHNICAL | CALENDAR) and len(tokens[index].text) > 2
    ]
    if (
        streets
        and any(abs(index - street) <= 4 for index in numbers for street in streets)
        and len(names) > (1 if _bare_street(tokens, streets) else 0)
    ):
        return True
    if announced and listed:
        return True
    if len(numbers) > 1 and listed and places:
        return True
    return bool(
        places
        and any(tokens[index].kind == "code" or len(tokens[index].text) >= 4 for index in numbers)
        and len(tokens) <= 8
        and tokens[-1].kind in ("number", "code")
    )


def _bare_street(tokens: list[Token], streets: list[int]) -> bool:
    return all(tokens[index].text.strip(b".").lower() in _STRONG_STREETS for index in streets)


def announcement(data: bytes, start: int, end: int) -> Iterator[Span]:
    """The stretch of text behind words or a unit that announce an address: an anchor, not a finding."""
    yield start, min(len(data), end + ANNOUNCED_BYTES)


def address_anchors(data: bytes, words: TextWords) -> list[tuple[int, int]]:
    """Numbers beside a capitalised word that is no common word."""
    if not len(words.starts):
        return []
    raw = np.frombuffer(b"  " + data + b"   ", dtype=np.uint8)
    starts, ends, flags = words.starts + 2, words.ends + 2, words.flags
    digit_after = ((raw[ends] == 0x20) & _DIGIT[raw[ends + 1]]) | (
        (raw[ends] == 0x2E) & (raw[ends + 1] == 0x20) & _DIGIT[raw[ends + 2]]
    )
    digit_before = (raw[starts - 1] == 0x20) & _DIGIT[raw[starts - 2]]
    shouted = (raw[ends - 1] - np.uint8(0x41) < 26) & (ends - starts < 5)
    dull = (flags & (COMMON | TECHNICAL | CALENDAR)) != 0
    dull &= (flags & (STREET | COUNTRY)) == 0
    chosen = np.flatnonzero((digit_after | digit_before) & ~dull & ~shouted)
    return list(zip(words.starts[chosen].tolist(), words.ends[chosen].tolist(), strict=True))


_DIGIT: Final = np.zeros(256, dtype=bool)
_DIGIT[0x30:0x3A] = True
