"""A card or an IBAN that a border between items or fields of one row cuts in two is found; real sources."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from stoker.core.progress import SILENT
from stoker.intake.importing import import_source
from stoker.intake.row_borders import REACH_BYTES, ends_of, find_across
from stoker.intake.scan_report import scan_source
from stoker.intake.source_reader import SourceReader
from stoker.keys.partition import BackendKeySource
from stoker.spec.kinds import Kind
from stoker.spec.recipe import ImportSpec
from support.intake_home import IntakeHome, intake_home

CARD = "4111111111111111"
IBAN = "DE89370400440532013000"


@pytest.fixture
def home(tmp_path: Path) -> Iterator[IntakeHome]:
    with intake_home(tmp_path / "home") as made:
        yield made


def row(**values: object) -> list[tuple[str, bytes]]:
    return [("rows.jsonl/0.json", json.dumps(values).encode())]


@pytest.mark.parametrize(("kind", "value"), [(Kind.CARD, CARD), (Kind.IBAN, IBAN)])
def test_atk_039_a_value_cut_anywhere_into_two_fields_is_found(kind: Kind, value: str) -> None:
    for cut in range(1, len(value)):
        fields = row(before="17", left=value[:cut], right=value[cut:], after="coal")
        assert [one.kind for one in find_across(fields)] == [kind], value[:cut]


def test_atk_039_more_than_two_fields_items_and_long_texts_are_looked_at_together() -> None:
    in_four = row(a="4111", b="1111", c=1111, d="1111", e="Bob")
    in_three = row(a="DE8937040", b="044053201", c="3000")
    items = [
        ("r/1.txt", b"the furnace " * 40 + b"paid by 4111 1111 1\n"),
        ("r/1.json", b'{"rest": "111 1111", "n": 3}'),
    ]
    assert [one.shown for one in find_across(in_four)] == ["9999 | 9999 | 9999 | 9999"]
    assert [one.kind for one in find_across(in_three)] == [Kind.IBAN]
    assert [(one.kind, one.item) for one in find_across(items)] == [(Kind.CARD, 0)]
    short = [(path, ends_of(path, data)) for path, data in items]
    assert len(short[0][1]) == 2 * REACH_BYTES + 1
    assert find_across(short) == find_across(items)
    two = row(a="4111 1111", b="1111 1111 and DE89 3704 0044", c="0532 0130 00")
    assert [one.kind for one in find_across(two)] == [Kind.CARD, Kind.IBAN]


def test_whole_values_that_meet_and_what_cannot_go_on_make_nothing() -> None:
    assert find_across(row(a=CARD, b="5500005555555559")) == []
    assert find_across(row(a=CARD[:4], b=[1], c=CARD[4:])) == []
    assert find_across(row(a=CARD[:8], b="", c=CARD[8:])) == []
    assert find_across(row(a=f"x{CARD[:8]}", b=CARD[8:])) == []
    assert find_across(row(a=CARD[:8], b=CARD[8:-1] + "2")) == []
    assert find_across([("a.json", b"[" * 100_000), ("a.txt", b"\xff\xfe"), ("a.label", b"")]) == []


def test_tables_of_small_numbers_hold_no_cards() -> None:
    chance = random.Random(4)
    shapes = [(1, 2, 3, 4, 2, 1), (5, 5, 5, 5, 5), (3, 2, 4, 1), (6, 6, 6)]
    for shape in shapes:
        for _ in range(400):
            numbers = {
                f"c{at}": chance.randrange(10 ** (size - 1), 10**size) for at, size in enumerate(shape)
            }
            assert find_across(row(**numbers)) == []


def test_the_scan_of_a_real_table_counts_what_lies_over_its_fields(home: IntakeHome, tmp_path: Path) -> None:
    rows = [{"text": f"order {n} of coal", "paid": "cash", "with": str(n)} for n in range(20)]
    rows[7] |= {"paid": CARD[:9], "with": CARD[9:]}
    rows[11] |= {"text": "the account is DE89 3704 0044 05", "paid": "32 0130 00"}
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "orders.jsonl").write_text("".join(f"{json.dumps(each)}\n" for each in rows))
    record = import_source(
        "orders",
        tmp_path / "rows",
        ImportSpec(text_column="text", extra_columns=("paid", "with")),
        actor="asker",
        ledger=home.ledger,
        backend=home.backend,
        store=home.store,
        progress=SILENT,
        clock=home.clock,
        locks=home.locks,
    ).record
    keys = BackendKeySource(home.backend)
    with SourceReader.open(record, home.store, keys, home.backend.signer("manifest").public_key) as reader:
        report = scan_source(reader, SILENT, 1)
    assert (report.counts["card"], report.counts["iban"]) == (1, 1)
    assert (report.files_with["card"], report.files_with["iban"]) == (1, 1)
    shown = {one.finding: one.text for one in report.examples}
    assert shown[Kind.CARD] == "over fields of the row: 999999999 | 9999999"
    assert shown[Kind.IBAN] == "over fields of the row: XX99 9999 9999 99 | 99 9999 99"
    assert CARD[:9] not in str(report) and "3704" not in str(report)
