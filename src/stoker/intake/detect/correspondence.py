"""People as letters and mails name them: forms of address, greetings, closing words, names before addresses.

See docs/design/detect.md, "Context". What stands there is a person whether or not a list has the name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from stoker.intake.detect.contexts import CAPITAL, marks_of
from stoker.intake.detect.lexicon import Mark
from stoker.intake.detect.recognise import Found, Span, after
from stoker.intake.detect.values import words_at
from stoker.spec.kinds import Kind

_LINK: Final = (
    rb"(?:(?:van|von|der|den|de|del|della|di|da|do|dos|das|du|la|le|al|el|bin|ibn|ter|ten|zu|af|av) )"
)
_INITIAL: Final = rb"(?:[A-Z]\. ?)"
NAME: Final = (
    _LINK + rb"{0,3}" + CAPITAL + rb"(?: " + _INITIAL + rb"{0,3}" + _LINK + rb"{0,3}" + CAPITAL + rb"){0,3}"
)
_NAME: Final = re.compile(NAME)
_TURNED: Final = re.compile(rb", " + CAPITAL + rb"(?: " + _INITIAL + rb"| " + CAPITAL + rb")?")
_DULL: Final = int(Mark.COMMON | Mark.TECHNICAL | Mark.MONTH | Mark.WEEKDAY)

# Forms of address that say nothing else, and those that are also an initial or a word.
_SURE: Final = (
    rb"Mrs?|Ms|Mx|Dr|Prof|Rev|Frau|Herrn?|Monsieur|Madame|Mademoiselle|Mme|Mlle|Sra?|Srta|Dra|D\xc3\xb1a"
    rb"|Do\xc3\xb1a|Se\xc3\xb1ora?|Se\xc3\xb1orita|Sig|Sig\.(?:ra|na)|Signora?|Signorina|Dott|Dott\.ssa"
    rb"|Dottor|Dottoressa|Prof\.ssa|Avv|Dhr|Mevr|Mevrouw|Pani|Senhora?|Fru|Fr\xc3\xb6ken|Fr\xc3\xb8ken|Rouva"
    rb"|Herra|Pan\xc3\xad|MUDr|JUDr|PhDr|mgr in\xc5\xbc|mgr|lek\. med|Dipl\.-Ing"
)
_ALSO: Final = (
    rb"M|D|Don|Dona|Pan|Sir|Dame|Lord|Lady|Hr|Ing|Mag|Arch|Ir|Drs|dr|prof|dhr|mevr|pan|pani|herr|frau"
)
ADDRESSED: Final = (
    rb"(?:\A|[^A-Za-z0-9_.\x80-\xff])(?:"
    + _SURE
    + rb"|"
    + _ALSO
    + rb")\.? (?:"
    + _LINK
    + rb"|[A-Z\xc3-\xd4])"
)
_SURELY: Final = re.compile(rb"(?:" + _SURE + rb")\.?\Z")

_CLOSINGS: Final = (
    rb"regards|sincerely|yours truly|yours faithfully|best wishes|cheers|thanks|thank you|many thanks"
    rb"|respectfully|cordially|gr\xc3\xbc\xc3\x9fen|gr\xc3\xbc\xc3\x9fe|gr\xc3\xbcssen|hochachtungsvoll"
    rb"|cordialement|salutations|saludos|atentamente|un saludo|saluti|cordialmente|distinti saluti|groeten?"
    rb"|hoogachtend|h\xc3\xa4lsning|h\xc3\xa4lsningar|hilsen|pozdrawiam|powa\xc5\xbcaniem|cumprimentos"
    rb"|atenciosamente|terveisin|pozdravem|\xc3\xbcdv\xc3\xb6zlettel|tisztelettel|sayg\xc4\xb1lar\xc4\xb1mla"
    rb"|signed|gezeichnet|signature"
)
CLOSED: Final = rb"(?i:" + _CLOSINGS + rb")[,.!:]?[ \t]*\r?\n[ \t\r\n]{0,4}(?:- ?)?[A-Z\xc3-\xd4][^\n]{1,60}"
CLOSED_TRIGGER: Final = rb"(?i:" + _CLOSINGS + rb")[,.!:]?[ \t]*\r?\n"
WRITTEN_TO: Final = rb"[A-Za-z\x80-\xff.\"')] ?<[A-Za-z0-9._%+\-\x80-\xff]+@"
INTRODUCED: Final = (
    rb"(?i:\b(?:hi|hello|hey|good (?:morning|afternoon|evening|day)|hallo|bonjour|hola|ciao"
    rb"|hej))[,!.]? (?i:this is|it's|it is|here is|hier ist|c'est|ici|soy|sono|aqu\xc3\xad|met"
    rb"|h\xc3\xa4r \xc3\xa4r) [A-Z\xc3-\xd4]"
)


def _name_at(data: bytes, at: int, *, certain: bool) -> Span | None:
    """The longest name that begins at `at`, with a given name behind a comma where it stands turned round."""
    match = _NAME.match(data, at, at + 80)
    possessive = data.find(b"'s", at, match.end()) if match else -1
    if possessive > at:
        match = _NAME.match(data, at, possessive)
    while match is not None:
        turned = _TURNED.match(data, match.end(), match.end() + 40)
        if turned and marks_of(turned.group()[2:].split(b" ")[0]) & Mark.GIVEN:
            span = words_at(Kind.PERSON, data, at, turned.end(), certain=True)
            if span:
                return span
        span = words_at(Kind.PERSON, data, at, match.end(), certain=certain)
        if span:
            last = data[at : span[1]].rsplit(b" ", 1)[-1]
            if b" " not in data[at : span[1]] or not (
                marks_of(last) & _DULL and not marks_of(last) & Mark.SURNAME
            ):
                return span
        cut = data.rfind(b" ", at, match.end())
        match = _NAME.match(data, at, cut) if cut > at else None
    return None


def addressed(data: bytes, start: int, end: int) -> Iterator[Found]:
    """A form of address and the name behind it."""
    if not (0x41 <= data[start] <= 0x5A or 0x61 <= data[start] <= 0x7A):
        start += 1
    space = data.index(b" ", start, end)
    while (following := data.find(b" ", space + 1, end)) >= 0 and data[space + 1 : following] in (
        b"med.",
        b"in\xc5\xbc",
    ):
        space = following
    if after(data, space + 2) in b" ,;:\n\t" and data[space + 1] < 0x80:
        return  # a letter alone is no name
    certain = _SURELY.match(data, start, space) is not None
    if data[start:space].rstrip(b".") in (b"M", b"D") and re.search(
        rb"[A-Za-z\x80-\xff] \Z", data[max(0, start - 2) : start]
    ):
        return  # an initial in the middle of a name
    name = _name_at(data, space + 1, certain=certain)
    if name:
        yield Found(start, space, Kind.TITLE)
        yield Found(*name, Kind.PERSON)


def closed(data: bytes, start: int, end: int) -> Iterator[Span]:
    """The name on the line below words such as `Kind regards`."""
    line = data.rindex(b"\n", start, end) + 1
    text = data[line:end].strip(b" \t\r-")
    first = data.index(text, line, end) if text else end
    span = words_at(Kind.PERSON, data, first, first + len(text), certain=True)
    if span and not all(marks_of(word) & _DULL for word in re.findall(rb"[A-Za-z\x80-\xff]+", text)):
        yield span


_PART: Final = re.compile(
    rb"[\"'(]?(?:" + CAPITAL + rb"\.?|van|von|der|den|de|del|della|di|da|do|dos|das|du|la|le|al|el|bin|ibn"
    rb"|ter|ten|zu|af|av)\Z"
)
MAX_PARTS: Final = 6


def written_to(data: bytes, start: int, end: int) -> Iterator[Span]:
    """The name before an address in angle brackets, as in heads of mails and lists of authors."""
    bracket = data.index(b"<", start, end)
    begin = max(data.rfind(b"\n", max(0, bracket - 80), bracket) + 1, bracket - 80, 0)
    text = data[begin:bracket].rstrip(b" \"')")
    last = begin + len(text)
    first = last
    for part in reversed(text.split(b" ")[-MAX_PARTS:]):
        bare = part[:-1] if part.endswith(b",") and first < last else part
        if _PART.match(bare) is None:
            break
        first -= len(part) + (first < last)
    if first == last:
        return
    while data[first] in b"\"'(":
        first += 1
    comma = data.find(b", ", first, last)
    if comma >= 0 and data[max(0, first - 2) : first] != b": " and data[first - 1 : first] not in _STARTS:
        first = comma + 2  # the end of a sentence or of another name
    while first < last:
        span = words_at(Kind.PERSON, data, first, last, certain=False)
        if span:
            yield span
            return
        space = data.find(b" ", first, last)
        if space < 0:
            return
        first = space + 1


_STARTS: Final = (b"", b'"', b"'", b"\n")


def introduced(data: bytes, start: int, end: int) -> Iterator[Span]:
    """The name in `Hello, this is …`."""
    del start
    span = _name_at(data, end - 1, certain=False)
    if span:
        yield span
