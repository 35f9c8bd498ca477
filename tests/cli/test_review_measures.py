"""`stoker review scan` and `stoker review table` as a person uses them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from stoker.core.errors import EXIT_FINDING
from stoker.intake.errors import NoTable
from support.cli_home import CliHome
from support.faces import shipped


@pytest.fixture
def home(home_at: Callable[[str], CliHome]) -> CliHome:
    return home_at("people")


def test_a_scan_says_what_it_measured_and_what_it_did_not_look_into(home: CliHome) -> None:
    folder = home.place / "mixed"
    folder.mkdir()
    (folder / "1.png").write_bytes(shipped("astronaut.png"))
    (folder / "1.txt").write_text("A picture of an astronaut, asked for by q@example.org.\n")
    home.stoker("import", "mixed", "mixed", "--form", "records")
    done = home.stoker("review", "scan", "mixed", "--names", "--sample", "5", "--faces", "--canaries", "40")
    assert "NOT LOOKED INTO: 1 pictures; only their names and metadata were scanned" in done.out
    assert "1 faces in 1 of 1" in done.out
    assert "audit sample of 1 of 1 windows" in done.out
    assert "with 95 % confidence" in done.out
    assert "no text in them is read, and nobody is recognised" in done.out
    assert "recall by writing: confusable" in done.out
    scan = home.data("review", "scan", "mixed", "--names", "--sample", "5", "--faces", "--canaries", "40")
    email = scan["recall"]["email"]
    assert 0.0 <= email["low"] <= email["found"] / email["of"] <= email["high"] <= 1.0
    assert scan["media"]["image"]["faces"] == 1
    plain = home.stoker("review", "scan", "mixed", "--canaries", "0")
    assert "the recall of this scan on this source is not known" in plain.out
    assert '"ok": true' in home.stoker("verify", "--json").out.replace('"ok":true', '"ok": true')


def test_a_table_that_tells_people_apart_is_a_finding_and_a_coarser_one_is_none(home: CliHome) -> None:
    folder = home.place / "table"
    folder.mkdir()
    rows = "".join(f"{13050 + n % 10},{1950 + n},{'flu' if n % 2 else 'cold'}\n" for n in range(40))
    (folder / "patients.csv").write_text("zip,born,disease\n" + rows)
    home.stoker("import", "patients", "table", "--form", "folder")
    done = home.stoker(
        "review",
        "table",
        "patients",
        "--by",
        "zip",
        "--by",
        "born",
        "--sensitive",
        "disease",
        code=EXIT_FINDING,
    )
    assert "k              1 (asked for 5)" in done.out
    assert "DOES NOT HOLD" in done.out
    assert "13050" not in done.out
    coarse = home.stoker(
        "review", "table", "patients", "--by", "zip:3", "--by", "born/10", "--sensitive", "disease"
    )
    assert coarse.out.rstrip().endswith("holds")
    said = home.refused(NoTable, "review", "table", "patients", "--by", "salary")
    assert "it has born, disease, zip" in said
    assert "nothing coarser" in home.stoker("review", "table", "patients", "--by", "zip:0", code=2).err
