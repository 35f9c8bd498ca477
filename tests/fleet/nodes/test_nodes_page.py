"""docs/design/nodes.md says what the code does."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from stoker.core.node_settings import NodeSettings
from stoker.fleet.nodes.checks import CHECKS, WHOLE_LIMIT_S
from stoker.fleet.nodes.node_acts import ACTIONS
from stoker.fleet.nodes.node_machine import TABLE
from stoker.fleet.nodes.node_state import Phase

PAGE = (Path(__file__).parents[3] / "docs/design/nodes.md").read_text()


def test_every_check_is_on_the_page_with_what_its_failure_asks_for() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (evict-now|drain-after) \|", PAGE, re.MULTILINE)
    assert rows == [(each.name, each.severity.value) for each in CHECKS]


def test_every_setting_is_on_the_page() -> None:
    for field in dataclasses.fields(NodeSettings):
        assert f"`{field.name}`" in PAGE or f"[[nodes.{field.name}]]" in PAGE, field.name
    assert f"{WHOLE_LIMIT_S} s" in PAGE


def test_the_phases_and_the_table_of_transitions_are_the_code() -> None:
    chapter = PAGE.split("## The state machine")[1].split("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` \| `(\w+)` \|", chapter, re.MULTILINE) == [
        (phase.value, event.__name__) for phase, event in TABLE
    ]
    assert re.findall(r"^\| `(\w+)` \| [^`|]+ \|$", chapter, re.MULTILINE) == [each.value for each in Phase]
    assert all(f"`{action}`" in PAGE for action in ACTIONS.values())
