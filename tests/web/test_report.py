"""A run's page: every figure on it, gaps as gaps, hostile text as text, nothing loaded from outside."""

from __future__ import annotations

import dataclasses
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from stoker.core.ids import ReviewId, RunId, VersionId
from stoker.fleet.feed_waits import FeedWaits
from stoker.fleet.goodput import Goodput, TimeKind
from stoker.fleet.lineage import Lineage
from stoker.fleet.measured import MeasuredFigure
from stoker.fleet.recoveries import Recovery
from stoker.fleet.stragglers import NONE_TOLD
from stoker.fleet.summary import EvaluationFigure, RunReport, StepPoint
from stoker.ledger.records import RunOutcome
from stoker.web.report import render_report

HOSTILE = "<script>alert('x')</script>\"&\x1b[31m"


def step(number: int, loss: float | None, attempt: int = 1, stands: bool = True) -> StepPoint:
    return StepPoint(number, attempt, float(number), loss, 0.01, 1.0, 64, stands)


@pytest.fixture
def report() -> RunReport:
    seconds = dict.fromkeys(TimeKind, 0.0) | {TimeKind.PRODUCTIVE: 60.0, TimeKind.LOST: 20.0}
    goodput = Goodput(80.0, seconds, 0.75, 4, 1, 256, 64, 4.3, 3.2, 2, 1, 1, 0, 80.0, 80.0, seconds, 0.0, 0)
    lineage = Lineage(
        "text",
        VersionId("1" * 32),
        "2" * 64,
        "dataset/text#1",
        "notes",
        VersionId("3" * 32),
        "4" * 64,
        "5" * 64,
        ReviewId("rev-1"),
        "ada",
        "ben",
        "research",
        "run/r-1#1",
    )
    steps = (step(1, 3.0), step(2, 2.5, stands=False), step(2, 2.5, 2), step(3, None, 2), step(4, 2.0, 2))
    recovery = Recovery(1, 1, "ended by signal 9", True, 2, 2.0, 2.1, 1, 5.0, 6.0)
    figures = tuple(
        EvaluationFigure(name, value, 100, None, 0.5) for name, value in (("model", 1.5), ("xz", None))
    )
    values = {
        "run": RunId("r-1"),
        "name": "small",
        "outcome": RunOutcome.FINISHED,
        "started_by": "ada",
        "started_s": 0.0,
        "ended_s": 80.0,
        "spec_digest": "6" * 64,
        "steps_planned": 4,
        "parameters": 1000,
        "steps": steps,
        "checkpoints": (),
        "recoveries": (recovery,),
        "evaluations": figures,
        "measured": (),
        "early_stop": None,
        "sample": "def f():",
        "goodput": goodput,
        "isolation": None,
        "lineage": lineage,
        "cut_lines": 0,
        "feed": FeedWaits(3, 0.5, 0.25, 1, 0.5, 3, 1, 0.125),
        "stragglers": NONE_TOLD,
    }
    defaults = {
        field.name: None if field.name == "error" else False
        for field in dataclasses.fields(RunReport)
        if field.name not in values
    }
    return RunReport(**values, **defaults)  # type: ignore[arg-type]


def as_xml(page: str) -> ElementTree.Element:
    body = re.sub(r"<!doctype html>|<meta[^>]*>|<style>.*?</style>", "", page, flags=re.S)
    return ElementTree.fromstring(body)


def test_the_page_is_whole_and_holds_the_figures(report: RunReport) -> None:
    page = render_report(report)
    text = " ".join(as_xml(page).itertext())
    for shown in (
        "1.500",
        "0.750",
        "of 4 steps",
        "rank 1 ended by signal 9, on purpose",
        "60.0 s",
        "25.0%",
        "2" * 64,
        "[feed]  3 steps waited 0.500 s for data in all, 25.00% of step time, worst 500.0 ms at 3",
    ):
        assert shown in text
    assert not re.search(r"""(src|href)\s*=|url\(|@import|https?:""", page)


def test_a_loss_that_is_missing_is_a_gap_and_a_figure_that_is_missing_a_dash(report: RunReport) -> None:
    root = as_xml(render_report(report))
    raw = [each for each in root.iter("polyline") if each.get("class") == "raw"]
    assert [len(each.attrib["points"].split()) for each in raw] == [2, 1]
    assert any(row.findtext("td") == "xz" and row.findall("td")[1].text == "-" for row in root.iter("tr"))


def test_kill_and_recovery_are_marked(report: RunReport) -> None:
    marks = [each.get("class") for each in as_xml(render_report(report)).iter("g")]
    assert marks == ["mark kill", "mark recovery"]


def test_hostile_text_stays_text(report: RunReport) -> None:
    lineage = dataclasses.replace(report.lineage, dataset=HOSTILE, requested_by=HOSTILE)
    hostile = dataclasses.replace(
        report, name=HOSTILE, started_by=HOSTILE, sample="</pre>" + HOSTILE, lineage=lineage
    )
    page = render_report(hostile)
    assert "<script" not in page
    as_xml(page.replace("\x1b", ""))


def test_what_an_objective_measured_on_records_stands_in_place_of_bits_per_byte(report: RunReport) -> None:
    measured = (MeasuredFigure("f1<", 0.97, 906), MeasuredFigure("ece", None, 906))
    page = render_report(dataclasses.replace(report, measured=measured))
    assert "<td>f1&lt;</td><td>0.9700</td>" in page
    assert "On 906 held-out records." in page
    assert "bits per byte</th>" not in page


def test_a_run_without_steps_or_evaluations_says_so(report: RunReport) -> None:
    page = render_report(dataclasses.replace(report, steps=(), evaluations=(), recoveries=(), sample=None))
    assert "No points were measured" in page
    assert "The run was not evaluated" in page
    assert "Nothing failed" in page


def test_the_page_is_written_whole_with_a_narrow_mode(report: RunReport, tmp_path: Path) -> None:
    from stoker.core.home import Home
    from stoker.web.report import write_report

    path = write_report(report, Home(tmp_path), tmp_path / "page.html")
    assert path.read_text() == render_report(report)
    assert path.stat().st_mode & 0o777 == 0o600
