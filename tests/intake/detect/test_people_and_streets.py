"""Names in letters, organisations, streets, ages and postcodes of many countries: taken, and left alone."""

from __future__ import annotations

import pytest

from stoker.intake.detect import scan
from stoker.intake.detect.scan import find
from stoker.spec.kinds import ALL_KINDS, DEFAULT_KINDS, Kind

SENTENCES = [
    (Kind.PERSON, "Reply to Wimla Q. Torvin <wt@example.org> soon", "Wimla Q. Torvin"),
    (Kind.PERSON, "From: Torvin, Wimla <wt@example.org>\n", "Torvin, Wimla"),
    (Kind.PERSON, "We met.\n\nKind regards,\nWimla Torvin\n", "Wimla Torvin"),
    (Kind.PERSON, "Bis bald\n\nMit freundlichen Grüßen\n\nWimla Torvin\n", "Wimla Torvin"),
    (Kind.PERSON, "Merci.\nCordialement,\nWimla van Torvin", "Wimla van Torvin"),
    (Kind.PERSON, "Hi, this is Wimla Torvin, can we", "Wimla Torvin"),
    (Kind.PERSON, "Heeft u Mevr. Torvin gezien?", "Torvin"),
    (Kind.PERSON, "La Sig.ra Wimla Torvin ha", "Wimla Torvin"),
    (Kind.PERSON, "umowa z: dr Wimła Torvińska jest", "Wimła Torvińska"),
    (Kind.TITLE, "La Dott.ssa Wimla Torvin ha", "Dott.ssa"),
    (Kind.TITLE, "Heeft u Dhr. Torvin gezien?", "Dhr."),
    (Kind.ORGANISATION, "bij Torvin & Zonen B.V. in", "Torvin & Zonen B.V."),
    (Kind.ORGANISATION, "dla Torvin Sp. z o.o. w", "Torvin Sp. z o.o."),
    (Kind.ORGANISATION, "chez Wimla et Fils SARL depuis", "Wimla et Fils SARL"),
    (Kind.ORGANISATION, "lavora da Wimla e Figli S.r.l. a", "Wimla e Figli S.r.l."),
    (Kind.ORGANISATION, "bei der Torvin & Söhne GmbH seit", "Torvin & Söhne GmbH"),
    (Kind.ORGANISATION, "presso la Banca Popolare di Torvin dal", "Banca Popolare di Torvin"),
    (Kind.ORGANISATION, "voor Stichting Torvin werken", "Stichting Torvin"),
    (Kind.STREET_ADDRESS, "en Calle de la Wimla, 12 desde", "Calle de la Wimla, 12"),
    (Kind.STREET_ADDRESS, "przy ul. Wimłej 121 od", "ul. Wimłej 121"),
    (Kind.STREET_ADDRESS, "na Rua dos Torvins, 7 e", "Rua dos Torvins, 7"),
    (Kind.STREET_ADDRESS, "au 12 bis, avenue des Torvins depuis", "12 bis, avenue des Torvins"),
    (Kind.STREET_ADDRESS, "lived at 106 Heath Lane until", "106 Heath Lane"),
    (Kind.STREET_ADDRESS, "lived at 12 W. 44th St. until", "12 W. 44th St."),
    (Kind.POSTCODE, "4305-875 Coimbra", "4305-875"),
    (Kind.POSTCODE, "an der Torvin 3, 8020 Wimlach", "8020"),
    (Kind.POSTCODE, "Torvin 12\n617 75 Wimlín", "617 75"),
    (Kind.NATIONALITY, "Její státní občanství české bylo", "české"),
    (Kind.NATIONALITY, "Hänen kansalaisuus suomalainen on", "suomalainen"),
    (Kind.NATIONALITY, "die deutsche Staatsangehörigkeit besitzt", "deutsche"),
    (Kind.AGE, "Sie ist 42 Jahre alt und", "42"),
    (Kind.AGE, "Wimla, 40 ans, habite", "40"),
    (Kind.AGE, "Wimla (de 30 años y", "30"),
    (Kind.AGE, "een 25-jarige vrouw", "25"),
    (Kind.AGE, "Wimła, lat 51, mieszka", "51"),
    (Kind.AGE, "a 42-year-old woman", "42"),
    (Kind.PHONE, "or text me on 07700 900123 then", "07700 900123"),
    (Kind.PHONE, "Mobil 0151 24821642 oder", "0151 24821642"),
    (Kind.IBAN, "Code RSSMRA85M01H501Q IBAN GB82 WEST 1234 5698 7654 32", "GB82 WEST 1234 5698 7654 32"),
    (Kind.DATE, "on 03-12-2016 at", "03-12-2016"),
]

PLAIN = [
    "See the Torvin <https://example.org> page", "List<Foo> x; a @b", "Thanks,\nthe team\n",
    "Cheers\n\n1. Install\n",
    "This is Visual Studio Code, which", "D. The end", "M. and so on", "Part D. Running the tests",
    "Pan the view",
    "2 Hard Drive Errors", "3 Test Runs", "Via HTTP 2", "via Email 3 times", "Avenue to 12 items",
    "Street 5 of 10",
    "12 place holders", "5 route table entries", "GREEK CAPITAL LETTER ALPHA",
    "12, 2020 Report", "line 5,\n12345 Items", "20 years of experience", "after 10 ans",
    "300 Jahre Geschichte",
    "managed 5 servers", "version 1.2, 30 let go", "dual nationality is", "3-4-2020x", "31-31-2020",
    "Version 2, 8020 Bytes",
]  # fmt: skip


def found(text: str) -> list[tuple[Kind, str]]:
    data = text.encode()
    return [(one.kind, data[one.start : one.end].decode()) for one in find(data)]


@pytest.mark.parametrize(("kind", "text", "expected"), SENTENCES, ids=[text[:30] for _, text, _ in SENTENCES])
def test_what_a_sentence_says_of_a_person_is_found(kind: Kind, text: str, expected: str) -> None:
    assert (kind, expected) in found(text) or any(
        each.startswith(expected) for other, each in found(text) if other == kind == Kind.STREET_ADDRESS
    )


@pytest.mark.parametrize("text", PLAIN)
def test_what_only_looks_like_it_is_left_alone(text: str) -> None:
    judged = (DEFAULT_KINDS | {Kind.AGE, Kind.TITLE, Kind.NATIONALITY, Kind.ORGANISATION}) - {Kind.DATE}
    assert [one for one in found(text) if one[0] in judged] == []


def test_the_triggers_miss_nothing_that_a_recogniser_of_words_takes() -> None:
    scanner = scan._Scanner(ALL_KINDS)
    for line in [*(text for _, text, _ in SENTENCES), *PLAIN]:
        data = line.encode()
        taken = {
            index
            for index, (pattern, expression) in enumerate(scanner.patterns)
            for match in expression.finditer(data)
            if any(True for _ in pattern.recogniser(data, *match.span()))
        }
        assert taken <= set(scanner.candidates(data)), line
