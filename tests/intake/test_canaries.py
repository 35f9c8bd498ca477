"""Planted identities: made by their own check digits, written in many ways, and counted strictly."""

from __future__ import annotations

import re

import pytest

from stoker.intake.canaries.forms import FORMS, kinds_of
from stoker.intake.canaries.identities import KINDS, ascii_of, identity
from stoker.intake.canaries.locales import LOCALES
from stoker.intake.canaries.numbers import luhn_digit
from stoker.intake.canaries.recall import Copy, Planted, PlantTask, Tally, copy_with, is_found, plant, tally
from stoker.intake.canaries.writings import PLAIN_OF, WRITINGS, writing_of
from stoker.intake.detect.scan import Finding
from stoker.intake.policy.gate import worst_recall
from stoker.spec.kinds import DEFAULT_KINDS, Kind

SEED = b"a seed"


def copies(count: int) -> list[Copy]:
    return [copy_with(number, SEED, b"one line\nand another one\n") for number in range(count)]


def test_an_identity_is_the_same_whenever_it_is_asked_for_and_no_two_are() -> None:
    assert identity(7, SEED) == identity(7, SEED)
    made = {(one.values["name"], one.values["email"], one.values["account"]) for one in map(by, range(500))}
    assert len(made) == 500
    assert identity(7, SEED) != identity(7, b"another")


def by(number: int) -> object:
    return identity(number, SEED)


def test_numbers_hold_by_their_check_digits() -> None:
    for number in range(300):
        values = identity(number, SEED).values
        digits = re.sub(r"\D", "", values["card"])
        assert luhn_digit(digits[:-1]) == digits[-1]
        iban = values["account"].replace(" ", "")
        assert int("".join(str(int(letter, 36)) for letter in iban[4:] + iban[:4])) % 97 == 1


@pytest.mark.parametrize(
    ("language", "number", "holds"),
    [
        (3, "nir", lambda text: 97 - int(text[:13]) % 97 == int(text[13:])),
        (4, "dni", lambda text: "TRWAGMYFPDXBNJZSQVHLCKE"[int(text[:8]) % 23] == text[8]),
        (
            6,
            "bsn",
            lambda text: (
                (sum(int(d) * w for d, w in zip(text, (9, 8, 7, 6, 5, 4, 3, 2, -1), strict=True))) % 11 == 0
            ),
        ),
        (
            7,
            "pesel",
            lambda text: (
                sum(int(d) * w for d, w in zip(text, (1, 3, 7, 9, 1, 3, 7, 9, 1, 3, 1), strict=True)) % 10
                == 0
            ),
        ),
        (9, "personnummer", lambda text: luhn_digit(text.replace("-", "")[:-1]) == text[-1]),
    ],
)
def test_national_ids_hold_by_their_country_rules(language: int, number: str, holds: object) -> None:
    ids = [identity(language + len(LOCALES) * each, SEED).values["id"] for each in range(50)]
    assert callable(holds)
    assert all(holds(each) for each in ids), number


def test_every_kind_form_language_and_writing_is_planted() -> None:
    made = copies(1500)
    assert {one.language for one in made} == {locale.language for locale in LOCALES}
    assert {one.form for one in made} == set(FORMS)
    assert {one.writing for one in made} == set(WRITINGS)
    assert kinds_of([form(identity(0, SEED)) for form in FORMS.values()]) == set(Kind) == set(KINDS.values())
    assert sum(one.writing == "plain" for one in made) / len(made) > 0.7
    assert {writing_of(number) for number in range(PLAIN_OF)} == set(WRITINGS)


def test_planted_places_hold_the_values_and_the_source_stays_around_them() -> None:
    number = next(
        number for number, one in enumerate(copies(60)) if (one.form, one.writing) == ("letter", "plain")
    )
    copy = copy_with(number, SEED, b"one line\nand another one\n")
    texts = {copy.data[value.start : value.end].decode() for value in copy.planted}
    assert texts <= set(identity(number, SEED).values.values())
    assert len(texts) > 10
    first, last = copy.planted[0].start, copy.planted[-1].end
    around = copy.data[:first] + copy.data[last:]
    assert all(line in around for line in (b"one line\n", b"and another one\n"))
    assert ascii_of("Łękarß Åkerö") == "lekarssakero"


def test_half_a_value_that_is_found_is_not_found() -> None:
    copy = Copy(b"Ada Lovelace!", (Planted("person", 0, 13),), "en", "chat", "plain")
    value = copy.planted[0]
    assert not is_found(copy, value, [Finding(0, 3, Kind.PERSON)])
    assert not is_found(copy, value, [Finding(0, 11, Kind.PERSON)])
    assert is_found(copy, value, [Finding(0, 3, Kind.EMAIL), Finding(4, 12, Kind.PERSON)])
    accented = Copy("Åsa".encode(), (Planted("person", 0, 4),), "sv", "chat", "plain")
    assert not is_found(accented, accented.planted[0], [Finding(1, 4, Kind.PERSON)])


def test_a_finder_that_sees_all_or_nothing_has_recall_one_or_zero() -> None:
    everything = tally(iter(copies(30)), lambda data: [Finding(0, len(data), Kind.PERSON)])
    nothing = tally(iter(copies(30)), lambda data: [])
    assert {one.value for one in everything.shares("kind").values()} == {1.0}
    assert {one.value for one in nothing.shares("kind").values()} == {0.0}
    assert all(one.high < 1.0 for one in nothing.shares("kind").values() if one.of > 1)


def test_atk_041_recall_of_planted_canaries_shuts_the_gate_when_it_is_low() -> None:
    """The real recognisers on 1,500 identities; `review scan --canaries 100000` plants more the same way."""
    found = plant(PlantTask(0, 1500, SEED, (b"The quick brown fox.\nIt went away.\n",))).shares("kind")
    assert found["email"].of >= 1000
    assert found["email"].low > 0.5
    assert worst_recall(found, ["email"]) == found["email"].low
    assert worst_recall({}, ["email"]) in (None, 0.0)
    blind = tally(iter(copies(200)), lambda data: []).shares("kind")
    lowest = worst_recall(blind, ["email", "card"])
    assert lowest is not None
    assert lowest < 0.01


def test_recall_of_every_kind_and_way_of_writing_is_as_high_as_measured_md_says() -> None:
    """The command of docs/design/measured.md with fewer people; the bounds leave room for chance."""
    found = plant(PlantTask(0, 1500, b"measured", (b"The quick brown fox.\nIt went away.\n",)))
    by_kind = found.shares("kind")
    assert {kind for kind, one in by_kind.items() if one.value < 0.85} == set()
    assert {kind for kind in map(str, DEFAULT_KINDS) if by_kind[kind].low < 0.85} == set()
    assert {name for name, one in found.shares("writing").items() if one.low < 0.85} == set()
    assert {name for name, one in found.shares("language").items() if one.low < 0.85} == set()


def test_a_value_is_written_before_its_form_escapes_it() -> None:
    copies_of_json = [one for one in copies(1500) if one.form == "json_ascii" and one.writing == "full_width"]
    assert copies_of_json
    for copy in copies_of_json:
        assert copy.data.isascii()
        assert b"\\uff" in copy.data


def test_tallies_add_up_in_any_split() -> None:
    whole = plant(PlantTask(0, 90, SEED, (b"host\n",)))
    parts = Tally()
    for first in (60, 0, 30):
        parts.merge(plant(PlantTask(first, first + 30, SEED, (b"host\n",))))
    assert whole.shares("kind") == parts.shares("kind")
    assert whole.shares("form") == parts.shares("form")
