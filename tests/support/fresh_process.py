"""Tests marked `fresh_process` run in an interpreter in which no other module's tests ran.

Ranks are forked from it, and what a test before them left in the process, such as torch's engine for backward
passes, would go along. All of a module that are marked run there at once, when the first of them is due.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

import pytest

WITHIN = "STOKER_TEST_IN_FRESH_PROCESS"

_told: dict[Path, dict[str, str]] = {}
"""By module: what each of its tests failed with, empty for one that passed."""


def wants_one(item: pytest.Item) -> bool:
    """Whether `item` asks for an interpreter of its own and does not have it."""
    return item.get_closest_marker("fresh_process") is not None and WITHIN not in os.environ


def report_of(item: pytest.Item) -> pytest.TestReport:
    """How the test ended there."""

    def look() -> None:
        told = _told.get(item.path)
        if told is None:
            chosen = item.session.items
            mine = [each.nodeid for each in chosen if each.path == item.path and wants_one(each)]
            told = _told[item.path] = _run(mine, item.config.rootpath)
        failure = told.get(item.name, "It did not run in its interpreter.")
        if failure:
            pytest.fail(failure, pytrace=False)

    return pytest.TestReport.from_item_and_call(item, pytest.CallInfo.from_call(look, "call"))


def _run(tests: list[str], root: Path) -> dict[str, str]:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        words = ("-q", "-p", "no:cacheprovider", "-o", "junit_logging=all", f"--junitxml={report}")
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *words, *tests],
            cwd=root,
            env={**os.environ, WITHIN: "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        if not report.exists():
            pytest.fail(f"{done.stdout}\n{done.stderr}", pytrace=False)
        found = {}
        for case in ElementTree.parse(report).iter("testcase"):
            bad = [each for each in case if each.tag in ("failure", "error", "skipped")]
            found[case.get("name", "")] = "\n".join(each.text or each.get("message", "") for each in bad)
        return found
