"""docs/design/fleet.md says what the code does: kinds of events, phases, transitions, retried codes."""

from __future__ import annotations

import re
from pathlib import Path

from stoker.core.events import REQUIRED_FIELDS, EventKind, Section
from stoker.fleet.attempt import ENVIRONMENT_KEPT
from stoker.fleet.goodput import TimeKind
from stoker.fleet.launch import RETRY_CODES
from stoker.fleet.machine import TABLE
from stoker.fleet.rank_ears import RANK_KINDS
from stoker.fleet.run_state import Phase

PAGE = (Path(__file__).parent.parent.parent / "docs/design/fleet.md").read_text()


def rows(heading: str) -> list[list[str]]:
    """The cells of every table row of one chapter."""
    chapter = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in chapter.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def names(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def test_every_kind_of_event_is_on_the_page_with_its_fields() -> None:
    documented = {names(row[0])[0]: (row[1], names(row[2])) for row in rows("Events") if len(row) == 3}
    assert {kind: fields for kind, (_, fields) in documented.items()} == {
        kind.value: list(REQUIRED_FIELDS[kind]) for kind in EventKind
    }
    assert {kind for kind, (teller, _) in documented.items() if teller.startswith("rank")} == {
        kind.value for kind in RANK_KINDS
    }
    assert all(f"`{section.value}`" in PAGE for section in Section)


def test_the_table_of_transitions_is_the_code() -> None:
    table = [row for row in rows("The state machine") if len(row) == 3]
    documented = [(names(row[0])[0], given) for row in table for given in names(row[1])]
    assert documented == [(phase.value, given.__name__) for phase, given in TABLE]


def test_every_phase_and_every_kind_of_time_is_on_the_page() -> None:
    phases = [name for row in rows("The state machine") if len(row) == 2 for name in names(row[0])]
    assert phases == [phase.value for phase in Phase]
    assert {names(row[0])[0] for row in rows("Accounting")} == {kind.value for kind in TimeKind}


def test_the_errors_that_are_tried_again_are_on_the_page() -> None:
    paragraph = PAGE.split("**What is tried again.**")[1].split("\n\n")[0]
    excepted = paragraph.split("excepted")[1]
    assert {int(number) for number in re.findall(r"\b\d{2,3}\b", excepted)} == RETRY_CODES


def test_the_environment_of_ranks_is_on_the_page() -> None:
    assert all(f"`{name}`" in PAGE for name in ENVIRONMENT_KEPT)
