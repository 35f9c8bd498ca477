"""Texts under a policy: what is put in the place of findings, and that treating ends with nothing left."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stoker.intake.detect.scan import find
from stoker.intake.policy.general import general
from stoker.intake.policy.pseudonym import PSEUDONYM_LETTERS, Pseudonyms, canonical_value
from stoker.intake.policy.treat import treat
from stoker.keys.errors import SecretWiped
from stoker.keys.secret import SecretKey
from stoker.spec.kinds import Kind
from stoker.spec.policy import GENERALISED, Treatment

LETTER = (
    b"Mail ann.bee@example.org or ANN.BEE@example.org from 192.168.7.9, call +44 20 7946 0958; "
    b"card 4111 1111 1111 1111."
)


@pytest.fixture
def pseudonyms() -> Pseudonyms:
    return Pseudonyms(SecretKey.adopt(bytearray(range(1, 33))))


def test_each_kind_becomes_what_the_policy_says(pseudonyms: Pseudonyms) -> None:
    made = treat(
        LETTER,
        {
            Kind.EMAIL: Treatment.PSEUDONYM,
            Kind.IPV4: Treatment.GENERALISE,
            Kind.PHONE: Treatment.REMOVE,
            Kind.CARD: Treatment.MASK,
        },
        pseudonyms,
    )
    name = pseudonyms.pseudonym(Kind.EMAIL, b"ann.bee@example.org")
    assert made.text == b"Mail %b or %b from 192.168.0.0/16, call ; card <CARD>." % (name, name)
    assert made.counts == {Kind.EMAIL: 2, Kind.IPV4: 1, Kind.PHONE: 1, Kind.CARD: 1}
    assert made.held == ""


def test_kinds_without_a_treatment_stay() -> None:
    assert treat(LETTER, {}).text == LETTER
    assert treat(LETTER, {Kind.EMAIL: Treatment.KEEP}).text == LETTER


def test_a_text_with_a_forbidden_kind_is_held_back_whole() -> None:
    made = treat(LETTER, {Kind.CARD: Treatment.QUARANTINE, Kind.EMAIL: Treatment.MASK})
    assert (made.text, made.held) == (b"", "holds card")
    kept = treat(LETTER, {Kind.IBAN: Treatment.QUARANTINE, Kind.EMAIL: Treatment.MASK})
    assert (kept.held, kept.counts) == ("", {Kind.EMAIL: 2})


def test_what_removal_joins_to_a_new_finding_is_treated_too() -> None:
    """Cutting the address out of the number leaves a card number, which a second round finds."""
    text = b"4111 1111 ann@example.org 1111 1111"
    made = treat(text.replace(b" ann@example.org", b""), {Kind.CARD: Treatment.REMOVE})
    assert made.text == b""
    joined = treat(text, {Kind.EMAIL: Treatment.REMOVE, Kind.CARD: Treatment.QUARANTINE})
    assert find(joined.text, {Kind.EMAIL, Kind.CARD}) == ()


def test_pseudonyms_are_consistent_for_all_ways_to_write_a_value_and_tell_kinds_apart(
    pseudonyms: Pseudonyms,
) -> None:
    same = {
        Kind.PHONE: (b"212-555-0134", b"(212) 555-0134", b"+1 212 555 0134"),
        Kind.IBAN: (b"DE89 3704 0044 0532 0130 00", b"de89370400440532013000"),
        Kind.IPV6: (b"2001:db8::1", b"2001:0DB8:0:0:0:0:0:1"),
        Kind.EMAIL: (b"Ann@Example.org", b"ann@example.org"),
        Kind.PERSON: (b"Ann  Bee", b"ann bee"),
    }
    for kind, ways in same.items():
        assert len({pseudonyms.pseudonym(kind, way) for way in ways}) == 1, kind
    assert pseudonyms.pseudonym(Kind.PHONE, b"4111") != pseudonyms.pseudonym(Kind.CARD, b"4111")
    assert len(pseudonyms.pseudonym(Kind.MAC, b"x")) == len("<MAC_>") + PSEUDONYM_LETTERS
    assert canonical_value(Kind.CARD, b"\xff1 2") == b"12"


def test_another_key_gives_other_pseudonyms_and_a_wiped_one_none(pseudonyms: Pseudonyms) -> None:
    other = Pseudonyms(SecretKey.generate())
    value = b"ann@example.org"
    assert other.pseudonym(Kind.EMAIL, value) != pseudonyms.pseudonym(Kind.EMAIL, value)
    other.close()
    with pytest.raises(SecretWiped):
        other.pseudonym(Kind.EMAIL, value)


def test_a_key_that_reads_as_zeros_is_refused_since_it_would_be_an_unsalted_hash() -> None:
    with pytest.raises(SecretWiped, match="zeros"):
        Pseudonyms(SecretKey())


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        (Kind.DATE, "3 March 1984", "1984"),
        (Kind.BIRTH_DATE, "1984-03-01", "1984"),
        (Kind.BIRTH_DATE, "01/03/84", "1984"),
        (Kind.BIRTH_DATE, "01/03/07", "2007"),
        (Kind.DATE, "1984 to 1985", None),
        (Kind.DATE, "yesterday", None),
        (Kind.AGE, "37", "30 to 39"),
        (Kind.AGE, "aged 8", "0 to 9"),
        (Kind.AGE, "94", "90 or older"),
        (Kind.AGE, "940", None),
        (Kind.IPV4, "192.168.7.9", "192.168.0.0/16"),
        (Kind.IPV4, "192.168.7.9 x", None),
        (Kind.IPV6, "2001:db8:1:2::7", "2001:db8::/32"),
        (Kind.MAC, "00-1A-2B-3c-4d-5e", "00:1a:2b:*:*:*"),
        (Kind.COORDINATES, "52.52001, -13.40495", "52.5, -13.4"),
        (Kind.COORDINATES, "52, 13", None),
        (Kind.POSTCODE, "94103", "94***"),
        (Kind.POSTCODE, "SW1A 1AA", "SW1****"),
        (Kind.DOMAIN, "mail.example.org", "*.org"),
        (Kind.EMAIL, "ann@example.org", None),
    ],
)
def test_values_become_more_general_or_have_no_general_form(
    kind: Kind, value: str, expected: str | None
) -> None:
    made = general(kind, value.encode())
    assert made == (None if expected is None else expected.encode())
    assert kind in GENERALISED or made is None


_WORDS = st.sampled_from(
    [
        *("ann@example.org", "192.168.7.9", "+44 20 7946 0958", "4111 1111 1111 1111", "2001:db8::7"),
        *("4111", "1111", "@", ".org", "the furnace", "10.", "\n", " ", "-", ":", "https://a:b@example.org/"),
        "DE89370400440532013000",
    ]
)
_TREATMENTS = st.dictionaries(
    st.sampled_from(sorted(set(Kind) - GENERALISED)),
    st.sampled_from([Treatment.REMOVE, Treatment.MASK, Treatment.PSEUDONYM, Treatment.QUARANTINE]),
    min_size=1,
)


@settings(max_examples=150, deadline=None)
@given(text=st.lists(_WORDS, max_size=12).map("".join), treatments=_TREATMENTS)
def test_afterwards_nothing_is_found_of_what_was_treated(
    text: str, treatments: dict[Kind, Treatment]
) -> None:
    key = Pseudonyms(SecretKey.adopt(bytearray(range(1, 33))))
    made = treat(text.encode(), treatments, key)
    if not made.held:
        assert find(made.text, treatments) == ()
    assert treat(text.encode(), treatments, key) == made, "the same key makes the same of the same text"


@settings(max_examples=100, deadline=None)
@example("4111 1111 1111 1111::")
@given(text=st.lists(_WORDS, max_size=12).map("".join))
def test_generalising_ends_and_is_not_done_twice(text: str) -> None:
    treatments = dict.fromkeys((Kind.IPV4, Kind.IPV6, Kind.MAC, Kind.COORDINATES), Treatment.GENERALISE)
    made = treat(text.encode(), treatments)
    assert made.held == ""
    left = {(each.kind, made.text[each.start : each.end]) for each in find(made.text, treatments)}
    assert all((general(kind, value) or b"").split(b"/")[0] == value for kind, value in left), left
    assert b"/16/16" not in made.text
