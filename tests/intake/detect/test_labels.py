"""Values behind the names of fields and columns: what is taken, and what only looks like a field."""

from __future__ import annotations

import pytest

from stoker.intake.detect import columns, scan
from stoker.intake.detect.labels import LABELS, kind_of
from stoker.intake.detect.scan import find
from stoker.spec.kinds import ALL_KINDS, DEFAULT_KINDS, Kind

FIELDS = [
    (Kind.PERSON, '{"full_name": "Wimla Torvin"}', "Wimla Torvin"),
    (Kind.PERSON, '{"customerName":"Torvin, Wimla"}', "Torvin, Wimla"),
    (Kind.PERSON, "Naam: Wimla van der Torvin\n", "Wimla van der Torvin"),
    (Kind.PERSON, "Imię i nazwisko: Wimła Torvińska\n", "Wimła Torvińska"),
    (Kind.PERSON, "<name>Wimla Torvin</name>", "Wimla Torvin"),
    (Kind.PERSON, "PATIENT NAME: WIMLA TORVIN\n", "WIMLA TORVIN"),
    (Kind.PERSON, "user=7 name=Wimla Torvin\n", "Wimla Torvin"),
    (Kind.ORGANISATION, '"company": "Torvin & Wim Overseas"', "Torvin & Wim Overseas"),
    (Kind.ORGANISATION, "Arbeitgeber: Torvin Werke\n", "Torvin Werke"),
    (Kind.LOCATION, '"city": "Torvinsk"', "Torvinsk"),
    (Kind.NATIONALITY, "Staatsangehörigkeit: deutsch\n", "deutsch"),
    (Kind.NATIONALITY, "di nazionalità italiana, lavora", "italiana"),
    (Kind.NATIONALITY, "met de Nederlandse nationaliteit, en", "Nederlandse"),
    (Kind.TITLE, "Anrede: Frau\n", "Frau"),
    (Kind.TITLE, "Tytuł: dr\n", "dr"),
    (Kind.STREET_ADDRESS, '"street_address": "Torvin 12 B"', "Torvin 12 B"),
    (Kind.STREET_ADDRESS, '"street_address": "12 Torvin"', "12 Torvin"),
    (Kind.POSTCODE, '"postal_code": "8320 NH"', "8320 NH"),
    (Kind.POSTCODE, "Kod pocztowy: 29-732\n", "29-732"),
    (Kind.POSTCODE, "Código postal: 4305-875\n", "4305-875"),
    (Kind.POSTCODE, "Postnummer: 279 94\n", "279 94"),
    (Kind.PHONE, '"phoneNumber": "030 2823784"', "030 2823784"),
    (Kind.PHONE, "Puhelin: 0442 1234\n", "0442 1234"),
    (Kind.BIRTH_DATE, "Geboortedatum: 28-11-1973\n", "28-11-1973"),
    (Kind.BIRTH_DATE, "Født den 04-06-1989 i", "04-06-1989"),
    (Kind.BIRTH_DATE, "Data de nascimento: 3 de maio de 1980\n", "3 de maio de 1980"),
    (Kind.AGE, "Leeftijd: 59\n", "59"),
    (Kind.AGE, '"age": 42,', "42"),
    (Kind.NATIONAL_ID, "Steuer-ID 54077968130, wohnhaft", "54077968130"),
    (Kind.NATIONAL_ID, "NIF: 227677145\n", "227677145"),
    (Kind.NATIONAL_ID, '"national_id": "865781771"', "865781771"),
    (Kind.NATIONAL_ID, "Le numéro de sécurité sociale 178078474207360, né", "178078474207360"),
    (Kind.DRIVER_LICENCE, '"driver_license": "Y0777DV0170"', "Y0777DV0170"),
    (Kind.DRIVER_LICENCE, "Driving licence number: HADWO700529DM9UY\n", "HADWO700529DM9UY"),
    (Kind.DRIVER_LICENCE, "numer prawa jazdy 84495/20/7134, ur", "84495/20/7134"),
    (Kind.DRIVER_LICENCE, "Permiso de conducir: 9622387931\n", "9622387931"),
]

LEFT_ALONE = [
    "name: Build and test\n", "name = Foo\n", 'name = "foo"\n', "name: Optional[str] = None",
    "name=None, age=None",
    "filename: Makefile\n", "last_name: String,\n", "self.title = Window(", 'title="Print preview"',
    "Title: The Art of Computer Programming\n",
    "address: 127.0.0.1\n", 'address = "0x7fff"', "address: see below\n",
    "company = Company()", "city = City.objects.get(", "phone: str", "zip: bool", "zip(a, b)",
    "age: int = 3000",
    "max-age=60", "Max-Age: 3600", "cp = 65000", "sin 1234567", "nationality: str", "name,email\n",
    "name, address and phone are kept", "Position: 12\n", "country: see list\n",
    "license number: 123456789\n",
    "Name: <PERSON>\n", '"full_name": ""', "name: Run Pytest\n", "# Name: value\n",
]  # fmt: skip


def found(text: str) -> list[tuple[Kind, str]]:
    data = text.encode()
    return [(one.kind, data[one.start : one.end].decode()) for one in find(data)]


@pytest.mark.parametrize(("kind", "text", "expected"), FIELDS, ids=[text[:30] for _, text, _ in FIELDS])
def test_a_field_whose_name_says_its_kind_gives_its_value(kind: Kind, text: str, expected: str) -> None:
    assert (kind, expected) in found(text)
    assert "".join(value for _, value in found(text)) == expected


@pytest.mark.parametrize("text", LEFT_ALONE)
def test_settings_code_and_prose_that_look_like_fields_are_left_alone(text: str) -> None:
    assert [
        one for one in found(text) if one[0] in DEFAULT_KINDS | {Kind.AGE, Kind.TITLE, Kind.NATIONALITY}
    ] == []


def test_a_label_is_known_in_any_spelling_of_names() -> None:
    for name in (
        "postal_code",
        "postalCode",
        "PostalCode",
        "POSTAL CODE",
        "billing-postal-code",
        "Postal code",
    ):
        assert kind_of(name) == (Kind.POSTCODE, True)
    assert kind_of("numéro de permis") == (Kind.DRIVER_LICENCE, True)
    assert kind_of("name") == (Kind.PERSON, False)
    assert kind_of("max_age") is kind_of("filename") is kind_of("") is None
    assert all(kind_of(label) is not None for labels in LABELS.values() for label in labels)


TABLES = [
    'Nom,Courriel,Téléphone,Ville\n"Torvin, Wimla",w@torvin.fr,04 72 11 22 33,Torvinsk\n',
    "name;email;phone;city\nWimla Torvin;w@torvin.fr;04 72 11 22 33;Torvinsk\n",
    "id\tfull_name\tphone\tcity\n1\tWimla Torvin\t04 72 11 22 33\tTorvinsk\n",
    "| Name | Phone | City |\n|---|---|---|\n| Wimla Torvin | 04 72 11 22 33 | Torvinsk |\n",
    "INSERT INTO t (id, name, phone, city) VALUES (1, 'Wimla Torvin', '04 72 11 22 33', 'Torvinsk');",
    "COPY t (id, name, phone, city) FROM stdin;\n1\tWimla Torvin\t04 72 11 22 33\tTorvinsk\n\\.\n",
]


@pytest.mark.parametrize("table", TABLES, ids=[table[:12] for table in TABLES])
def test_cells_under_the_names_of_columns_are_found(table: str) -> None:
    values = {value for _, value in found(table)}
    assert values >= {"04 72 11 22 33", "Torvinsk"}
    assert values & {"Wimla Torvin", "Torvin, Wimla"}


def test_every_row_of_a_table_and_every_value_of_a_statement_counts() -> None:
    rows = "".join(f"{number},Wimla Torvin,2{number:08d},x\n" for number in range(50))
    assert sum(kind == Kind.PERSON for kind, _ in found(f"id,name,pesel,other\n{rows}")) == 50
    assert sum(kind == Kind.NATIONAL_ID for kind, _ in found(f"id,name,pesel,other\n{rows}")) == 50
    values = ", ".join("('Wimla O''Torvin', '30.1.1980')" for _ in range(20))
    kinds = [kind for kind, _ in found(f"INSERT INTO t (name, dob) VALUES {values};")]
    assert kinds.count(Kind.BIRTH_DATE) == 20


def test_a_table_ends_where_its_rows_do() -> None:
    text = "name,phone,city\nWimla Torvin,04 72 11 22 33,Torvinsk\n\nFlimsy Borvax,77 88,Gorvinsk\n"
    assert "Gorvinsk" not in {value for _, value in found(text)}
    assert found("name,phone,city\nname,phone,city\n") == []
    code = found("import name, city, country\nx = Wimla, Torvin, Sorvin\n")
    assert [one for one in code if one[0] in DEFAULT_KINDS] == []


def test_many_headers_cost_what_their_lines_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each line belongs to one header at most, so that rows are not read once for every header above."""
    read: list[int] = []
    line = columns._line

    def counted(data: bytes, at: int, separator: bytes) -> tuple[list[tuple[int, int]], int]:
        read.append(at)
        return line(data, at, separator)

    monkeypatch.setattr(columns, "_line", counted)
    text = b"name,phone,city\nQ,W,E\n" * 300
    find(text)
    assert 600 <= len(read) <= 1300


def test_the_triggers_miss_nothing_that_a_field_or_table_gives() -> None:
    scanner = scan._Scanner(ALL_KINDS)
    for line in [*(text for _, text, _ in FIELDS), *LEFT_ALONE, *TABLES]:
        data = line.encode()
        taken = {
            index
            for index, (pattern, expression) in enumerate(scanner.patterns)
            for match in expression.finditer(data)
            if any(True for _ in pattern.recogniser(data, *match.span()))
        }
        assert taken <= set(scanner.candidates(data)), line
