"""Identity numbers, moments, names and addresses: what is taken and what is left."""

from __future__ import annotations

import pytest

from stoker.intake.detect import identity
from stoker.intake.detect.scan import find
from stoker.spec.kinds import ALL_KINDS, Kind

IDS = [
    "832-13-6314",  # United States
    "12345678Z", "X1234567L",  # Spain
    "131052-308T",  # Finland
    "RSSMRA85M01H501Q",  # Italy
    "529.982.247-25",  # Brazil
    "93.05.18-223.61",  # Belgium
    "756.9217.0769.85",  # Switzerland
    "11010519491231002X",  # China
    "1 85 05 78 006 084 91",  # France
    "AB 12 34 56 C",  # Great Britain
    "811228-9874",  # Sweden
]  # fmt: skip


def found(text: str) -> list[tuple[Kind, str]]:
    data = text.encode()
    return [(one.kind, data[one.start : one.end].decode()) for one in find(data)]


@pytest.mark.parametrize("number", IDS)
def test_a_national_number_is_found_and_one_changed_digit_is_not(number: str) -> None:
    assert found(f"x: {number} !") == [(Kind.NATIONAL_ID, number)]
    if number[3:4] == "-" or number.startswith("AB"):
        return
    place = next(index for index, letter in enumerate(number) if letter.isdigit() and index > 1)
    changed = number[:place] + str((int(number[place]) + 1) % 10) + number[place + 1 :]
    assert (Kind.NATIONAL_ID, changed) not in found(f"x: {changed} !")


def test_numbers_without_a_shape_of_their_own_need_their_words() -> None:
    for announced in (
        "BSN 111222333",
        "fødselsnummer 29029600013",
        "PESEL 44051401359",
        "passport no AB1234567",
    ):
        assert [kind for kind, _ in found(announced)] == [Kind.NATIONAL_ID]
    assert found("serial 111222333") == []
    assert identity.norwegian(b"29029600013") and not identity.norwegian(b"29029600014")
    assert identity.polish(b"44051401359") and not identity.polish(b"44051401358")
    assert identity.dutch(b"111222333") and not identity.dutch(b"111222334")
    assert identity.german(b"86095742719") and not identity.german(b"86095742718")
    assert identity.verhoeff(b"234123412346") and not identity.verhoeff(b"234123412347")


SENTENCES = [
    (Kind.PHONE, "call me at 467 3395", "467 3395"),
    (Kind.PHONE, "her mobile: 0688 872 49 99", "0688 872 49 99"),
    (Kind.PHONE, "+1-903-140-4508x769", "+1-903-140-4508x769"),
    (Kind.PHONE, "01 42 68 53 00", "01 42 68 53 00"),
    (Kind.CARD, "my credit card 501864667909?", "501864667909"),
    (Kind.DRIVER_LICENCE, "my driver's license number is F162823540116", "F162823540116"),
    (Kind.MAC, "from 00:1a:2b:3c:4d:5e on", "00:1a:2b:3c:4d:5e"),
    (Kind.COORDINATES, "at 48.85837, 2.29448 now", "48.85837, 2.29448"),
    (Kind.COORDINATES, "48°51'29\"N 2°17'40\"E", "48°51'29\"N 2°17'40\"E"),
    (Kind.BIRTH_DATE, "born on 12/1/1981 in", "12/1/1981"),
    (Kind.BIRTH_DATE, "geboren am 1.2.1960", "1.2.1960"),
    (Kind.DATE, "on 2000-04-16 11:34:35", "2000-04-16 11:34:35"),
    (Kind.DATE, "since 1977", "1977"),
    (Kind.AGE, "a 61 year old woman", "61"),
    (Kind.POSTCODE, "ZIP: 53650", "53650"),
    (Kind.POSTCODE, "B0J 2H0", "B0J 2H0"),
    (Kind.DOMAIN, "see https://www.example.cz/a, or", "https://www.example.cz/a"),
    (Kind.PERSON, "then Katarzyna Kaczmarek came", "Katarzyna Kaczmarek"),
    (Kind.PERSON, "asked Kevin Veitonen II about", "Kevin Veitonen II"),
    (Kind.PERSON, "and Guido van Rossum wrote", "Guido van Rossum"),
    (Kind.PERSON, "My name is Zargan, hello", "Zargan"),
    (Kind.PERSON, "follow up with patricia desrosiers soon", "patricia desrosiers"),
    (Kind.ORGANISATION, "Hubbard, Fox and Gillespie", "Hubbard, Fox and Gillespie"),
    (Kind.ORGANISATION, "the Quorvix Ltd. car", "Quorvix Ltd."),
    (Kind.ORGANISATION, "I work for Boreal Tide Works", "Boreal Tide Works"),
    (Kind.LOCATION, "a trip to New Zealand", "New Zealand"),
    (Kind.LOCATION, "it rains in Wrocław today", "Wrocław"),
    (Kind.NATIONALITY, "We are proud surinameses", "surinameses"),
    (Kind.TITLE, "Rolling machine operator\n", "Rolling machine operator"),
    (Kind.STREET_ADDRESS, "at 17 Nightingale Lane, Apt. 5 then", "17 Nightingale Lane, Apt. 5"),
    (Kind.STREET_ADDRESS, "in der Lindenstraße 12, 50674 Köln gibt", "Lindenstraße 12, 50674 Köln"),
    (Kind.STREET_ADDRESS, "au 12 rue de la Paix, 75002 Paris puis", "12 rue de la Paix, 75002 Paris"),
    (Kind.STREET_ADDRESS, "PSC 4095, Box 8316\nAPO AE 85103 x", "PSC 4095, Box 8316\nAPO AE 85103"),
]


@pytest.mark.parametrize(("kind", "text", "expected"), SENTENCES, ids=[text[:28] for _, text, _ in SENTENCES])
def test_a_sentence_gives_exactly_its_personal_part(kind: Kind, text: str, expected: str) -> None:
    assert found(text) == [(kind, expected)]


def test_a_form_of_address_is_a_title_and_what_follows_a_person() -> None:
    assert found("to Mrs. Nanaho Nishiyima?") == [(Kind.TITLE, "Mrs."), (Kind.PERSON, "Nanaho Nishiyima")]


PLAIN = [
    "Python 3 is on Windows 10 and Debian 12.", "The May release will mark the end of support.",
    "Section 4 of Chapter 5, Table 12.", "Return the Key if the Value is None.", "Will the Queue be empty?",
    "class Queue(Generic[T]):", "from Foo import Bar", "threading.Lock and Event.set()",
    "IEEE 754, RFC 2822, ISO 8601",
    "Monday-to-Friday schedule = [1, 2, 3]",
    "in 10 years", "Dear all,", "page 5 of 10", "x = 1234567",
    "HTTP/1.1 200 OK", "Error 404: Not Found", "0.12345, 0.67890", "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12",
    "Copyright (c) The Authors. All Rights Reserved.", "BOOL WINAPI GetVersionEx", "[0-9]{4} (?:a|b)",
]  # fmt: skip


@pytest.mark.parametrize("text", PLAIN)
def test_technical_prose_and_code_are_left_alone(text: str) -> None:
    default_but_names = ALL_KINDS - {Kind.DATE, Kind.ORGANISATION}
    assert [one for one in find(text.encode()) if one.kind in default_but_names] == []


def test_a_row_of_long_groups_is_a_table_whatever_stands_beside_it() -> None:
    row = " ".join(["12345678"] * 7)
    assert found(f"hex dump {row} and call 030 2823784 now") == [(Kind.PHONE, "030 2823784")]
    assert found(f"{row}\n{row}\n") == []
