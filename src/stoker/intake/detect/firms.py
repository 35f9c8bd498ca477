"""Organisations of many countries by their legal form or by the word that they begin with. Pure.

See docs/design/detect.md, "Organisations". English forms that are one word are in `names`, by runs of words.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from stoker.intake.detect.contexts import CAPITAL, marks_of
from stoker.intake.detect.lexicon import Mark
from stoker.intake.detect.recognise import Span, after, before

_AND: Final = rb"(?:&|et|und|e|y|och|og|en|i|ja|a)"
_OF: Final = rb"(?:de|del|della|di|da|do|dos|das|du|des|la|le|van|der|den|von|der|f\xc3\xbcr|voor|w|we|na)"
_WORD: Final = rb"(?:" + CAPITAL + rb"|\d{1,4})"
_NAME: Final = (
    rb"(?:(?:van|von|de|der|den|ter|ten|di|del|della|da|do|dos) ){0,2}"
    + CAPITAL
    + rb"(?: (?:(?:"
    + _AND
    + rb"|"
    + _OF
    + rb"(?: "
    + _OF
    + rb")?) )?"
    + _WORD
    + rb"){0,5}"
)
_FORM: Final = (
    rb"(?:S\.A\.(?:S\.|U\.)?|S\.L\.(?:U\.)?|S\.r\.l\.|S\.R\.L\.|S\.p\.A\.|S\.n\.c\.|S\.a\.s\.|S\.C\.A\."
    rb"|B\.V\.|N\.V\.|V\.O\.F\.|[Ss]p\. ?z ?o\.? ?o\.|[Ss]p\. ?[jk]\.|Lda\.?|Ltda\.?|Unipessoal(?: Lda\.?)?"
    rb"|[eE]\.V\.|e\.K\.|mbH|GmbH(?: & Co\. KG)?|OHG|KG|AG|SARL|SASU?|EURL|SA|SL|Srl|SpA|BV|NV|AB|HB|KB|A/S"
    rb"|ApS|ASA|Oyj?|Ky|s\.r\.o\.|a\.s\.|v\.o\.s\.|d\.o\.o\.|d\.d\.|Kft\.?|Zrt\.?|Nyrt\.?|A\.\xc5\x9e\."
    rb"|Ltd\.? \xc5\x9eti\.?|plc|PLC|LLC|LLP|Inc\.?|Ltd\.?|Corp\.?|Pty Ltd|Pte Ltd)"
)
_FIRST: Final = (
    rb"(?:Stichting|Vereniging|Fundacja|Stowarzyszenie|Fundaci\xc3\xb3n|Funda\xc3\xa7\xc3\xa3o|Fondazione"
    rb"|Fondation|Stiftung|Sparkasse|Kreissparkasse|Volksbank|Raiffeisenbank|Stadtwerke|Autohaus|Klinikum"
    rb"|Universit\xc3\xa4t|Banca|Banco|Banque|Caja|Caixa|Cr\xc3\xa9dit|Cassa|Caisse|Gruppo|Grupo|Groupe"
    rb"|Soci\xc3\xa9t\xc3\xa9|Sociedad|Sociedade|Societ\xc3\xa0|Talleres|Officine|Officina"
    rb"|Bank Sp\xc3\xb3\xc5\x82dzielczy|Zak\xc5\x82ady?|Sp\xc3\xb3\xc5\x82dzielnia|Przedsi\xc4\x99biorstwo"
    rb"|Kancelaria|Szpital|Uniwersytet|Politechnika|Universit\xc3\xa9|Universidad|Universidade"
    rb"|Universit\xc3\xa0|Universiteit|Universitet|H\xc3\xb4pital|Ospedale|Ziekenhuis|Cl\xc3\xadnica|Clinica"
    rb"|Clinique|Gemeente|Ayuntamiento|Comune|Mairie|Instituto|Istituto|Institut|Escuela|Colegio|Scuola"
    rb"|Lyc\xc3\xa9e|Szko\xc5\x82a|Hospital|Laboratoires?|Laboratorios?|\xc3\x89tablissements|Cabinet|Bufete"
    rb"|Farmacia|Apotheke|Pharmacie|Construcciones|Transportes|Trasporti|Edizioni|Ediciones|Verlag)"
)
WITH_FORM: Final = _NAME + rb",? " + _FORM
WITH_FORM_TRIGGER: Final = rb"[a-z0-9\x80-\xff.],? " + _FORM + rb"[^A-Za-z0-9(]"
FIRST_WORD: Final = (
    _FIRST
    + rb"(?: "
    + CAPITAL
    + rb"){0,2} (?:"
    + _OF
    + rb" (?:"
    + _OF
    + rb" )?)?"
    + CAPITAL
    + rb"(?: "
    + CAPITAL
    + rb"){0,2}"
)
FIRST_WORD_TRIGGER: Final = _FIRST + rb" (?:[a-z]{1,3} |[A-Z\xc3-\xd4])"

_DULL: Final = int(Mark.COMMON | Mark.TECHNICAL | Mark.MONTH | Mark.WEEKDAY)
_ALONE: Final = frozenset(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_") | frozenset(
    range(128, 256)
)
_WORDS: Final = re.compile(rb"[A-Za-z\x80-\xff]+")
_SHOUTED: Final = re.compile(rb"[A-Z]{2,}\Z")
_BEGINNINGS: Final = (b"", b"\n", b":", b'"', b"'", b">", b",", b"\t")
_LEAD: Final = frozenset(b"The A An This For In At By And From To With Of Our My Copyright".split())


def with_form(data: bytes, start: int, end: int) -> Iterator[Span]:
    """A name and the legal form behind it, with what `&`, `et` or `und` join before it."""
    if before(data, start) in _ALONE or (after(data, end) in _ALONE and data[end - 1] != 0x2E):
        return
    beginning = data[max(0, start - 2) : start].rstrip(b" ")[-1:] in _BEGINNINGS
    while (space := data.find(b" ", start, end)) > 0 and (
        data[start:space] in _LEAD or (data[start : start + 1].islower() and not beginning)
    ):
        start = space + 1
    name, _, form = data[start:end].rpartition(b" ")
    words = _WORDS.findall(name)
    if not words or after(data, end) == 0x28:
        return
    if _SHOUTED.match(form) and len(form) <= 3 and marks_of(words[-1]) & _DULL and len(words) == 1:
        return  # two capitals behind a word: an abbreviation of something else
    if all(marks_of(word) & _DULL for word in words) and form.isupper() and b"." not in form:
        return
    yield start, end


def first_word(data: bytes, start: int, end: int) -> Iterator[Span]:
    """`Stichting …`, `Banca Popolare di …`, `Universität …`: the word and the name behind it."""
    if before(data, start) in _ALONE:
        return
    words = _WORDS.findall(data, start, end)
    while len(words) > 2 and marks_of(words[-1]) & _DULL and not marks_of(words[-1]) & Mark.PLACE:
        end = data.rindex(b" ", start, end)
        words = words[:-1]
    if not marks_of(words[-1]) & _DULL:
        yield start, end
