"""Personal data that lies across a border, or is written so that it only looks like itself."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stoker.intake.detect.normal import dense, normal
from stoker.intake.detect.scan import OVERLAP_BYTES, WINDOW_BYTES, Finding, find, find_in_pieces
from stoker.spec.kinds import Kind

VALUES = [
    (Kind.EMAIL, "ada.byron@example.org"),
    (Kind.CARD, "4111 1111 1111 1111"),
    (Kind.IBAN, "DE89 3704 0044 0532 0130 00"),
    (Kind.PHONE, "+49 30 901820"),
    (Kind.NATIONAL_ID, "832-13-6314"),
    (Kind.SECRET, "ghp_" + "a1B2" * 9),
    (Kind.IPV4, "192.0.2.17"),
    (Kind.PERSON, "Katarzyna Kaczmarek"),
    (Kind.STREET_ADDRESS, "17 Nightingale Lane, Apt. 5"),
]


@pytest.mark.parametrize(("kind", "value"), VALUES)
def test_atk_039_a_chunk_border_anywhere_hides_nothing(kind: Kind, value: str) -> None:
    data = f"see {value} there".encode()
    start, end = 4, 4 + len(value.encode())
    for cut in range(start + 1, end):
        left, right = find_in_pieces([data[:cut], data[cut:]])
        assert [(one.start, one.end) for one in left if one.kind == kind] == [(start, cut)]
        assert [(one.start, one.end) for one in right if one.kind == kind] == [(0, end - cut)]


ACROSS = [
    (Kind.CARD, "4111 1111\n1111 1111"),
    (Kind.CARD, '4111 1111", "rest": "1111 1111'),
    (Kind.CARD, "4111<b>1111</b>1111<i>1111"),
    (Kind.CARD, "41111111,11111111"),
    (Kind.CARD, '4111 1111";"1111 1111'),
    (Kind.IBAN, "DE89 3704 0044\n0532 0130 00"),
    (Kind.IBAN, 'DE893704","iban_2":"00440532013000'),
    (Kind.IBAN, "DE89 3704 0044</td><td>0532 0130 00"),
    (Kind.IBAN, "DE8937040044,0532013000"),
    (Kind.PHONE, "+49 30\n901820"),
    (Kind.PHONE, '+49 30", "number": "901820'),
    (Kind.PHONE, "+49</b> 30 <i>901820"),
    (Kind.EMAIL, "ada.byron@\nexample.org"),
    (Kind.EMAIL, "ada<wbr>@exam<b>ple.org"),
    (Kind.EMAIL, 'ada.byron@", "host": "example.org'),
    (Kind.PERSON, "Katarzyna</td><td>Kaczmarek"),
]


@pytest.mark.parametrize(("kind", "value"), ACROSS)
def test_atk_039_a_line_field_tag_or_cell_border_hides_nothing(kind: Kind, value: str) -> None:
    data = f'x "{value}" y'.encode()
    found = [one for one in find(data) if one.kind == kind]
    assert [(one.start, one.end) for one in found] == [(3, 3 + len(value.encode()))]


def test_atk_039_fields_are_joined_with_and_without_a_blank() -> None:
    given_name, family_name = find_in_pieces([b"Katarzyna", b"Kaczmarek"])
    assert [one.kind for one in (*given_name, *family_name)] == [Kind.PERSON, Kind.PERSON]
    first, second, third = find_in_pieces([b"4111 1111", b"1111", b"1111"])
    assert (first, second, third) == (
        (Finding(0, 9, Kind.CARD),),
        (Finding(0, 4, Kind.CARD),),
        (Finding(0, 4, Kind.CARD),),
    )
    assert find_in_pieces([]) == ()
    assert find_in_pieces([b"", b"a@example.org"]) == ((), find(b"a@example.org"))


@pytest.mark.parametrize(("kind", "value"), VALUES)
def test_atk_039_windows_overlap_by_more_than_any_shape(kind: Kind, value: str) -> None:
    filler = b"the furnace and the boiler are looked after well; "
    whole = (filler * (3 * WINDOW_BYTES // len(filler)))[: 3 * WINDOW_BYTES]
    for at in range(2 * WINDOW_BYTES - len(value) - 8, 2 * WINDOW_BYTES + 8, 5):
        data = whole[:at] + b" - " + value.encode() + b" - " + whole[at:]
        assert [(one.start, one.kind) for one in find(data) if one.kind == kind] == [(at + 3, kind)]
    assert max(len(value) for _, value in VALUES) < OVERLAP_BYTES


DISGUISED = [
    (Kind.EMAIL, "ａｄａ＠example．org"),
    (Kind.EMAIL, "аdа@exаmple.org"),
    (Kind.EMAIL, "a\u200bda@exam\u00adple.org"),
    (Kind.CARD, "4111\u200b1111\u200b1111\u200b1111"),
    (Kind.CARD, "4111\u00a01111\u00a01111\u00a01111"),
    (Kind.CARD, "４１１１ １１１１ １１１１ １１１１"),
    (Kind.CARD, "٤١١١ ١١١١ ١١١١ ١١١١"),
    (Kind.PHONE, "+49\u202f30\u2011901820"),
    (Kind.IBAN, "DE89\u20093704\u20090044\u20090532\u20090130\u200900"),
    (Kind.PERSON, "Jose\u0301 Garci\u0301a"),
    (Kind.PERSON, "Sara\u2060 Schwarz"),
    (Kind.IPV4, "192。0。2。17"),
    (Kind.IPV6, "2а2с:853а:с0аа:аа10:аdеа:d809:8fсb:3аb7"),
    (Kind.MAC, "5d:71:а0:8d:72:81"),
    (Kind.PERSON, "Jos\\u00e9 Garc\\u00eda"),
    (Kind.PERSON, "Jose\\u0301 Garci\\u0301a"),
    (Kind.PERSON, "Jos&eacute; Garc&#237;a"),
    (Kind.EMAIL, "ada&#64;example.org"),
    (Kind.EMAIL, "ada\\uff20example.org"),
]


@pytest.mark.parametrize(("kind", "value"), DISGUISED)
def test_what_only_looks_like_itself_is_found_at_its_own_bytes(kind: Kind, value: str) -> None:
    data = f"so: {value} !".encode()
    found = find(data)
    assert [(one.start, one.end, one.kind) for one in found] == [(4, len(data) - 2, kind)]


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=60))
def test_a_changed_piece_maps_back_to_whole_characters(text: str) -> None:
    data = text.encode(errors="surrogatepass") if text.isprintable() else text.encode(errors="ignore")
    seen = normal(data)
    size = len(seen.data)
    assert seen.original(0, size)[1] == len(data) or seen.begins
    chance = random.Random(len(text))
    for _ in range(8):
        start = chance.randint(0, size)
        end = chance.randint(start, size)
        first, last = seen.original(start, end)
        assert 0 <= first <= len(data)
        assert start == end or first <= last <= len(data)


def test_escapes_that_stand_for_no_letter_of_a_word_stay_as_they_are() -> None:
    for text in (
        r"'\u20ac' = 0x80",
        r"\ud800 alone",
        r"C:\users\u12",
        "a &unknown; b",
        "a & b; c",
        r"zero \u0000 byte",
        "&#10;",
        "&#0;",
    ):
        assert normal(text.encode()).data == text.encode()
    assert normal(rb"caf\u00e9 &amp; \ud83d\ude00").data == "café & \U0001f600".encode()


def test_a_term_and_its_definition_read_like_a_label_and_its_value() -> None:
    table = b"<dl><dt>Name</dt><dd>Ada Quorvix</dd>\n<dt>Born</dt><dd>1.2.1990</dd></dl>"
    assert b"Name: Ada Quorvix\nBorn: 1.2.1990<" in normal(table).data
    found = [(one.kind, table[one.start : one.end]) for one in find(table)]
    assert found == [(Kind.PERSON, b"Ada Quorvix"), (Kind.BIRTH_DATE, b"1.2.1990")]
    assert normal(b"<tr><th>Age</th><td>42</td></tr>").data == b"<tr><th>Age: 42</td></tr>"


def test_text_in_another_script_stays_as_it_is() -> None:
    for text in ("Привет, мир. Как дела?", "Καλημέρα κόσμε", "日本語のテキスト", "Grüße aus Köln", "plain"):
        assert normal(text.encode()).data == text.encode()
        assert not normal(text.encode()).begins


def test_a_text_with_a_change_everywhere_gives_the_same_findings_letter_by_letter() -> None:
    for text in (
        "a\u200b" * 40,
        "１２ " * 40,
        "x ａｄａ＠example．org \u2009",
        "4111\u200b1111\u200b1111\u200b1111 é",
    ):
        data = text.encode()
        slow, fast = normal(data), dense(data)
        assert fast.data == slow.data
        for start in range(0, len(fast.data), 3):
            for end in range(start + 1, len(fast.data), 5):
                first, last = fast.original(start, end)
                wide_first, wide_last = slow.original(start, end)
                assert wide_first <= first <= last <= wide_last
    hidden = ("a\u200bd\u200ba\u200b@\u200be\u200bx\u200b.\u200bo\u200br\u200bg " + "b\u200b" * 400).encode()
    found = [one for one in find(hidden) if one.kind == Kind.EMAIL]
    assert [hidden[one.start : one.end].decode().replace("\u200b", "") for one in found] == ["ada@ex.org"]


def test_many_invisible_characters_do_not_save_a_lookalike() -> None:
    data = ("b\u200b" * 900 + " аdа@exаmple.org " + "Jose\u0301 Garci\u0301a" + " <b>x</b>y").encode()
    found = {one.kind: data[one.start : one.end].decode() for one in find(data)}
    assert found == {Kind.EMAIL: "аdа@exаmple.org", Kind.PERSON: "Jose\u0301 Garci\u0301a"}
