"""The table of permissions on the page is the one in the code."""

from __future__ import annotations

import re
from pathlib import Path

from stoker.ledger.permissions import RULES, Deed
from stoker.ledger.records import Role

PAGE = (Path(__file__).parents[2] / "docs/design/ledger.md").read_text()


def test_the_table_on_the_page_is_the_table_in_the_code() -> None:
    section = PAGE.split("## Permissions")[1].split("### Tokens")[0]
    told: dict[str, frozenset[Role]] = {}
    for line in section.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| `"):
            roles = frozenset(role for role, cell in zip(Role, cells[1:6], strict=True) if cell == "may")
            told |= dict.fromkeys(re.findall(r"`([a-z_.]+)`", cells[0]), roles)
    elsewhere = {Deed.WITNESS, Deed.QUICKSTART, Deed.DATASET_SAMPLE}
    assert told == {deed.value: RULES[deed].roles for deed in Deed if deed not in elsewhere}
