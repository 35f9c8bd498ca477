"""The design page names every reason, kind, transition, error and limit that the code has."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

from stoker.core.errors import ERROR_CLASSES, ROOM_EXIT_CODES
from stoker.intake import errors, importing, plan, scan_report, source_index, walk
from stoker.intake.review_machine import TRANSITIONS
from stoker.ledger.records import ReviewState
from stoker.spec.recipe import Kind

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/design/intake.md").read_text()


def section(heading: str) -> str:
    """The part of the page under `heading`, up to the next heading of any level."""
    return re.split(r"^#+ ", PAGE.split(f"# {heading}\n")[1], flags=re.MULTILINE)[0]


def test_every_reason_and_kind_is_explained() -> None:
    listed = re.findall(r"`([a-z0-9_]+)`", " ".join(re.findall(r"^\| (`.*?) \|", section("Import"), re.M)))
    assert set(listed) == {str(reason) for reason in walk.Reason}
    kinds = (ROOT / "docs/design/detect.md").read_text().split("## Kinds\n")[1].split("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` \|", kinds, re.M) == [str(kind) for kind in Kind]


def test_the_table_of_the_reviews_life_is_the_codes() -> None:
    rows = re.findall(
        r"^\| (\w+(?:, \w+)?) \| (.+?) \| (.+?) \| (.+?) \| (.+?) \| (.+?) \|$", section("Review"), re.M
    )
    events = list(dict.fromkeys(event for _, event in TRANSITIONS))
    found = {
        (ReviewState(state), event): ReviewState(after)
        for names, *afters in rows
        for state in names.split(", ")
        for event, after in zip(events, afters, strict=True)
        if after != "–" and state in set(ReviewState)
    }
    assert [event.__name__ for event in events] == ["Scan", "Approve", "Deny", "AskChanges", "Revoke"]
    assert found == dict(TRANSITIONS)


def test_every_error_is_listed_with_its_code() -> None:
    listed = []
    for names, first, last in re.findall(r"^\| (`.+?) \| (\d+) to (\d+) \|", section("What can fail"), re.M):
        row = re.findall(r"`(\w+)`", names)
        assert len(row) == int(last) - int(first) + 1
        listed += row
    codes = [code for code in ROOM_EXIT_CODES["intake"] if code in ERROR_CLASSES]
    assert listed == [ERROR_CLASSES[code].__name__ for code in codes]
    assert errors.OtherPolicy.exit_code == 89


def test_the_limits_of_the_page_are_the_codes() -> None:
    assert f"about {importing.SHARD_BYTES >> 20} MiB" in section("Import")
    assert f"more than {walk.MAX_DEPTH} folders deep" in section("Import")
    assert f"`{walk.CANARY_NAME}`" in section("Import")
    assert source_index.MAX_INDEX_BYTES == 1 << 30
    assert "At most 2^30 bytes" in section("Source index")
    assert f"at most {scan_report.MAX_REPORT_BYTES >> 20} MiB" in section("Scan report")
    assert f'"{scan_report.REPORT_FORMAT}"' in section("Scan report")
    assert scan_report.EXAMPLES == 8
    assert "the eight findings" in section("Scan report")
    pages = f"{plan.MIN_PAGE_BYTES >> 10} KiB at least and {plan.MAX_PAGE_BYTES >> 20} MiB at the most"
    assert pages in section("Prepare")


def test_the_command_behind_the_figures_runs() -> None:
    """The scan's bench runs whole; the one of preparation takes too long for a test."""
    command = [sys.executable, str(ROOT / "bench/review.py"), "--json", "--quick"]
    result = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    assert set(result) == {"bench", "figures", "peers", "environment", "method"}
    names = {
        "coverage",
        "precision",
        "set",
        "find_source",
        "redact",
        "python_re",
        "worst_hostile",
        "findings",
    }
    assert names <= set(result["figures"])
    assert result["figures"]["findings"]["value"] > 0
