"""What a scan finds, what it leaves alone, and what redaction promises."""

from __future__ import annotations

import itertools
import random
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stoker.intake.detect import scan
from stoker.intake.detect.patterns import PATTERNS, byte_options
from stoker.intake.detect.recognise import entropy_bits, iban_check, is_card_number, luhn
from stoker.intake.detect.scan import ALL_KINDS, Finding, excerpt, find, find_each, mask, redact
from stoker.spec.recipe import Kind

FOUND = [
    (Kind.EMAIL, "write to ada.byron+list@mail.example.org, please", "ada.byron+list@mail.example.org"),
    (Kind.EMAIL, "<x_1@example.co.uk>", "x_1@example.co.uk"),
    (Kind.EMAIL, "mailto:a@b.museum?subject=x", "a@b.museum"),
    (Kind.EMAIL, "jürgen@exämple.org", "jürgen@exämple.org"),
    (Kind.PHONE, "call +49 30 901820 today", "+49 30 901820"),
    (Kind.PHONE, "(+1-201-555-0123)", "+1-201-555-0123"),
    (Kind.PHONE, "+31641044153", "+31641044153"),
    (Kind.PHONE, "+44 (0)20 7946 0958", "+44 (0)20 7946 0958"),
    (Kind.PHONE, "office (212) 555-0134.", "(212) 555-0134"),
    (Kind.PHONE, "212-555-0134", "212-555-0134"),
    (Kind.PHONE, "Tel: 030 901820", "030 901820"),
    (Kind.PHONE, '"phone": "5550134567"', "5550134567"),
    (Kind.IPV4, "from 192.0.2.17 port 22", "192.0.2.17"),
    (Kind.IPV4, "http://10.1.2.3:8080/", "10.1.2.3"),
    (Kind.IPV4, "10.0.0.0/8", "10.0.0.0"),
    (Kind.IPV6, "at 2001:db8::8a2e:370:7334.", "2001:db8::8a2e:370:7334"),
    (Kind.IPV6, "[fe80::1]", "fe80::1"),
    (Kind.IPV6, "::ffff:192.0.2.1", "::ffff:192.0.2.1"),
    (Kind.CARD, "card 4111 1111 1111 1111 exp", "4111 1111 1111 1111"),
    (Kind.CARD, "2024 01 01 4111-1111-1111-1111", "4111-1111-1111-1111"),
    (Kind.CARD, "378282246310005", "378282246310005"),
    (Kind.CARD, "3782 822463 10005", "3782 822463 10005"),
    (Kind.CARD, "5555555555554444", "5555555555554444"),
    (Kind.CARD, "2223003122003222", "2223003122003222"),
    (Kind.IBAN, "IBAN: DE89 3704 0044 0532 0130 00 please", "DE89 3704 0044 0532 0130 00"),
    (Kind.IBAN, "GB82WEST12345698765432", "GB82WEST12345698765432"),
    (Kind.IBAN, "NO9386011117947", "NO9386011117947"),
    (Kind.IBAN, "MT84MALT011000012345MTLCAST001S", "MT84MALT011000012345MTLCAST001S"),
    (Kind.SECRET, "id AKIAIOSFODNN7EXAMPLE.", "AKIAIOSFODNN7EXAMPLE"),
    (Kind.SECRET, "ghp_" + "a1B2" * 9, "ghp_" + "a1B2" * 9),
    (Kind.SECRET, "github_pat_" + "11ABCDEFG0" * 4, "github_pat_" + "11ABCDEFG0" * 4),
    (Kind.SECRET, "hf_" + "aB3dE6gH9j" * 3 + "kLmN", "hf_" + "aB3dE6gH9j" * 3 + "kLmN"),
    (Kind.SECRET, 'api_key = "q8Zt2LmN5xVb"', "q8Zt2LmN5xVb"),
    (
        Kind.SECRET,
        "AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMI/K7MDENG/bPxRfiCY3X2ab",
        "wJalrXUtnFEMI/K7MDENG/bPxRfiCY3X2ab",
    ),
    (
        Kind.SECRET,
        "x eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abc-DEF_123 y",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abc-DEF_123",
    ),
    (Kind.URL_CREDENTIALS, "postgres://app:s3cret!@db/main", "app:s3cret!"),
    (Kind.URL_CREDENTIALS, "https://:token@example/", ":token"),
]


@pytest.mark.parametrize(("kind", "text", "expected"), FOUND, ids=[f"{k}-{t[:24]}" for k, t, _ in FOUND])
def test_finds_exactly_the_personal_bytes(kind: Kind, text: str, expected: str) -> None:
    data = text.encode()
    assert [(one.kind, data[one.start : one.end].decode()) for one in find(data)] == [(kind, expected)]


TEXTS_WITH_CONTEXT = [
    "my IBAN is gb42nawi04454264788619", "IBAN DE893704\n00440532013000", "card 4111 1111\n1111 1111",
    "+49 30\n901820", "ada@\nexample.org", "credit card 501864667909?", "call me at 467 3395",
    "SSN 832-13-6314", "DNI 12345678Z", "131052-308T", "RSSMRA85M01H501Q", "529.982.247-25",
    "93.05.18-223.61", "756.9217.0769.85", "11010519491231002X", "1 85 05 78 006 084 91", "AB 12 34 56 C",
    "personnummer 811228-9874", "passport C01X00T478", "BSN 111222333",
    "my driver's license number is F162823540116", "driving licence AB123456", "00:1a:2b:3c:4d:5e",
    "born 12/1/1981", "né le 3.4.1970", "date of birth: 1 January 1970", "DOB=1970-01-01",
    "geboren am 1.2.1960", "61 year old", "aged 42", "she turned 52.", "when he was 65", "33 y/o",
    "48.85837, 2.294481", "48°51'29\"N 2°17'40\"E", "ZIP: 53650", "code postal 75001", "B0J 2H0",
    "SW1A 1AA", "Boston, MA 02110", "https://www.UEarly.se/", "www.example.de/x", "see example.org.",
    "My name is Persint", "Dear Zargan Vedzizhev,", "\"No,\" says Izumi.",
    "I work for Chemical Abstracts Service", "Persint is a bank", "travelling to Ettelgem",
    "We are proud surinameses", "Talking-books clerk\nx", "worked as Passenger booking clerk",
    "12 March 1999", "since 1977", "2000-04-16 11:34:35", "Apt. 12",
]  # fmt: skip

LEFT_ALONE = [
    "@property", "a @ b", "user@localhost", "matrix@other", ".@example.org", "x@-bad-.org",
    "Python 3.11.7", "version 1.2.3.4", "v2.0.0.0", "pkg==1.2.3.4", "__version__ = '1.2.3.4'",
    "1.3.6.1.4.1", "127.0.0.1", "0.0.0.0", "255.255.255.0", "256.1.1.1", "01.02.03.04", "RFC4291 2.5.5.2",
    "x[::2]", "d[1::2]", "12:34:56", "00:00:00:00:00:00", "::1", "std::vector", "a::b", "2024-01-02T03:04:05",
    "4111111111111112", "1234567890123456", "0.4111111111111111", "x4111111111111111", "9223372036854775807",
    "GB82WEST12345698765433", "XX82WEST12345698765432", "AB12CDEF",
    "+12345678", "x+31641044153", "Decimal('+35236450.6')", "+10011010010", "2.34-567-8901", "1234-555-0134x",
    "555 0134", "2024-01-02", "12-34-5678",
    "password = getpass.getpass()", "token = self.next_token(stream)", "secret_key=some_function_name",
    'password = "changeme"', "tokens: list[Token]", "XAKIAIOSFODNN7EXAMPLE", "ghp_short",
    "eyJhbGciOiJub25lfQ.eyJub3RqcmVhbA.x", "http://host:8080/a@b", "https://example/", "C:\\a:b@c",
]  # fmt: skip


@pytest.mark.parametrize("text", LEFT_ALONE)
def test_leaves_alone_what_only_looks_personal(text: str) -> None:
    assert find(text.encode(), ALL_KINDS - {Kind.DATE, Kind.DOMAIN}) == ()


def test_a_private_key_block_goes_whole_with_or_without_its_end() -> None:
    body = "\n".join(["MIIEvQIBADANBgkqhkiG9w0BAQEFAASC"] * 5)
    whole = f"-----BEGIN RSA PRIVATE KEY-----\n{body}\n-----END RSA PRIVATE KEY-----"
    assert redact(f"a\n{whole}\nb".encode(), ALL_KINDS) == (b"a\n<SECRET>\nb", {Kind.SECRET: 1})
    cut_off = f"-----BEGIN PRIVATE KEY-----\n{body}\n"
    assert redact(f"{cut_off}!rest".encode(), ALL_KINDS) == (b"<SECRET>!rest", {Kind.SECRET: 1})


def test_overlapping_findings_leave_no_part_of_either() -> None:
    data = b"see https://joe:pass@example.org/x"
    assert find(data) == (Finding(12, 32, Kind.URL_CREDENTIALS),)
    assert redact(data, [Kind.EMAIL])[0] == b"see https://joe:<EMAIL>/x"


def test_only_the_kinds_asked_for_are_redacted() -> None:
    data = b"a@example.org from 192.0.2.1"
    assert redact(data, [Kind.IPV4]) == (b"a@example.org from <IPV4>", {Kind.IPV4: 1})
    assert redact(data, []) == (data, {})


def test_the_triggers_miss_nothing_that_a_recogniser_takes() -> None:
    text = " ;\n".join([*(text for _, text, _ in FOUND), *LEFT_ALONE])
    scanner = scan._Scanner(ALL_KINDS)
    for line in [text, *text.split("\n"), *TEXTS_WITH_CONTEXT]:
        data = line.encode()
        taken = {
            index
            for index, (pattern, expression) in enumerate(scanner.patterns)
            for match in expression.finditer(data)
            if any(True for _ in pattern.recogniser(data, *match.span()))
        }
        assert taken <= set(scanner.candidates(data)), line


def test_a_set_that_ran_out_of_memory_is_not_taken_for_a_clean_text(monkeypatch: pytest.MonkeyPatch) -> None:
    class OutOfMemory:
        def Match(self, data: bytes) -> None:
            return None

    scanner = scan._Scanner(ALL_KINDS)
    scanner.set = OutOfMemory()
    monkeypatch.setattr(scan, "_scanner", lambda kinds: scanner)
    assert [one.kind for one in find(b"a@example.org")] == [Kind.EMAIL]


PIECES = st.sampled_from(
    [text for _, text, _ in FOUND]
    + LEFT_ALONE
    + [
        "@",
        "+",
        ".",
        ":",
        "-",
        "://",
        "é",
        "\U0001f600",
        "\n",
        " ",
        "4111",
        "a@b.",
        "org",
        "<EMAIL>",
        "=",
        '"',
        "secret",
        "Name: ",
        '"full_name": "',
        "Ada Lovelace",
        "name,email,phone\n",
        "Adresse: Ulmenweg 3, 12345 Köln",
        "Dr. ",
        "\\u00e9",
        "&amp;",
        "GmbH",
    ]
)
TEXTS = st.lists(st.one_of(PIECES, st.text(max_size=12)), max_size=14).map("".join)


@settings(max_examples=400, deadline=None)
@given(TEXTS, st.sets(st.sampled_from(list(Kind))))
def test_redacted_text_is_utf8_and_a_second_scan_finds_nothing(text: str, kinds: set[Kind]) -> None:
    redacted, counts = redact(text.encode(), kinds)
    redacted.decode()
    assert find(redacted, kinds) == ()
    assert set(counts) <= kinds


@settings(max_examples=200, deadline=None)
@given(TEXTS)
def test_findings_are_in_order_and_do_not_overlap(text: str) -> None:
    data = text.encode()
    found = find(data)
    assert all(one.start < one.end <= len(data) for one in found)
    assert all(one.end <= two.start for one, two in itertools.pairwise(found))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_can_be_scanned(data: bytes) -> None:
    redacted, _ = redact(data, ALL_KINDS)
    assert find(redacted) == ()


@given(st.text(alphabet=string.digits, min_size=12, max_size=18))
def test_one_changed_digit_breaks_luhn(digits: str) -> None:
    check = next(d for d in string.digits if luhn((digits + d).encode()))
    number = digits + check
    place = random.Random(digits).randrange(len(number))
    changed = number[:place] + str((int(number[place]) + 1) % 10) + number[place + 1 :]
    assert not luhn(changed.encode())


def test_checksums_and_prefixes_decide() -> None:
    assert iban_check(b"FR1420041010050500013M02606")
    assert not iban_check(b"FR1420041010050500013M0260")
    assert is_card_number(b"6011111111111117")
    assert is_card_number(b"3530111333300000")
    assert not is_card_number(b"9999999999999995")
    assert entropy_bits(b"aaaa") == 0.0
    assert entropy_bits(b"abcd") == 2.0


def test_a_mask_shows_the_shape_and_nothing_else() -> None:
    assert mask(b"Ada.B7@example.org") == "Xxx.X9@xxxxxxx.xxx"
    assert mask(b"\x1b[2J\xff") == "?[9X?"
    assert mask(b"a" * 100) == "x" * 48 + "…"


def test_an_excerpt_masks_every_finding_of_its_line() -> None:
    data = b"first line\n\tfrom ada@example.org to 192.0.2.7\nlast"
    found = find(data)
    assert excerpt(data, found, 0) == "from <EMAIL xxx@xxxxxxx.xxx> to <IPV4 999.9.9.9>"
    assert excerpt(data, found, 1) == excerpt(data, found, 0)


def test_an_excerpt_of_a_long_line_is_cut_between_characters() -> None:
    data = ("€" * 40 + " ada@example.org " + "€" * 40).encode()
    text = excerpt(data, find(data), 0)
    assert text.strip("€") == " <EMAIL xxx@xxxxxxx.xxx> "
    assert 20 <= text.count("€") <= 24


def test_every_pattern_compiles_alone_and_has_its_own_name() -> None:
    assert byte_options().max_mem == 64 * 1024 * 1024
    assert len({pattern.name for pattern in PATTERNS}) == len(PATTERNS)
    assert {pattern.kind for pattern in PATTERNS} <= {None, *Kind}


def test_many_texts_at_once_give_what_each_gives_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(20261123)
    examples = [text.encode() for _, text, _ in FOUND] + [
        b"", b"\n", b"Dear Mr", b" Byron", b"Ada", b"Lovelace lives in New", b"Zealand", b"12 Main Street,",
        b"Springfield",
        "Grüße von Jürgen".encode(), b"\xff\xfe", b"works for ", b"Siemens", b"born in", b"Leeds on 3",
    ]  # fmt: skip
    for size in (1, 2, 40):
        monkeypatch.setattr(scan, "GROUP_BYTES", chance.choice((1, 100, 1 << 19)))
        for _ in range(30):
            texts = [chance.choice(examples)[chance.randint(0, 3) :] for _ in range(size)]
            assert find_each(texts) == [find(text) for text in texts]
    assert find_each([]) == []


def test_a_place_of_two_words_is_found_before_a_line_end() -> None:
    data = b"She moved to New Zealand\nlast year"
    assert Finding(13, 24, Kind.LOCATION) in find(data)
