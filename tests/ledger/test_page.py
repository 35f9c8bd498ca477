"""The ledger's design page names every finding, table, error, state and leaf key that the code has."""

from __future__ import annotations

import json
import re
from pathlib import Path

from stoker.core.errors import ERROR_CLASSES
from stoker.ledger import entries, findings, keyfile, notes, schema, verification
from stoker.ledger.catalogue import REVIEW_STEPS

PAGE = (Path(__file__).parents[2] / "docs/design/ledger.md").read_text()


def test_every_finding_is_explained() -> None:
    listed = set(re.findall(r"`([a-z_]+)`", PAGE.split("| finding |")[1].split("\n\n")[0]))
    assert listed == {str(kind) for kind in findings.FindingKind}
    assert f"{verification.MAX_FINDINGS:,} findings" in PAGE
    assert f"more than {verification.CLOCK_TOLERANCE_S:.0f} second before" in PAGE


def test_every_table_is_listed_with_its_key() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+?) \|", PAGE.split("| table |")[1].split("\n\n")[0], re.M))
    assert set(rows) == {*schema.metadata.tables, schema.schema_version.name}
    for name, table in schema.metadata.tables.items():
        for column in table.primary_key.columns:
            assert f"`{column.name}`" in rows[name]


def test_every_error_is_explained() -> None:
    first, last, *others = [ERROR_CLASSES[code].__name__ for code in (20, 24, 25, 26, 27, 28, 29)]
    section = PAGE.split("| error |")[1].split("\n\n")[0]
    assert f"`{first}` … `{last}`" in section
    assert all(f"| `{name}` |" in section for name in others)


def test_the_leaf_has_exactly_the_keys_of_the_page() -> None:
    section = PAGE.split("### Leaves")[1].split("### The tree")[0]
    listed = re.findall(r"^\| `(\w+)` \|", section, re.M)
    assert listed == list(json.loads(entries.leaf_bytes(0, 0.0, "a", "b", "c", {}, ())))


def test_the_figures_of_the_formats_are_those_of_the_code() -> None:
    assert f"At most {notes.MAX_NOTE_BYTES:,} bytes are read" in PAGE
    assert f"`{keyfile._HEADING}`" in PAGE
    assert f"The version is {schema.SCHEMA_VERSION}." in PAGE
    assert sum(len(after) for after in REVIEW_STEPS.values()) == PAGE.count(" yes ")
