"""docs/design/nodes.md says what the code does."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from stoker.core.node_settings import NodeSettings
from stoker.fleet.nodes.checks import CHECKS, WHOLE_LIMIT_S

PAGE = (Path(__file__).parents[3] / "docs/design/nodes.md").read_text()


def test_every_check_is_on_the_page_with_what_its_failure_asks_for() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (evict-now|drain-after) \|", PAGE, re.MULTILINE)
    assert rows == [(each.name, each.severity.value) for each in CHECKS]


def test_every_setting_is_on_the_page() -> None:
    for field in dataclasses.fields(NodeSettings):
        assert f"`{field.name}`" in PAGE or f"[[nodes.{field.name}]]" in PAGE, field.name
    assert f"{WHOLE_LIMIT_S} s" in PAGE
