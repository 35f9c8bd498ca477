"""What a reviewer is shown before deciding: all that the scan measured, and each look is in the log."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient

from stoker.core.home import Home
from stoker.core.progress import SILENT
from stoker.intake.importing import import_source
from stoker.intake.measures import Measures
from stoker.intake.review import decide_review, request_review
from stoker.intake.scan_report import ScanReport, scan_and_seal
from stoker.ledger.access import create_token
from stoker.ledger.records import ReviewRecord
from stoker.spec.recipe import ImportSpec, PolicySpec
from stoker.store.cache import NodeCache
from stoker.web.app import make_app
from stoker.web.house import WebHouse
from support.intake_home import IntakeHome, intake_home

HOUR_S = 3600.0


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[IntakeHome]:
    root = tmp_path_factory.mktemp("page")
    (root / "letters").mkdir()
    (root / "letters" / "one.txt").write_text("Dear all,\nwrite to ada@example.org about the furnace.\n" * 40)
    with intake_home(root / "home") as made:
        import_source(
            "letters",
            root / "letters",
            ImportSpec(),
            actor="asker",
            ledger=made.ledger,
            backend=made.backend,
            store=made.store,
            progress=SILENT,
            clock=made.clock,
            locks=made.locks,
        )
        yield made


@pytest.fixture(scope="module")
def report(home: IntakeHome) -> ScanReport:
    return scan_and_seal(
        home.ledger.catalogue.latest_source("letters"),
        actor="asker",
        ledger=home.ledger,
        backend=home.backend,
        store=home.store,
        progress=SILENT,
        processes=1,
        measures=Measures(canaries=20),
    )


@pytest.fixture(scope="module")
def review(home: IntakeHome, report: ScanReport) -> ReviewRecord:
    return request_review(
        home.ledger.catalogue.latest_source("letters"),
        report.digest,
        PolicySpec(),
        purpose="research",
        requested_by="asker",
        valid_s=HOUR_S,
        ledger=home.ledger,
        clock=home.clock,
    )


def browser(home: IntakeHome, name: str) -> TestClient:
    cache = NodeCache(home.root / "cache", home.store, 1 << 26)
    parts = WebHouse(Home(home.root), home.ledger, home.backend, home.store, cache, home.clock)
    _, token = create_token(name, ["all"], HOUR_S, by=None, ledger=home.ledger, clock=home.clock)
    client = TestClient(make_app(parts, hosts=("127.0.0.1",), secure=False), base_url="http://127.0.0.1")
    assert client.post("/login", data={"token": token}, follow_redirects=False).status_code == 303
    return client


def looks(home: IntakeHome) -> list[str]:
    return [entry.actor for entry in home.ledger.audit.entries() if entry.action == "review.examples"]


def test_the_page_says_what_was_measured_and_what_is_not_covered(
    home: IntakeHome, review: ReviewRecord, report: ScanReport
) -> None:
    page = browser(home, "decider").get(f"/reviews/{review.id}").text
    email = report.recall["email"]
    assert f"{email.value:.3f} ({email.low:.3f} to {email.high:.3f})" in page
    planted = [kind for kind, count in report.counts.items() if not count and kind in report.recall]
    assert planted and all(f"<td>{kind}</td><td>0</td>" in page for kind in planted)
    assert "not measured: no audit sample" in page
    assert report.not_covered
    plain = re.sub("&#39;", "'", page)
    assert all(sentence in plain for sentence in report.not_covered)


def test_every_look_at_lines_of_the_source_is_recorded_and_only_reviewers_have_one(
    home: IntakeHome, review: ReviewRecord, report: ScanReport
) -> None:
    assert report.examples
    before = looks(home)
    with browser(home, "decider") as decider:
        for _ in range(3):
            assert "Examples, with what was found masked" in decider.get(f"/reviews/{review.id}").text
    with browser(home, "asker") as asker:
        assert "Examples, with" not in asker.get(f"/reviews/{review.id}").text
    assert looks(home) == [*before, "decider", "decider", "decider"]


def test_an_approval_whose_time_is_over_is_shown_as_expired(home: IntakeHome, review: ReviewRecord) -> None:
    decide_review(
        review.id,
        approve=True,
        reason="fine",
        decided_by="decider",
        ledger=home.ledger,
        backend=home.backend,
        clock=home.clock,
    )
    for word in ("approved</span>", "approved, expired</span>"):
        with browser(home, "asker") as asker:
            assert word in asker.get(f"/reviews/{review.id}").text
            assert word in asker.get("/").text
        home.clock.sleep(HOUR_S)
