"""k-anonymity and l-diversity: the published example by hand, any table by brute force, and real sources."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stoker.core.progress import SILENT
from stoker.intake.errors import NoTable
from stoker.intake.importing import import_source
from stoker.intake.tabular.anonymity import Anonymising, Column
from stoker.intake.tabular.table_report import TableReport, measure_table
from stoker.spec.recipe import ImportSpec
from stoker.spec.source import Form
from support.intake_home import IntakeHome, intake_home

# Machanavajjhala et al., figures 2 and 3: the same twelve patients, 4-anonymous and then 3-diverse.
FOUR_ANONYMOUS = [
    *(("130**", "<30", disease) for disease in ("Heart", "Heart", "Viral", "Viral")),
    *(("1485*", ">=40", disease) for disease in ("Cancer", "Heart", "Viral", "Viral")),
    *(("130**", "3*", disease) for disease in ("Cancer", "Cancer", "Cancer", "Cancer")),
]
THREE_DIVERSE = [
    *(("1305*", "<=40", disease) for disease in ("Heart", "Viral", "Cancer", "Cancer")),
    *(("1485*", ">40", disease) for disease in ("Cancer", "Heart", "Viral", "Viral")),
    *(("1306*", "<=40", disease) for disease in ("Heart", "Viral", "Cancer", "Cancer")),
]


@pytest.mark.parametrize(("rows", "distinct"), [(FOUR_ANONYMOUS, 1), (THREE_DIVERSE, 3)])
def test_the_published_tables_have_their_k_and_l(rows: list[tuple[str, str, str]], distinct: int) -> None:
    counting = Anonymising([Column("zip"), Column("age")], ["disease"])
    for zip_code, age, disease in rows:
        counting.add({"zip": zip_code, "age": age, "disease": disease})
    found = counting.result(4, 3)
    assert (found.k, found.classes, found.rows_below, dict(found.sizes)) == (4, 3, 0, {"3 to 4": 3})
    diversity = found.diversity["disease"]
    assert diversity.distinct_l == distinct
    assert diversity.entropy_l == pytest.approx(1.0 if distinct == 1 else 2**1.5, rel=1e-5)
    assert diversity.rows_below == (8 if distinct == 1 else 0)


CELLS = st.sampled_from(["", "a", "b", "ä", "1"])


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(CELLS, CELLS, CELLS), min_size=1, max_size=40))
def test_any_table_is_counted_as_by_brute_force(rows: list[tuple[str, str, str]]) -> None:
    counting = Anonymising([Column("x"), Column("y")], ["s"])
    classes: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for x, y, s in rows:
        counting.add({"x": x, "y": y, "s": s})
        classes[x, y][s] += 1
    found = counting.result(3, 2)
    sizes = [counts.total() for counts in classes.values()]
    assert (found.rows, found.classes, found.k) == (len(rows), len(classes), min(sizes))
    assert found.rows_below == sum(size for size in sizes if size < 3)
    assert found.single_rows == sizes.count(1)
    assert sum(found.sizes.values()) == len(classes)
    assert found.diversity["s"].distinct_l == min(len(counts) for counts in classes.values())
    entropies = [
        -sum(n / counts.total() * math.log(n / counts.total()) for n in counts.values())
        for counts in classes.values()
    ]
    assert found.diversity["s"].entropy_l == pytest.approx(math.exp(min(entropies)), abs=1e-5)


def test_values_that_join_to_the_same_text_are_told_apart() -> None:
    counting = Anonymising([Column("x"), Column("y")], [])
    counting.add({"x": "a\0b", "y": "c"})
    counting.add({"x": "a", "y": "b\0c"})
    counting.add({"x": "a\0" + "1:b", "y": "c"})
    assert counting.result(2, 1).classes == 3


@pytest.mark.parametrize(
    ("text", "value", "becomes"),
    [
        ("zip:3", "13053", "130"),
        ("age/10", "37", "3"),
        ("age/10", "-1", "-1"),
        ("age/10", "unknown", "unknown"),
        ("age/10", "inf", "inf"),
        ("a:b", " x ", "x"),
    ],
)
def test_columns_are_taken_as_coarse_as_asked(text: str, value: str, becomes: str) -> None:
    assert Column.parse(text).of(value) == becomes
    assert str(Column.parse(text)) == text


@pytest.mark.parametrize("text", ["", "zip:0", "age/0"])
def test_columns_that_say_nothing_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"column|coarser"):
        Column.parse(text)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[IntakeHome]:
    with intake_home(tmp_path / "home") as made:
        yield made


def measured(home: IntakeHome, folder: Path, spec: ImportSpec, *columns: str) -> TableReport:
    record = import_source(
        "patients",
        folder,
        spec,
        actor="asker",
        ledger=home.ledger,
        backend=home.backend,
        store=home.store,
        progress=SILENT,
        clock=home.clock,
        locks=home.locks,
    ).record
    return measure_table(
        record,
        [Column.parse(column) for column in columns],
        ["disease"],
        least_k=2,
        least_l=2,
        actor="asker",
        ledger=home.ledger,
        backend=home.backend,
        store=home.store,
        progress=SILENT,
    )


CSV = (
    'zip,birth,disease,note\n13053,1990,flu,"a, b"\n13068,1991,cold,x\n'
    "14850,1950,flu,x\n14853,1951,flu,x\nbroken,row\n"
)


def test_a_csv_that_was_imported_whole_is_measured_and_recorded_without_a_value(
    home: IntakeHome, tmp_path: Path
) -> None:
    folder = tmp_path / "tables"
    folder.mkdir()
    (folder / "patients.csv").write_text(CSV)
    (folder / "other.jsonl").write_text('{"zip": "1", "other": 2}\nno json\n')
    report = measured(home, folder, ImportSpec(form=Form.FOLDER), "zip:3", "birth/10")
    assert (report.rows, report.classes, report.k, report.holds) == (4, 2, 2, False)
    assert report.diversity["disease"].distinct_l == 1
    assert (report.lacking, report.broken) == (1, 2)
    entry = list(home.ledger.audit.entries())[-1]
    assert (entry.action, entry.detail["k"]) == ("source.table", 2)
    assert "13053" not in str(entry.detail)
    assert measured(home, folder, ImportSpec(form=Form.FOLDER), "birth/100").holds


def test_rows_that_import_split_are_put_together_again(home: IntakeHome, tmp_path: Path) -> None:
    folder = tmp_path / "split"
    folder.mkdir()
    rows = [("1305", "flu"), ("1305", "cold"), ("1485", "flu"), ("1485", "cough")]
    (folder / "rows.jsonl").write_text(
        "".join(f'{{"text": "t{n}", "zip": "{z}", "disease": "{d}"}}\n' for n, (z, d) in enumerate(rows))
    )
    spec = ImportSpec(text_column="text", extra_columns=("zip", "disease"))
    report = measured(home, folder, spec, "zip")
    assert (report.rows, report.classes, report.k, report.holds) == (4, 2, 2, True)


def test_a_source_without_such_columns_says_which_it_has(home: IntakeHome, tmp_path: Path) -> None:
    folder = tmp_path / "tables"
    folder.mkdir()
    (folder / "patients.csv").write_text("zip,name\n1,a\n")
    with pytest.raises(NoTable, match="it has name, zip") as error:
        measured(home, folder, ImportSpec(form=Form.FOLDER), "zip")
    assert "extra_columns" in error.value.hint
