"""Every attack in the list has a test that is named after it."""

from __future__ import annotations

import csv
import re
from pathlib import Path

TESTS = Path(__file__).parent
ATTACKS = {row["id"]: row for row in csv.DictReader((TESTS / "attacks.csv").open(newline=""))}


def named_tests() -> dict[str, list[str]]:
    """The tests that carry an attack's number, by its id."""
    found: dict[str, list[str]] = {}
    for path in sorted(TESTS.rglob("test_*.py")):
        for name, number in re.findall(
            r"^(?:async )?def (test_atk_(\d+)_\w+)\(", path.read_text(), re.MULTILINE
        ):
            found.setdefault(f"ATK-{int(number):03d}", []).append(f"{path.name}::{name}")
    return found


def test_every_attack_of_the_list_is_tried() -> None:
    assert len(ATTACKS) == 40
    tests = named_tests()
    missing = {id: row["input_or_attack"] for id, row in ATTACKS.items() if id not in tests}
    assert missing == {}
    assert sorted(set(tests) - set(ATTACKS)) == [], "a test that names an attack that is not in the list"
