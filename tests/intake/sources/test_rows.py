"""JSON lines and CSV tables: rows become items, and what breaks a row is named by file and line."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from stoker.intake.errors import BrokenSource, LabelMismatch, MissingColumn, SourceTooMuch
from stoker.intake.sources import judge
from stoker.spec.source import Form, Twins
from support.import_sources import bring, contents, leaving_out, nothing_is_left, reasons
from support.intake_home import IntakeHome, intake_home


@pytest.fixture
def home(tmp_path: Path) -> Iterator[IntakeHome]:
    with intake_home(tmp_path / "home") as made:
        yield made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "tables"
    made.mkdir()
    return made


ROWS = [{"text": "first €", "label": 3, "n": 1.5}, {"text": "two\nlines", "label": 0, "n": None}]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz", "ROWS.JSONL"])
def test_lines_of_json_become_items_of_one_key_a_row(home: IntakeHome, folder: Path, name: str) -> None:
    data = LINES.encode()
    (folder / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    report = bring(home, folder)
    assert contents(home, report.record) == {
        f"{name}/000000000.txt": "first €".encode(),
        f"{name}/000000000.cls": b"3",
        f"{name}/000000001.txt": b"two\nlines",
        f"{name}/000000001.cls": b"0",
    }
    assert report.form is Form.JSON_LINES
    assert report.decided[1] == "Columns: text from 'text'; label from 'label'."


def test_columns_are_those_that_the_settings_name(home: IntakeHome, folder: Path) -> None:
    rows = [{"body": "x", "kind": "good", "n": [1, {"a": "ü"}]}, {"body": "y", "kind": "bad", "n": None}]
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = bring(home, folder, text_column="body", label_column="kind", extra_columns=("n",))
    assert contents(home, report.record) == {
        "a.jsonl/000000000.txt": b"x",
        "a.jsonl/000000000.label": b"good",
        "a.jsonl/000000000.json": '{"n":[1,{"a":"ü"}]}'.encode(),
        "a.jsonl/000000001.txt": b"y",
        "a.jsonl/000000001.label": b"bad",
        "a.jsonl/000000001.json": b'{"n":null}',
    }


BAD_LINES: dict[str, tuple[str, str, type[Exception], str]] = {
    "cut off": ('{"text": "x', "bad_row", BrokenSource, "line 2 is no JSON object"),
    "a list": ('["text"]', "bad_row", BrokenSource, "line 2 is no JSON object: it is no object"),
    "nested": ("[" * 100_000, "bad_row", BrokenSource, "line 2 is no JSON object"),
    "no column": (
        '{"other": "x", "label": 1}',
        "missing_column",
        MissingColumn,
        "line 2 has no text .*'text'",
    ),
    "null": ('{"text": null, "label": 1}', "missing_column", MissingColumn, "line 2 has no text .*'text'"),
    "no label": ('{"text": "x"}', "missing_column", MissingColumn, "line 2 has no column 'label'"),
    "odd label": ('{"text": "x", "label": 1.5}', "bad_label", LabelMismatch, "line 2 has a label"),
    "label below": (
        '{"text": "x", "label": -1}',
        "bad_label",
        LabelMismatch,
        "has label -1; it must be 0 to 4",
    ),
    "label above": (
        '{"text": "x", "label": 5}',
        "bad_label",
        LabelMismatch,
        "has label 5; it must be 0 to 4",
    ),
    "half a pair": ('{"text": "\\ud800", "label": 1}', "bad_row", BrokenSource, "line 2 holds"),
    "huge number": ('{"text": "x", "label": ' + "9" * 5000 + "}", "bad_row", BrokenSource, "line 2"),
}


@pytest.mark.parametrize("what", BAD_LINES)
def test_a_bad_line_is_named_and_refused_or_left_out_whole(home: IntakeHome, folder: Path, what: str) -> None:
    line, reason, error, says = BAD_LINES[what]
    (folder / "a.jsonl").write_text(f'{{"text": "1", "label": 1}}\n{line}\n{{"text": "3", "label": 3}}\n')
    with pytest.raises(error, match=rf"a\.jsonl(/| ).*{says}" if "line" in says else says):
        bring(home, folder, classes=5)
    assert nothing_is_left(home)
    report = leaving_out(home, folder, classes=5)
    assert reasons(report) == {reason: 1}
    assert list(contents(home, report.record)) == [
        "a.jsonl/000000000.txt",
        "a.jsonl/000000000.cls",
        "a.jsonl/000000002.txt",
        "a.jsonl/000000002.cls",
    ]


def test_empty_long_and_latin_lines_are_counted(home: IntakeHome, folder: Path) -> None:
    long = json.dumps({"text": "x" * 300})
    lines = [b'{"text": "1"}', b"", long.encode(), b'{"text": "caf\xe9"}', b'{"text": ""}', b'{"text": "6"}']
    (folder / "a.jsonl").write_bytes(b"\n".join(lines))
    report = leaving_out(home, folder, max_file_bytes=100)
    assert reasons(report) == {"empty": 2, "too_large": 1, "bad_row": 1}
    assert list(contents(home, report.record)) == ["a.jsonl/000000000.txt", "a.jsonl/000000005.txt"]
    examples = {each.reason: each.examples for each in report.left_out}
    assert examples["too_large"] == ("a.jsonl line 3",)


def test_a_file_of_lines_without_the_column_is_refused_and_says_what_it_has(
    home: IntakeHome, folder: Path
) -> None:
    (folder / "a.jsonl").write_text('{"body": "x", "id": 1}\n')
    with pytest.raises(
        MissingColumn, match=r"a\.jsonl: there is no column 'text'; it has body, id"
    ) as raised:
        bring(home, folder)
    assert "text_column" in raised.value.hint
    assert 'form = "folder"' in raised.value.hint
    assert contents(home, bring(home, folder, form=Form.FOLDER).record) == {
        "a.jsonl": b'{"body": "x", "id": 1}\n'
    }


def test_a_gzip_bomb_of_lines_is_refused(home: IntakeHome, folder: Path) -> None:
    (folder / "a.jsonl.gz").write_bytes(gzip.compress(b'{"text": "' + b" " * (90 << 20)))
    with pytest.raises(SourceTooMuch, match=r"a\.jsonl\.gz.*over 200 times"):
        bring(home, folder)
    assert nothing_is_left(home)
    assert not any(path.suffix == ".jsonl" for path in folder.rglob("*"))


TABLE = 'id,text,label\n1,"a, ""b""\nsecond line",2\n2,plain €,0\n'


@pytest.mark.parametrize(
    ("name", "delimiter", "data"),
    [
        ("a.csv", "", TABLE),
        ("a.csv", "", "\ufeff" + TABLE),
        (
            "a.csv",
            ";",
            TABLE.replace("id,text,label", "id;text;label")
            .replace(',"a', ';"a')
            .replace('line",2', 'line";2')
            .replace("2,plain €,0", "2;plain €;0")
            .replace("1;", "1;"),
        ),
        ("a.tsv", "", 'id\ttext\tlabel\n1\t"a, ""b""\nsecond line"\t2\n2\tplain €\t0\n'),
        ("a.csv.gz", "", TABLE),
    ],
)
def test_rows_of_a_table_become_items(
    home: IntakeHome, folder: Path, name: str, delimiter: str, data: str
) -> None:
    packed = gzip.compress(data.encode()) if name.endswith("gz") else data.encode()
    (folder / name).write_bytes(packed)
    report = bring(home, folder, delimiter=delimiter)
    assert contents(home, report.record) == {
        f"{name}/000000000.txt": b'a, "b"\nsecond line',
        f"{name}/000000000.cls": b"2",
        f"{name}/000000001.txt": "plain €".encode(),
        f"{name}/000000001.cls": b"0",
    }
    assert report.form is Form.CSV


def test_a_label_that_is_a_word_and_other_columns(home: IntakeHome, folder: Path) -> None:
    (folder / "a.csv").write_text("t,l,x,y\nhello,cat,1,ü\n")
    report = bring(home, folder, text_column="t", label_column="l", extra_columns=("y", "x"))
    assert contents(home, report.record) == {
        "a.csv/000000000.txt": b"hello",
        "a.csv/000000000.label": b"cat",
        "a.csv/000000000.json": '{"x":"1","y":"ü"}'.encode(),
    }


BAD_ROWS: dict[str, tuple[bytes, str, type[Exception], str]] = {
    "too narrow": (b"2\n", "bad_row", BrokenSource, "line 3 has 1 columns; the header has 3"),
    "too wide": (b"2,x,1,more\n", "bad_row", BrokenSource, "line 3 has 4 columns; the header has 3"),
    "latin": (b"2,caf\xe9,1\n", "bad_row", BrokenSource, "line 3 is not UTF-8"),
    "label": (b"2,x,9\n", "bad_label", LabelMismatch, "has label 9"),
}


@pytest.mark.parametrize("what", BAD_ROWS)
def test_a_bad_row_is_named_by_its_line_and_left_out_whole(home: IntakeHome, folder: Path, what: str) -> None:
    row, reason, error, says = BAD_ROWS[what]
    (folder / "a.csv").write_bytes(b"id,text,label\n1,first,1\n" + row + b"3,third,3\n")
    with pytest.raises(error, match=says):
        bring(home, folder, classes=5)
    assert nothing_is_left(home)
    report = leaving_out(home, folder, classes=5)
    assert reasons(report) == {reason: 1}
    assert [path for path in contents(home, report.record) if path.endswith(".txt")] == [
        "a.csv/000000000.txt",
        "a.csv/000000002.txt",
    ]


BAD_TABLES: dict[str, tuple[bytes, type[Exception], str]] = {
    "no column": (b"id,body\n1,x\n", MissingColumn, r"a\.csv: there is no column 'text'; it has body, id"),
    "quote never closed": (b'text\n"x\n' + b"line\n" * 100, BrokenSource, "row that begins at line 2"),
    "quote never closed, long": (b'text\n"x\n' + b"line\n" * 9000, SourceTooMuch, "more than 20000 bytes"),
    "twice": (b"text,text\n1,2\n", BrokenSource, "names 'text' twice"),
}


@pytest.mark.parametrize("what", BAD_TABLES)
def test_a_broken_table_is_named_and_the_next_one_is_taken(home: IntakeHome, folder: Path, what: str) -> None:
    data, error, says = BAD_TABLES[what]
    (folder / "a.csv").write_bytes(data)
    (folder / "b.csv").write_text("text\nx\n")
    with pytest.raises(error, match=says):
        bring(home, folder, max_file_bytes=20_000)
    report = leaving_out(home, folder, max_file_bytes=20_000)
    assert contents(home, report.record) == {"b.csv/000000000.txt": b"x"}
    assert sum(reasons(report).values()) == 1


def test_tables_and_archives_that_hold_nothing_are_counted(home: IntakeHome, folder: Path) -> None:
    (folder / "a.csv").write_text("text\n")
    (folder / "b.csv").write_text("text\nx\n")
    report = bring(home, folder)
    assert (reasons(report), contents(home, report.record)) == ({"empty": 1}, {"b.csv/000000000.txt": b"x"})


def test_rows_of_tables_whose_names_differ_only_in_case_are_told(home: IntakeHome, folder: Path) -> None:
    for name in ("A.jsonl", "a.jsonl"):
        (folder / name).write_text('{"text": "x"}\n')
    report = bring(home, folder)
    assert [(each.reason, each.examples) for each in report.remarks] == [
        ("case_twin", ("a.jsonl/000000000.txt",))
    ]
    assert reasons(bring(home, folder, same_but_case=Twins.LEAVE_OUT)) == {"case_twin": 1}


def test_more_items_than_an_index_can_hold_are_refused(
    home: IntakeHome, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "a.jsonl").write_text('{"text": "x"}\n' * 100)
    bring(home, folder)
    monkeypatch.setattr(judge, "MAX_INDEX_BYTES", 4096 + 50 * (54 + len("a.jsonl/000000000.txt")))
    with pytest.raises(SourceTooMuch, match=r"at a\.jsonl/000000050\.txt its index passes"):
        bring(home, folder)
